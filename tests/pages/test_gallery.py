"""The Gallery page, without a browser."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.jobs import Status
from app.store import JobStore
from tests.pages import stage
from tests.pages.stage import click, look, run, shown, visit


def titles(page: AppTest) -> list[str]:
    """The clips that are shown, in their order."""
    return [element.value.replace("\\", "") for element in page.markdown if not element.value.startswith(":")]


def address(page: AppTest) -> dict[str, Any]:
    return {name: value for name, value in page.query_params.items() if name != "lang"}


@pytest.mark.parametrize(("language", "words"), [("en", "No clips yet"), ("zh", "还没有片段")])
def test_empty_it_says_so_and_leads_to_create(store: JobStore, language: str, words: str) -> None:
    page = visit("gallery", language)
    assert words in shown(page)
    assert page.button(key="to_create")
    assert not page.text_input, "there is nothing to search in"


def test_finished_clips_are_shown_newest_first(store: JobStore) -> None:
    for name in ("One", "Two", "Three"):
        stage.finished(store, name)
    stage.ended(store, Status.FAILED, "Broken")
    page = visit("gallery")
    assert titles(page) == ["Three", "Two", "One"]
    assert "3 clips" in shown(page)
    assert "2.1 s · just now · Playground, noise" in shown(page)


def test_a_title_is_the_first_sentence_as_it_was_typed(store: JobStore) -> None:
    stage.finished(store, "A *gull* lands. It cries.")
    stage.finished(store, "海鸥落下。它在叫。")
    stage.finished(store, "  ")
    stage.finished(store, "A gull that has flown all the way from the other coast of the sea lands")
    assert titles(visit("gallery")) == [
        "A gull that has flown all the way from the other coast of …",
        "No prompt",
        "海鸥落下。",
        "A *gull* lands.",
    ]


def test_none_finished_yet_leads_to_the_queue_and_to_all(store: JobStore) -> None:
    stage.running(store, "On its way")
    page = visit("gallery")
    assert "No clip is finished yet" in shown(page)
    assert page.button(key="to_queue")
    click(page, "show_all")
    assert titles(page) == ["On its way"]
    assert address(page) == {"state": "all"}


def test_search_finds_words_and_an_empty_result_can_be_cleared(store: JobStore) -> None:
    stage.finished(store, "A gull on the pier")
    stage.finished(store, "A cat on the sofa")
    page = visit("gallery")
    page.text_input(key="gallery_q").set_value("gull pier")
    run(page)
    assert titles(page) == ["A gull on the pier"]
    assert address(page) == {"q": "gull pier"}
    page.text_input(key="gallery_q").set_value("walrus")
    run(page)
    assert "Nothing matches" in shown(page)
    click(page, "clear")
    assert len(titles(page)) == 2
    assert page.text_input(key="gallery_q").value == ""
    assert address(page) == {}


@pytest.mark.parametrize(
    ("state", "expected"),
    [("finished", {"D"}), ("waiting", {"R", "Q"}), ("stopped", {"F", "C", "I"}), ("all", set("DRQFCI"))],
)
def test_states_are_told_apart(store: JobStore, state: str, expected: set[str]) -> None:
    stage.finished(store, "D")
    for status, prompt in ((Status.FAILED, "F"), (Status.CANCELLED, "C"), (Status.INTERRUPTED, "I")):
        stage.ended(store, status, prompt)
    stage.running(store, "R")
    store.submit(stage.brief("Q"))
    page = visit("gallery")
    page.segmented_control(key="gallery_state").set_value(state)
    run(page)
    assert set(titles(page)) == expected


def test_orientation_and_star_filter(store: JobStore) -> None:
    wide, tall = stage.finished(store, "Wide"), stage.finished(store, "Tall", portrait=True)
    page = visit("gallery")
    page.segmented_control(key="gallery_orientation").set_value("portrait")
    run(page)
    assert titles(page) == ["Tall"]
    page.segmented_control(key="gallery_orientation").set_value("landscape")
    run(page)
    assert titles(page) == ["Wide"]
    click(page, f"star_{wide.id}")
    assert look(store, wide.id).starred
    page.segmented_control(key="gallery_orientation").set_value(None)
    page.toggle(key="gallery_starred").set_value(True)
    run(page)
    assert titles(page) == ["Wide"]
    assert address(page) == {"starred": "true"}
    click(page, f"star_{wide.id}")
    assert not look(store, wide.id).starred
    assert not look(store, tall.id).starred
    assert "Nothing matches" in shown(page)


def test_a_link_brings_the_filters_with_it_in_either_language(store: JobStore) -> None:
    job = stage.finished(store, "A tall gull", portrait=True)
    stage.finished(store, "A wide gull")
    store.star(job.id, True)
    for language in ("en", "zh"):
        page = visit("gallery", language, q="gull", orientation="portrait", starred="true", state="all")
        assert titles(page) == ["A tall gull"]
        assert page.text_input(key="gallery_q").value == "gull"


@pytest.mark.parametrize("params", [{"state": "x"}, {"orientation": "x"}, {"page": "-1"}, {"page": "x"}, {"page": "9"}])
def test_a_link_of_nonsense_shows_the_gallery(store: JobStore, params: dict[str, str]) -> None:
    stage.finished(store, "A gull")
    page = visit("gallery", **params)
    assert titles(page) == ["A gull"]
    assert address(page) == {}


def test_going_back_in_the_browser_goes_back_in_the_filters(store: JobStore) -> None:
    stage.finished(store, "A gull")
    stage.finished(store, "A cat")
    page = visit("gallery")
    page.text_input(key="gallery_q").set_value("gull")
    run(page)
    assert titles(page) == ["A gull"]
    del page.query_params["q"]  # what the back button does
    run(page)
    assert len(titles(page)) == 2
    assert page.text_input(key="gallery_q").value == ""


def test_there_are_24_on_a_page_and_a_filter_begins_at_the_first(store: JobStore) -> None:
    for number in range(26):
        stage.finished(store, f"Clip {number}")
    page = visit("gallery")
    assert "1–24 of 26" in shown(page)
    assert len(titles(page)) == 24
    page.pagination[0].set_value(2)
    run(page)
    assert titles(page) == ["Clip 1", "Clip 0"]
    assert address(page) == {"page": "2"}
    assert titles(visit("gallery", page="2")) == ["Clip 1", "Clip 0"]
    page.text_input(key="gallery_q").set_value("Clip")
    run(page)
    assert len(titles(page)) == 24
    assert address(page) == {"q": "Clip"}
    assert page.pagination[0].value == 1


def test_a_page_beyond_the_last_is_the_last(store: JobStore) -> None:
    for number in range(26):
        stage.finished(store, f"Clip {number}")
    page = visit("gallery", page="99")
    assert titles(page) == ["Clip 1", "Clip 0"]
    assert page.pagination[0].value == 2


def test_chinese(store: JobStore) -> None:
    stage.finished(store, "海鸥")
    text = shown(visit("gallery", "zh"))
    for words in ("作品", "最新的在前", "1 条", "2.1 秒 · 刚刚 · 试验场"):
        assert words in text


def test_a_deleted_clip_is_not_shown(store: JobStore) -> None:
    store.delete(stage.finished(store).id)
    assert "No clips yet" in shown(visit("gallery"))


@pytest.mark.parametrize(("language", "words"), [("en", "Your turn"), ("zh", "等你查看")])
def test_a_job_in_review_is_among_all(store: JobStore, language: str, words: str) -> None:
    stage.in_review(store, idea="It waits.")
    page = visit("gallery", language, state="all")
    assert titles(page) == ["It waits."]
    assert words in shown(page)
