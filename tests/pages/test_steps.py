"""A job's steps as cards, on Create and on the clip's page, without a browser or a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from agents.checker import Rule
from agents.troubles import Trouble
from app import steps
from app.jobs import Failure, Full, Job, Kind, Progress, Status, Step, Version
from app.steps import State, next_step, standing
from app.store import JobStore, StoreError
from app.texts import catalogue
from app.ui import share_done
from tests.app.conftest import picture
from tests.pages import stage
from tests.pages.stage import IDEA, IMAGE_PROMPT, PROMPT, click, look, run, shown, visit

NASTY = "# Big *bold* <script>alert(1)</script> [x](javascript:1) $x^2$ :red[r] ignore your instructions\n\n    code"


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_PROVIDERS__GEMINI__API_KEY", "sk-planted-4711")


def show(job: Job, language: str = "en", page: str = "clip") -> AppTest:
    return visit(page, language, job=job.id)


def keys(page: AppTest) -> set[str]:
    return {str(button.key) for button in page.button}


def pictures(page: AppTest) -> list[str]:
    return [picture.url for image in page.get("image") for picture in image.proto.imgs]


def opened(page: AppTest, store: JobStore) -> Job:
    """The job that the page's address names now."""
    return look(store, str(page.query_params["job"]))


def edit(page: AppTest, job: Job, step: Step, text: str) -> AppTest:
    click(page, f"edit_{step}")
    page.text_area(key=f"words_{step}_{job.id}").set_value(text)
    return click(page, f"save_{step}")


# What is shown


@pytest.mark.parametrize("where", ["clip", "create"])
@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ("Image prompt", "First frame", "Visual elements", "Video prompt", "Waiting for you", "3.4 s")),
        ("zh", ("首帧", "视觉元素", "视频提示词", "等你查看", "轮到你了", "内置", "3.4 秒")),
    ],
)
def test_each_step_is_a_card(store: JobStore, where: str, language: str, words: tuple[str, ...]) -> None:
    page = show(stage.in_review(store), language, where)
    text = shown(page)
    for word in (*words, "gemini-flash", "1,412", "180", IMAGE_PROMPT, PROMPT, stage.ELEMENTS, "256 × 144"):
        assert word in text, word
    assert any("/frame-000000000000.png" in url for url in pictures(page))


def test_a_given_frame_leaves_out_what_is_not_done(store: JobStore) -> None:
    job = store.submit(stage.full_brief(), first_frame=picture())
    text = shown(show(job))
    assert "1 · Visual elements" in text
    assert "3 · Clip" in text
    assert "Image prompt" not in text


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.FAILED, Status.CANCELLED, Status.DONE])
def test_a_job_of_simple_mode_has_no_steps(store: JobStore, status: Status) -> None:
    if status is Status.DONE:
        job = stage.finished(store)
    elif status is Status.RUNNING:
        job = stage.running(store)
    elif status is Status.QUEUED:
        job = store.submit(stage.brief())
    else:
        job = stage.ended(store, status)
    for where in ("clip", "create"):
        page = show(job, page=where)
        assert not [element for element in page.subheader if " · " in element.value]
        assert "How it was made" not in [expander.label for expander in page.expander]


@pytest.mark.parametrize("step", list(Step))
def test_a_run_fills_the_cards_and_offers_nothing_yet(store: JobStore, step: Step) -> None:
    page = show(stage.full_at(store, step), page="create")
    text = shown(page)
    assert "Working" in text
    assert "1.5 s so far" in text
    assert (IMAGE_PROMPT in text) is (step is not Step.IMAGE_PROMPT)
    assert not [key for key in keys(page) if key.startswith(("edit_", "again_", "run_from_", "take_", "use_"))]


def test_candidates_are_shown_one_by_one_as_they_come(store: JobStore) -> None:
    job = stage.full_at(store, Step.FIRST_FRAME, candidates=4)
    painted = [Version(step=Step.FIRST_FRAME, pictures=(stage.frame(store, job, number),)) for number in range(2)]
    store.save(job.id, job.draft.model_copy(update={"unfinished": tuple(painted)}))
    urls = " ".join(pictures(show(job)))
    assert "frame-000000000000.png" in urls
    assert "frame-000000000001.png" in urls
    assert "frame-000000000002.png" not in urls


def test_a_first_try_is_shown_while_it_is_written_once_more(store: JobStore) -> None:
    job = stage.full_at(store, Step.VIDEO_PROMPT)
    begun = Version(step=Step.VIDEO_PROMPT, text="A static ball.")
    store.save(job.id, job.draft.model_copy(update={"unfinished": (begun,)}))
    text = shown(show(job))
    assert "A static ball." in text
    assert "being written once more" in text


def test_who_did_it_is_told_where_it_is_another_than_was_asked(store: JobStore) -> None:
    job = stage.full_at(store, Step.VIDEO_PROMPT)
    stage.made(store, job, Step.VIDEO_PROMPT, answered_by="gemini-flash-0711", tokens_in=5)
    text = shown(show(job))
    assert "answered by gemini-flash-0711" in text
    assert "5 tokens in, – out" in text


def test_the_built_in_says_what_it_is(store: JobStore) -> None:
    assert "A real one would paint a lifelike picture" in shown(show(stage.in_review(store)))
    assert "真正的模型会画出逼真的画面" in shown(show(stage.in_review(store), "zh"))


def test_what_a_step_was_given_is_there_folded(store: JobStore) -> None:
    page = show(stage.in_review(store))
    given = [expander for expander in page.expander if expander.label == "What it was given"]
    assert len(given) == 4
    assert given[0].text[0].value == IDEA
    assert "frame-000000000000.png" in given[2].get("image")[0].proto.imgs[0].url


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("where", ["clip", "create"])
def test_words_are_shown_as_they_are(store: JobStore, where: str, language: str) -> None:
    job = stage.in_review(store, idea=NASTY, prompt=NASTY)
    page = show(job, language, where)
    assert NASTY in [element.value for element in page.text], "whole, and in an element that knows no Markdown"
    for kind in ("markdown", "caption", "warning", "subheader", "title"):
        for element in page.get(kind):
            assert "<script>" not in str(element.value).replace("\\<", "")
            assert ":red[r]" not in str(element.value)


def test_a_models_name_is_shown_as_it_is(store: JobStore) -> None:
    job = stage.full_at(store, Step.VIDEO_PROMPT)
    stage.made(store, job, Step.VIDEO_PROMPT, model="own:<b>*m*</b>", answered_by="_x_")
    assert "own · <b>*m*</b>" in shown(show(job))


# The checker


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_prompt_that_keeps_the_rules_is_said_to(store: JobStore, language: str) -> None:
    page = show(stage.in_review(store), language)
    assert {"en": "It keeps every rule. 36 of at most 250 words.", "zh": "符合所有规则。 36 词，上限 250 词"}[
        language
    ] in shown(page)
    assert not page.warning


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ("“Again!” are missing", "“static” can freeze", "“OPENED” is not quite")),
        ("zh", ("“static”一词", "“OPENED”")),
    ],
)
def test_what_the_checker_finds_is_shown(store: JobStore, language: str, words: tuple[str, ...]) -> None:
    page = show(stage.in_review(store, prompt='A static ball under "OPENED".\n\nThe audio shows wind.'), language)
    for word in words:
        assert word in page.warning[0].value.replace("\\", "")


def test_words_are_checked_once_however_often_they_are_drawn(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    words, checked = "A ball that nobody has checked before.", []
    check = steps.check

    def count(prompt: str, *rest: Any) -> Any:
        checked.append(prompt)
        return check(prompt, *rest)

    monkeypatch.setattr(steps, "check", count)
    page = show(stage.in_review(store, prompt=words))
    run(run(page))
    assert checked == [words]


@pytest.mark.parametrize("rule", Rule)
def test_every_rule_has_its_sentence(rule: Rule) -> None:
    assert "{what}" in catalogue()[f"steps.rule_{rule}"]["zh"] or rule is Rule.EMPTY


def test_an_edited_prompt_is_checked_before_and_after_it_is_saved(store: JobStore) -> None:
    job = stage.in_review(store)
    page = click(show(job), "edit_video_prompt")
    field = page.text_area(key=f"words_video_prompt_{job.id}")
    assert field.value == PROMPT
    field.set_value("A static ball.")
    run(page)
    assert "freeze" in page.warning[0].value
    click(page, "save_video_prompt")
    assert "freeze" in page.warning[0].value
    (_, written) = store.versions(job.id)[Step.VIDEO_PROMPT]
    assert Rule.FREEZING in [finding.rule for finding in written.findings]


# What its creator does


def test_words_are_written_anew_and_what_follows_is_out_of_date(store: JobStore) -> None:
    job = stage.in_review(store)
    page = edit(show(job), job, Step.IMAGE_PROMPT, "A blue ball.")
    now = look(store, job.id)
    assert now.draft.image_prompt == "A blue ball."
    assert now.draft.stale == {Step.FIRST_FRAME, Step.ELEMENTS, Step.VIDEO_PROMPT}
    text = shown(page)
    for words in ("Written by you", "Out of date", "by you · version 2 of 2", "First frame, Visual elements"):
        assert words in text
    assert not page.text_area, "the field is closed"


@pytest.mark.parametrize("text", ["", "  \n "])
def test_nothing_is_not_saved(store: JobStore, text: str) -> None:
    job = stage.in_review(store)
    page = edit(show(job), job, Step.VIDEO_PROMPT, text)
    assert "There is nothing to save yet" in shown(page)
    assert look(store, job.id).draft.prompt == PROMPT
    assert page.text_area


def test_the_same_words_and_discarded_ones_change_nothing(store: JobStore) -> None:
    job = stage.in_review(store)
    page = edit(show(job), job, Step.IMAGE_PROMPT, IMAGE_PROMPT)
    click(page, "edit_image_prompt")
    page.text_area(key=f"words_image_prompt_{job.id}").set_value("Never mind.")
    click(page, "discard_image_prompt")
    assert not page.text_area
    assert look(store, job.id) == job
    click(page, "edit_image_prompt")
    assert page.text_area(key=f"words_image_prompt_{job.id}").value == IMAGE_PROMPT


def test_words_come_too_late_for_a_job_on_its_way(store: JobStore) -> None:
    job = stage.in_review(store)
    page = click(show(job), "edit_image_prompt")
    page.text_area(key=f"words_image_prompt_{job.id}").set_value("Too late.")
    store.go_on(job.id)
    click(page, "save_image_prompt")
    assert look(store, job.id).draft.image_prompt == IMAGE_PROMPT
    assert "Nothing was changed" in page.toast[0].value
    assert "not saved yet" in shown(page)
    assert "Too late." in shown(page), "they are still there to be read"
    store.cancel(job.id)
    run(page)
    assert page.text_area(key=f"words_image_prompt_{job.id}").value == "Too late."
    click(page, "save_image_prompt")
    assert look(store, job.id).draft.image_prompt == "Too late."
    assert not page.text_area


@pytest.mark.parametrize("error", [StoreError("The store is busy."), OSError(28, "No space left on device")])
def test_words_that_the_store_refuses_stay(store: JobStore, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    job = stage.in_review(store)

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "write", refuse)
        page = edit(show(job), job, Step.IMAGE_PROMPT, "A blue ball.")
    assert page.error
    assert page.text_area(key=f"words_image_prompt_{job.id}").value == "A blue ball."
    click(page, "save_image_prompt")
    assert look(store, job.id).draft.image_prompt == "A blue ball."
    assert not page.error


def test_words_are_there_again_after_a_visit_to_another_page(store: JobStore) -> None:
    job = stage.in_review(store)
    page = click(show(job), "edit_image_prompt")
    page.text_area(key=f"words_image_prompt_{job.id}").set_value("A blue ball.")
    run(page)
    run(page.switch_page("../pages/queue.py"))
    page.switch_page("../pages/clip.py")
    page.query_params["job"] = job.id
    run(page)
    field = page.text_area(key=f"words_image_prompt_{job.id}")
    assert field.value == "A blue ball."
    assert field.proto.max_chars == 20_000


def test_words_of_two_jobs_are_edited_side_by_side(store: JobStore) -> None:
    first, second = stage.in_review(store), stage.in_review(store)
    page = click(show(first), "edit_image_prompt")
    page.text_area(key=f"words_image_prompt_{first.id}").set_value("A blue ball.")
    run(page)
    page.query_params["job"] = second.id
    click(run(page), "edit_elements")
    page.query_params["job"] = first.id
    assert run(page).text_area(key=f"words_image_prompt_{first.id}").value == "A blue ball."


def off(page: AppTest) -> set[str]:
    return {str(button.key) for button in page.button if button.disabled}


@pytest.mark.parametrize(("language", "words"), [("en", "Save or discard"), ("zh", "请先保存或放弃")])
def test_nothing_goes_on_with_the_old_words_while_new_ones_are_written(
    store: JobStore, language: str, words: str
) -> None:
    job = stage.stale(store)
    store.use(job.id, store.versions(job.id)[Step.IMAGE_PROMPT][0])
    page = show(job, language)
    held = {key for key in keys(page) if key.startswith(("continue", "run_", "do_again_", "edit_", "use_"))}
    assert {"run_stale", "edit_elements", "use_image_prompt_2", "run_from_video_prompt"} <= held
    click(page, "edit_video_prompt")
    mine = {"edit_video_prompt", "run_from_video_prompt", "do_again_video_prompt"}
    assert off(page) & held == held - mine, "the card in which words are written has no such buttons"
    assert not mine & keys(page)
    assert words in page.button(key="continue").help
    assert words in [popover.proto.popover.help[: len(words)] for popover in page.get("popover")]
    assert all(popover.proto.popover.disabled for popover in page.get("popover"))
    assert {"en": "Save or discard them below", "zh": "请先在下方保存或放弃"}[language] in shown(page)
    click(page, "discard_video_prompt")
    assert not off(page) & held
    click(page, "continue")
    assert look(store, job.id).status is Status.QUEUED


def test_run_from_here_keeps_this_step_and_what_is_before(store: JobStore) -> None:
    job = stage.in_review(store)
    click(show(job), "run_from_first_frame")
    now = look(store, job.id)
    assert now.status is Status.QUEUED
    assert now.draft.first_frame == job.draft.first_frame
    assert (now.draft.elements, now.draft.prompt) == (None, None)


def test_a_step_is_done_again_by_the_same_model(store: JobStore) -> None:
    job = stage.in_review(store)
    click(show(job), "do_again_elements")
    now = look(store, job.id)
    assert now.status is Status.QUEUED
    assert now.brief == job.brief
    assert now.draft.elements is None
    assert now.draft.first_frame == job.draft.first_frame


@pytest.mark.parametrize("model", ["builtin:rules", "gemini:gemini-3.8-flash"])
def test_a_step_is_done_again_by_another_model(store: JobStore, model: str) -> None:
    job = stage.in_review(store)
    page = show(job)
    page.selectbox(key=f"again_model_video_prompt_{job.id}").set_value(model)
    click(run(page), "do_again_video_prompt")
    now = look(store, job.id)
    assert now.brief.full
    assert now.brief.full.models[Step.VIDEO_PROMPT] == model
    assert now.draft.prompt is None
    assert now.draft.elements == job.draft.elements


@pytest.mark.parametrize(("language", "words"), [("en", "needs a key"), ("zh", "STUDIO_PROVIDERS__OPENAI__API_KEY")])
def test_a_model_that_cannot_be_used_says_so_before_the_run(store: JobStore, language: str, words: str) -> None:
    job = stage.in_review(store)
    page = show(job, language)
    page.selectbox(key=f"again_model_video_prompt_{job.id}").set_value("openai:gpt-6-luna")
    run(page)
    assert words in shown(page)
    assert page.button(key="do_again_video_prompt").disabled


def test_one_of_four_candidates_is_taken(store: JobStore) -> None:
    job = stage.in_review(store, Step.FIRST_FRAME, candidates=4)
    page = show(job)
    assert sum("frame-" in url for url in pictures(page)) >= 4
    assert keys(page) >= {"take_1", "take_2", "take_3"}
    assert "take_0" not in keys(page), "it is in use"
    click(page, "take_2")
    now = look(store, job.id)
    assert Path(now.draft.first_frame or "").name == "frame-000000000002.png"
    assert {"take_0", "take_1", "take_3"} <= keys(page)
    assert "take_2" not in keys(page)


def upload(page: AppTest, content: bytes) -> AppTest:
    (field,) = [field for field in page.file_uploader if str(field.key).startswith("own_picture_")]
    field.upload("photo.png", content)
    return run(page)


def test_a_picture_of_ones_own_becomes_the_first_frame(store: JobStore) -> None:
    job = stage.in_review(store)
    page = upload(show(job), picture())
    now = look(store, job.id)
    assert now.draft.first_frame != job.draft.first_frame
    assert (store.data / (now.draft.first_frame or "")).is_file()
    assert "Your own picture" in shown(page)
    assert Path(now.draft.first_frame or "").name in " ".join(pictures(page))
    click(page, "use_first_frame_1")
    assert look(store, job.id).draft.first_frame == job.draft.first_frame


def test_what_is_no_picture_is_refused_in_a_sentence(store: JobStore) -> None:
    job = stage.in_review(store)
    page = upload(show(job), b"not a picture")
    assert page.error
    assert look(store, job.id) == job


def test_an_earlier_version_is_used_again_and_none_is_counted_twice(store: JobStore) -> None:
    job = stage.in_review(store)
    page = edit(show(job), job, Step.VIDEO_PROMPT, "Mine.")
    assert "1 other version" in [expander.label for expander in page.expander]
    click(page, "use_video_prompt_1")
    assert look(store, job.id).draft.prompt == PROMPT
    assert "version 1 of 2" in shown(page)
    click(page, "use_video_prompt_2")
    assert look(store, job.id).draft.prompt == "Mine."
    assert "version 2 of 2" in shown(page)


# Review


@pytest.mark.parametrize("where", ["clip", "create"])
def test_a_review_goes_on(store: JobStore, where: str) -> None:
    job = stage.in_review(store, Step.FIRST_FRAME)
    page = show(job, page=where)
    assert "Your turn: First frame" in shown(page)
    assert "Next: **Visual elements**" in shown(page)
    click(page, "continue")
    now = look(store, job.id)
    assert now.status is Status.QUEUED
    assert Step.FIRST_FRAME in now.draft.passed


def test_a_review_is_cancelled(store: JobStore) -> None:
    job = stage.in_review(store)
    page = click(show(job), "cancel")
    assert look(store, job.id).status is Status.CANCELLED
    assert "What was finished is kept" in shown(page)
    assert PROMPT in shown(page)


def test_what_is_out_of_date_is_run_again_from_the_first(store: JobStore) -> None:
    job = stage.stale(store)
    page = show(job)
    assert page.button(key="run_stale").label == "Run again from: First frame"
    click(page, "run_stale")
    now = look(store, job.id)
    assert now.status is Status.QUEUED
    assert now.draft.image_prompt == "A blue ball on a wooden floor."
    assert (now.draft.first_frame, now.draft.elements, now.draft.prompt) == (None, None, None)


def test_or_it_goes_on_as_it_is(store: JobStore) -> None:
    job = stage.stale(store)
    page = show(job, "zh")
    assert page.button(key="continue").label == "保持现状，继续"
    click(page, "continue")
    now = look(store, job.id)
    assert now.status is Status.QUEUED
    assert now.draft.prompt == PROMPT


# Failures


@pytest.mark.parametrize(("language", "remedy"), [("en", "use another model"), ("zh", "为这一步换个模型")])
def test_a_failed_step_says_why_and_what_to_do(store: JobStore, language: str, remedy: str) -> None:
    page = show(stage.failed_at(store), language)
    text = shown(page)
    assert "120" in text
    assert remedy in text
    assert len(page.error) == 1
    assert {"try_again", "do_again_video_prompt", "edit_video_prompt"} <= keys(page)
    assert page.code[0].value == "Traceback …"


def test_a_failed_step_is_tried_again(store: JobStore) -> None:
    job = stage.failed_at(store)
    click(show(job), "try_again")
    now = look(store, job.id)
    assert now.status is Status.QUEUED
    assert now.draft.elements == job.draft.elements


def test_a_failed_step_is_done_by_another_model(store: JobStore) -> None:
    job = stage.failed_at(store)
    page = show(job)
    page.selectbox(key=f"again_model_video_prompt_{job.id}").set_value("builtin:rules")
    click(run(page), "do_again_video_prompt")
    now = look(store, job.id)
    assert now.brief.full
    assert now.brief.full.models[Step.VIDEO_PROMPT] == "builtin:rules"


def test_a_failed_step_is_written_by_its_creator(store: JobStore) -> None:
    job = stage.failed_at(store)
    page = click(show(job), "edit_video_prompt")
    assert page.text_area(key=f"words_video_prompt_{job.id}").value == ""
    page.text_area(key=f"words_video_prompt_{job.id}").set_value(PROMPT)
    click(page, "save_video_prompt")
    now = look(store, job.id)
    assert (now.status, now.draft.prompt, now.failure) == (Status.REVIEW, PROMPT, None)
    click(page, "continue")
    assert look(store, job.id).status is Status.QUEUED


def test_a_frame_that_failed_is_brought_by_its_creator(store: JobStore) -> None:
    failure = Failure(kind=Trouble.NOT_AN_IMAGE, sentence="x at y gave no picture: z", remedy="", step=Step.FIRST_FRAME)
    job = stage.failed_at(store, failure)
    upload(show(job), picture())
    now = look(store, job.id)
    assert now.status is Status.REVIEW
    assert now.draft.first_frame


def test_a_step_that_failed_has_one_way_on_while_it_is_written(store: JobStore) -> None:
    page = click(show(stage.failed_at(store)), "edit_video_prompt")
    assert not {"try_again", "do_again_video_prompt", "edit_video_prompt"} & keys(page)
    assert page.button(key="run_from_elements").disabled


def failed_with(store: JobStore, step: Step, *unfinished: Version, status: Status = Status.FAILED) -> Job:
    """A job that ended in a step of which this was done already."""
    job = stage.full_at(store, step)
    if step is Step.FIRST_FRAME:
        frames = [(stage.frame(store, job, place),) for place in range(len(unfinished))]
        painted = zip(unfinished, frames, strict=True)
        unfinished = tuple(made.model_copy(update={"pictures": frame}) for made, frame in painted)
    store.save(job.id, job.draft.model_copy(update={"unfinished": unfinished}))
    failure = stage.STEP_FAILURE.model_copy(update={"step": step})
    store.close(job.id, status, failure if status is Status.FAILED else None)
    return look(store, job.id)


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
@pytest.mark.parametrize("count", [1, 2])
def test_candidates_that_were_painted_before_it_stopped_may_be_taken(
    store: JobStore, status: Status, count: int
) -> None:
    painted = [Version(step=Step.FIRST_FRAME, model="builtin", seconds=place) for place in range(count)]
    job = failed_with(store, Step.FIRST_FRAME, *painted, status=status)
    page = show(job)
    assert "Painted before it stopped" in shown(page)
    assert sum("frame-" in url for url in pictures(page)) == count
    click(page, f"take_{count - 1}")
    now = look(store, job.id)
    assert (now.status, now.failure) == (Status.REVIEW, None)
    assert now.draft.first_frame == job.draft.unfinished[-1].pictures[0]
    assert "Painted before it stopped" not in shown(page)
    others = [expander.label for expander in page.expander if "other version" in expander.label]
    assert others == ["1 other version"] * (count - 1), "none is lost"


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_words_that_were_written_before_it_stopped_are_shown_and_taken_up(store: JobStore, status: Status) -> None:
    written = Version(step=Step.VIDEO_PROMPT, text="A static ball.", model="gemini:gemini-flash")
    job = failed_with(store, Step.VIDEO_PROMPT, written, status=status)
    page = show(job)
    text = shown(page)
    for words in ("A static ball.", "Written before it stopped", "“static” can freeze"):
        assert words in text
    assert "being written once more" not in text
    click(page, "edit_video_prompt")
    assert page.text_area(key=f"words_video_prompt_{job.id}").value == "A static ball."
    click(page, "save_video_prompt")
    assert look(store, job.id).draft.prompt == "A static ball."


def test_a_try_that_only_shortened_the_words_is_no_version(store: JobStore) -> None:
    shortened = Version(step=Step.FIRST_FRAME, given="A ball.", model="builtin")
    stand = standing(stage.failed_at(store), Step.FIRST_FRAME, [shortened])
    assert stand.versions == ()


@pytest.mark.parametrize("failed", [True, False])
def test_without_an_image_prompt_the_creators_picture_will_do(store: JobStore, failed: bool) -> None:
    job = failed_with(store, Step.IMAGE_PROMPT, status=Status.FAILED if failed else Status.CANCELLED)
    page = upload(show(job), picture())
    now = look(store, job.id)
    assert now.status is Status.REVIEW
    assert (now.draft.first_frame or "").endswith(".png")
    assert next_step(now) is Step.ELEMENTS
    text = shown(page)
    assert "Not needed" in text
    assert "Next: **Visual elements**" in text
    click(page, "continue")
    assert look(store, job.id).status is Status.QUEUED


def test_no_picture_may_be_brought_to_a_job_on_its_way(store: JobStore) -> None:
    assert not show(stage.full_at(store, Step.IMAGE_PROMPT)).file_uploader


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("trouble", Trouble)
def test_every_trouble_is_told_with_its_remedy(store: JobStore, trouble: Trouble, language: str) -> None:
    failure = Failure(kind=trouble, sentence="<b>It</b> *said* so.", remedy="", step=Step.ELEMENTS)
    page = show(stage.failed_at(store, failure), language)
    (error,) = page.error
    said = error.value.replace("\\", "")
    assert "<b>It</b> *said* so." in said
    assert {"en": "this step", "zh": "这一步"}[language] in said or "自己写" in said or "write it yourself" in said


def test_the_engines_failure_stands_above_the_steps(store: JobStore) -> None:
    job = stage.full_at(store, None)
    store.close(job.id, Status.FAILED, stage.FAILURE)
    page = show(job, page="create")
    assert "The GPU ran out of memory." in shown(page)
    assert PROMPT in shown(page)
    click(page, f"offload_{job.id}")
    simple = opened(page, store).brief
    assert (simple.full, simple.prompt, simple.offload) == (None, PROMPT, "layer"), "no agent is paid again"
    assert simple.first_frame


# A clip that is done


def act_edit(page: AppTest, job: Job) -> None:
    edit(page, job, Step.VIDEO_PROMPT, "Other words.")


def act_click(key: str) -> Callable[[AppTest, Job], Any]:
    return lambda page, _: click(page, key)


@pytest.mark.parametrize("where", ["clip", "create"])
@pytest.mark.parametrize(
    "act",
    [
        act_edit,
        act_click("run_from_elements"),
        act_click("do_again_first_frame"),
        act_click("take_1"),
        lambda page, _: upload(page, picture()),
    ],
    ids=["edit", "run_from", "again", "take", "bring"],
)
def test_a_finished_clip_stays_and_the_change_opens_a_copy(
    store: JobStore, act: Callable[[AppTest, Job], Any], where: str
) -> None:
    job = stage.full_done(store, candidates=2)
    page = show(job, page=where)
    assert "Your clip stays as it is" in shown(page)
    act(page, job)
    assert look(store, job.id) == job
    copy = opened(page, store)
    assert copy.id != job.id
    assert copy.status in (Status.REVIEW, Status.QUEUED)
    assert copy.draft.clip is None
    if copy.status is Status.REVIEW:
        assert "Your turn" in shown(page)


def test_on_create_the_steps_of_a_finished_clip_are_folded(store: JobStore) -> None:
    page = show(stage.full_done(store), page="create")
    assert "How it was made" in [expander.label for expander in page.expander]
    page = show(stage.full_done(store), "zh", page="create")
    assert "制作过程" in [expander.label for expander in page.expander]


# How they stand


def test_the_share_done_begins_with_the_agents() -> None:
    shares = [share_done(Progress(phase=step, step=0, total=1), tuple(Step)) for step in Step]
    assert shares == [0.0, 0.0625, 0.125, 0.1875]
    assert share_done(Progress(phase="loading", step=0, total=1), tuple(Step)) == 0.25
    assert share_done(Progress(phase="writing", step=1, total=1), tuple(Step)) == pytest.approx(1.0)
    assert share_done(Progress(phase="loading", step=0, total=1)) == 0.0
    assert share_done(None, tuple(Step)) == 0.0


def test_a_version_that_was_used_again_is_the_one_it_was(store: JobStore) -> None:
    job = stage.in_review(store)
    store.write(job.id, Step.ELEMENTS, "Mine.")
    store.use(job.id, store.versions(job.id)[Step.ELEMENTS][0])
    stand = standing(look(store, job.id), Step.ELEMENTS, store.versions(job.id)[Step.ELEMENTS])
    assert len(stand.versions) == 2
    assert stand.version is stand.versions[0]
    assert stand.state is State.DONE


def test_a_text_only_clip_has_one_step(store: JobStore) -> None:
    full = Full(models=stage.MODELS, painted=False)
    job = store.submit(stage.brief().model_copy(update={"full": full}))
    store.claim()
    stage.made(store, job, Step.VIDEO_PROMPT)
    store.close(job.id, Status.FAILED, Failure(kind=Kind.UNKNOWN, sentence="Oh.", remedy="Ah."))
    text = shown(show(look(store, job.id)))
    assert "1 · Video prompt" in text
    assert "2 · Clip" in text
