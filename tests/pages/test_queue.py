"""The Queue page, without a browser or a worker."""

from __future__ import annotations

import time

import pytest
from filelock import FileLock
from streamlit.testing.v1 import AppTest

from app.jobs import Mode, Status, Step
from app.store import JobStore
from tests.pages import stage
from tests.pages.stage import click, look, shown, visit


def order(store: JobStore) -> list[str]:
    return [job.brief.prompt for job in store.queue()]


def waiting(store: JobStore, *prompts: str) -> list[str]:
    return [store.submit(stage.brief(prompt)).id for prompt in prompts]


@pytest.mark.parametrize(
    ("language", "words"), [("en", "Nothing runs and nothing waits"), ("zh", "没有正在运行或等待")]
)
def test_empty_it_says_so_and_leads_to_create(store: JobStore, language: str, words: str) -> None:
    page = visit("queue", language)
    assert words in shown(page)
    assert page.button(key="to_create")


def test_what_runs_and_what_waits_is_shown_in_order(store: JobStore) -> None:
    stage.running(store, "The *first* one.", step=4)
    waiting(store, "The second one.", "The third one.")
    page = visit("queue")
    text = shown(page)
    assert "1 running, 2 waiting" in text
    assert text.index("The *first* one.") < text.index("The second one.") < text.index("The third one.")
    assert page.progress[0].text == "**Making picture and sound** · step 5 of 10"
    assert 17 < page.progress[0].value < 80
    assert "done at about" in text, "the pace of this run is known"
    assert "When all is done: not known yet" in text, "nothing was measured before"
    assert "No. 1" in text
    assert "No. 2" in text


def test_once_measured_the_whole_queue_has_a_finish_time(store: JobStore) -> None:
    stage.finished(store)
    waiting(store, "One.", "Two.")
    text = shown(visit("queue"))
    assert "All done about" in text
    assert text.count("Done about") == 2


def test_in_chinese_too(store: JobStore) -> None:
    stage.running(store)
    waiting(store, "等着。")
    text = shown(visit("queue", "zh"))
    for words in ("1 个正在运行，1 个等待", "正在生成画面和声音", "第 1 位", "排队中"):
        assert words in text or words in visit("queue", "zh").progress[0].text


@pytest.mark.parametrize(
    ("to", "expected"),
    [("first", "CAB"), ("up", "ACB"), ("down", "ABC"), ("last", "ABC")],
)
def test_a_waiting_job_can_be_moved(store: JobStore, to: str, expected: str) -> None:
    last = waiting(store, "A", "B", "C")[-1]
    page = visit("queue")
    page.menu_button(key=f"move_{last}").click(to)
    stage.run(page)
    assert "".join(order(store)) == expected


def test_a_single_job_has_nowhere_to_move(store: JobStore) -> None:
    waiting(store, "A")
    assert not visit("queue").menu_button


def test_waiting_and_running_jobs_can_be_cancelled(store: JobStore) -> None:
    runs, (waits,) = stage.running(store), waiting(store, "A")
    page = visit("queue")
    click(page, f"cancel_{waits}")
    assert look(store, waits).status is Status.CANCELLED
    click(page, f"cancel_{runs.id}")
    assert look(store, runs.id).cancel
    assert page.button(key=f"cancel_{runs.id}").disabled
    assert page.button(key=f"cancel_{runs.id}").label == "Cancelling …"


def test_pausing_after_this_one_and_going_on(store: JobStore) -> None:
    stage.running(store)
    page = click(visit("queue"), "pause_after")
    assert store.mode() is Mode.FINISHING
    assert "Pausing after the running job" in shown(page)
    click(page, "resume")
    assert store.mode() is Mode.RUNNING
    assert "The queue runs" in shown(page)


def test_there_is_no_this_one_where_nothing_runs(store: JobStore) -> None:
    assert visit("queue").button(key="pause_after").disabled


def test_pausing_now_puts_the_job_back_in_front(store: JobStore) -> None:
    job = stage.running(store, "It ran.")
    waiting(store, "It waits.")
    page = click(visit("queue"), "pause_now")
    assert store.mode() is Mode.PAUSED
    assert look(store, job.id).status is Status.QUEUED
    assert order(store) == ["It ran.", "It waits."]
    assert "Paused. Nothing starts until you resume" in shown(page)
    assert "All done" not in shown(page), "while it is paused nobody knows"
    assert not [button for button in page.button if button.key == "pause_now"]
    click(page, "resume")
    assert store.mode() is Mode.RUNNING


def test_a_missing_worker_is_said_and_a_present_one_is_not(store: JobStore) -> None:
    waiting(store, "A")
    assert "No worker is running" in shown(visit("queue"))
    with FileLock(store.data / "worker.lock"):
        assert "No worker is running" not in shown(visit("queue"))


def test_a_worker_that_hangs_is_said_and_can_be_ended(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_WATCHDOG_MINUTES", "5")
    ended: list[bool] = []
    monkeypatch.setattr(JobStore, "end_worker", lambda _: ended.append(True))
    late = JobStore(store.data, clock=lambda: time.time() - 400)
    stage.running(late)
    page = visit("queue")
    assert "Nothing has been heard from the worker for 6:4" in shown(page)
    click(page, "end_worker")
    assert ended == [True]
    assert "The worker is being ended" in shown(page)


def test_a_worker_that_reports_does_not_hang(store: JobStore) -> None:
    stage.running(store)
    assert "heard from the worker" not in shown(visit("queue"))


def test_what_ended_without_a_clip_says_why_and_can_be_tried_again(store: JobStore) -> None:
    failed = stage.ended(store, Status.FAILED, failure=stage.FAILURE)
    stopped = stage.ended(store, Status.INTERRUPTED)
    dropped = stage.ended(store, Status.CANCELLED)
    stage.finished(store, "It went well.")
    page = visit("queue")
    text = shown(page)
    assert "Ended without a clip" in text
    assert "GPU" in text
    assert "It went well." not in text
    assert page.button(key=f"retry_{stopped.id}").label == "Start again"
    for job in (failed, stopped, dropped):
        click(page, f"retry_{job.id}")
        assert look(store, job.id).status is Status.QUEUED
    assert "Ended without a clip" not in shown(page)


def test_a_long_queue_is_cut_and_counted(store: JobStore) -> None:
    store.submit(stage.brief("Many."), takes=33)
    page = visit("queue")
    assert len([button for button in page.button if (button.key or "").startswith("cancel_")]) == 30
    assert "and 3 more further down" in shown(page)


def test_a_deleted_job_is_not_shown(store: JobStore) -> None:
    (job_id,) = waiting(store, "Gone.")
    store.delete(job_id)
    assert "Gone." not in shown(visit("queue"))


def test_a_job_that_comes_to_its_end_meanwhile_does_no_harm(store: JobStore) -> None:
    job = stage.running(store)
    page: AppTest = visit("queue")
    store.close(job.id, Status.DONE)
    click(page, f"cancel_{job.id}")
    assert look(store, job.id).status is Status.DONE


def test_what_waits_for_its_creator_goes_on_or_is_cancelled(store: JobStore) -> None:
    first, second = stage.in_review(store, idea="The *first* one."), stage.in_review(store, Step.FIRST_FRAME)
    page = visit("queue")
    text = shown(page)
    for words in ("Waiting for you", "The *first* one.", "Your turn: Video prompt", "Your turn: First frame", "Open"):
        assert words in text
    click(page, f"continue_{first.id}")
    assert look(store, first.id).status is Status.QUEUED
    click(page, f"cancel_{second.id}")
    assert look(store, second.id).status is Status.CANCELLED
    assert "Waiting for you" not in shown(page)


def test_what_is_out_of_date_is_decided_on_its_own_page(store: JobStore) -> None:
    job = stage.stale(store)
    page = visit("queue", "zh")
    assert "有内容已过时" in shown(page)
    assert f"continue_{job.id}" not in [button.key for button in page.button]


def test_more_than_a_few_that_wait_are_counted(store: JobStore) -> None:
    for _ in range(8):
        stage.in_review(store)
    assert "and 2 more, in the gallery" in shown(visit("queue"))


@pytest.mark.parametrize(("language", "words"), [("en", "Writing the video prompt"), ("zh", "正在写视频提示词")])
def test_an_agents_step_is_told_and_counts(store: JobStore, language: str, words: str) -> None:
    stage.full_at(store, Step.VIDEO_PROMPT)
    page = visit("queue", language)
    assert page.progress[0].text == f"**{words}**"
    assert page.progress[0].value == 18


def test_an_agents_failure_is_named(store: JobStore) -> None:
    stage.failed_at(store)
    assert "The model took too long." in shown(visit("queue"))
