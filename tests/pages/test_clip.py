"""A clip's page, without a browser."""

from __future__ import annotations

import pytest

from app.jobs import FIRST_FRAME, Status
from app.store import JobStore
from tests.app.conftest import picture
from tests.pages import stage
from tests.pages.stage import click, look, run, shown, visit


def test_a_clip_plays_by_url_and_says_how_it_was_made(store: JobStore) -> None:
    job = stage.finished(store, "A *gull* lands. It cries.", seed=42)
    page = visit("clip", job=job.id)
    (video,) = page.get("video")
    assert video.url.startswith(f"http://studio.test:8501/files/jobs/{job.id}/clip.mp4?v=")
    assert page.link_button(key="download").url == f"{video.url}&download"
    assert page.title[0].value.replace("\\", "") == "A *gull* lands."
    text = shown(page)
    for fact in ("A *gull* lands. It cries.", "256 × 144", "42", "−23.1 LUFS", "−3.2 dBTP", "48 kHz", "cuda:0"):
        assert fact in text
    for fact in ("3.0 GB", "21.0 GB", "MOVA-playground", "Making picture and sound,1:02 min", "0.4 s", "noise"):
        assert fact in text
    assert "made from text only" in text


@pytest.mark.parametrize(("language", "words"), [("en", ("Idea", "Prompt")), ("zh", ("想法", "提示词"))])
def test_a_clip_of_full_workflow_has_its_idea_and_its_prompt(
    store: JobStore, language: str, words: tuple[str, ...]
) -> None:
    page = visit("clip", language, job=stage.full_done(store).id)
    assert [header.value for header in page.header][:2] == list(words)
    assert [text.value for text in page.text][:2] == [stage.IDEA, stage.PROMPT]
    assert "text only" not in shown(page)
    assert any("/frame-000000000000.png" in image.proto.imgs[0].url for image in page.get("image"))


def test_another_take_fills_the_form_with_what_the_agents_made(store: JobStore) -> None:
    job = stage.full_done(store, seed=42)
    click(visit("clip", job=job.id), "another_take")
    form = store.form()
    assert (form["mode"], form["prompt"], form["seed"]) == ("simple", stage.PROMPT, "")
    assert (store.data / form["first_frame"]).is_file()


def test_chinese(store: JobStore) -> None:
    text = shown(visit("clip", "zh", job=stage.finished(store).id))
    for words in ("提示词", "响度", "真峰值", "各阶段用时", "正在生成画面和声音", "显存峰值", "种子"):
        assert words in text


def test_its_frames_are_shown_by_url(store: JobStore) -> None:
    job = stage.finished(store, first_frame=picture())
    page = visit("clip", job=job.id)
    (image,) = page.get("image")
    assert f"/files/jobs/{job.id}/{FIRST_FRAME}" in image.proto.imgs[0].url
    assert "text only" not in shown(page)


def test_a_star_is_given_and_taken(store: JobStore) -> None:
    job = stage.finished(store)
    page = click(visit("clip", job=job.id), "star")
    assert look(store, job.id).starred
    assert page.button(key="star").label == "Starred"
    click(page, "star")
    assert not look(store, job.id).starred


def test_a_delete_can_be_undone(store: JobStore) -> None:
    job = stage.finished(store)
    page = click(visit("clip", job=job.id), "delete")
    assert look(store, job.id).deleted_at is not None
    assert "Deleted. It is kept for a day" in shown(page)
    assert not page.get("video")
    click(page, "undo")
    assert look(store, job.id).deleted_at is None
    assert page.get("video")


def test_a_deleted_clip_can_still_be_had_back_after_a_reload(store: JobStore) -> None:
    job = stage.finished(store)
    store.delete(job.id)
    page = click(visit("clip", job=job.id), "undo")
    assert page.get("video")


def test_make_another_fills_the_form_and_goes_there(store: JobStore) -> None:
    job = stage.finished(store, "My words", seed=42)
    click(visit("clip", job=job.id), "another")
    assert store.form()["prompt"] == "My words"


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_frame_of_it_begins_the_next_one(store: JobStore, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    job = stage.finished(store)
    asked: list[str] = []
    monkeypatch.setattr("app.desk.clip_frame", lambda _, chosen: asked.append(chosen) or picture())
    page = visit("clip", job=job.id)
    page.menu_button(key="use_frame").click(which)
    run(page)
    assert asked == [which]
    assert (store.data / store.form()["first_frame"]).is_file()


@pytest.mark.parametrize("params", [{}, {"job": "../../etc/passwd"}, {"job": "0" * 32}])
def test_an_address_of_no_clip_leads_to_the_gallery(store: JobStore, params: dict[str, str]) -> None:
    page = visit("clip", **params)
    assert "Choose one in the gallery" in shown(page) or "This clip is not here" in shown(page)
    assert page.get("page_link")[0].label == "All clips"


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.INTERRUPTED])
def test_a_job_without_a_clip_is_shown_as_it_stands(store: JobStore, status: Status) -> None:
    failure = stage.FAILURE if status is Status.FAILED else None
    job = stage.ended(store, status, "Without a clip.", failure)
    page = visit("clip", job=job.id)
    assert not page.get("video")
    assert [
        button for button in page.button if "retry" in (button.key or "") or "again" in (button.key or "") or failure
    ]


def test_a_job_on_its_way_is_live(store: JobStore) -> None:
    page = visit("clip", job=stage.running(store).id)
    assert page.progress[0].text == "**Making picture and sound** · step 5 of 10"


def test_what_the_worker_noted_is_there_folded(store: JobStore) -> None:
    job = stage.finished(store)
    folder = store.data / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.log").write_text("It *went* well.\n")
    page = visit("clip", job=job.id)
    assert page.code[0].value.strip() == "It *went* well."
