from __future__ import annotations

import io
import json
import os
import sqlite3
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest
from PIL import Image

from app import estimates
from app.estimates import Timings, clip_of
from app.jobs import (
    HUNG,
    Brief,
    Draft,
    Failure,
    Job,
    Machine,
    Mode,
    Place,
    Progress,
    Rendered,
    Status,
    Wanted,
    Worker,
)
from app.store import DATABASE, MIGRATIONS, JobStore, StoreError
from mova.picture import PictureError
from mova.spec import ClipSpec
from tests.app.conftest import make_brief, picture

FAILURE = Failure(sentence="It broke.", remedy="Mend it.", details="Traceback …")


def test_a_submitted_job_is_kept_as_it_was_asked_for(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    assert job.status is Status.QUEUED
    assert job.brief == brief
    assert job.draft == Draft(prompt=brief.prompt)
    assert JobStore(store.data).get(job.id) == job


def test_an_open_seed_is_drawn_and_a_given_one_is_kept(tmp_path: Path) -> None:
    seeds = iter([11, 22])
    store = JobStore(tmp_path, seed=lambda: next(seeds))
    drawn = [store.submit(make_brief(random_seed=True)).brief.spec.seed for _ in range(2)]
    assert drawn == [11, 22]
    assert store.submit(make_brief()).brief.spec.seed == 7


def test_an_uploaded_frame_is_copied_upright(store: JobStore, brief: Brief) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    job = store.submit(brief, first_frame=picture(40, 30, kind="JPEG", exif=exif), last_frame=picture(8, 8, "blue"))
    assert job.brief.first_frame == job.draft.first_frame == f"jobs/{job.id}/first_frame.png"
    with Image.open(store.data / str(job.brief.first_frame)) as kept:
        assert (kept.format, kept.mode, kept.size) == ("PNG", "RGB", (30, 40))
    with Image.open(store.data / str(job.brief.last_frame)) as kept:
        assert kept.getpixel((0, 0)) == (0, 0, 255)


def test_what_is_no_picture_is_refused_and_queues_nothing(store: JobStore, brief: Brief) -> None:
    with pytest.raises(PictureError):
        store.submit(brief, first_frame=b"no picture")
    assert store.history() == []


def test_jobs_are_claimed_in_order_and_once(store: JobStore, brief: Brief) -> None:
    ids = [store.submit(brief).id for _ in range(3)]
    assert store.ahead(ids[2]) == 2
    assert [job.id for job in iter(store.claim, None)] == ids
    assert [job.id for job in store.history()] == ids[::-1]
    assert {job.status for job in store.history()} == {Status.RUNNING}


def test_times_come_from_the_clock(tmp_path: Path, brief: Brief) -> None:
    now = iter([1.0, 2.0, 3.0])
    store = JobStore(tmp_path, clock=lambda: next(now))
    job_id = store.submit(brief).id
    store.claim()
    store.close(job_id, Status.DONE)
    job = store.get(job_id)
    assert job
    assert (job.created_at, job.started_at, job.finished_at) == (1.0, 2.0, 3.0)


def test_progress_is_seen_by_others_and_brings_the_cancel_back(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    store.claim()
    progress = Progress(phase="denoising", step=1, total=4, seconds={"text": 0.5, "denoising": 2.0})
    assert store.report(job_id, progress) is False
    seen = JobStore(store.data).get(job_id)
    assert seen
    assert seen.progress == progress
    JobStore(store.data).cancel(job_id)
    assert store.report(job_id, progress) is True


def test_a_queued_job_is_cancelled_at_once(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    store.cancel(job_id)
    job = store.get(job_id)
    assert job
    assert job.status is Status.CANCELLED
    assert job.finished_at
    assert store.claim() is None


def test_what_a_stage_filled_in_is_kept(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    rendered = Rendered(width=64, height=48, num_frames=5, fps=10, duration=0.5, sample_rate=16000, notes=("Noted.",))
    draft = job.draft.model_copy(update={"clip": f"{job.folder}/clip.mp4", "rendered": rendered})
    store.save(job.id, draft)
    assert store.get(job.id).draft == draft  # type: ignore[union-attr]


def test_a_job_ends_once(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    store.claim()
    store.close(job_id, Status.FAILED, FAILURE)
    store.close(job_id, Status.DONE)
    store.cancel(job_id)
    job = store.get(job_id)
    assert job
    assert (job.status, job.failure, job.cancel) == (Status.FAILED, FAILURE, False)
    assert store.report(job_id, Progress(phase="text", step=0, total=1)) is True, "it is nobody's any more"


@pytest.mark.parametrize("ended", [Status.FAILED, Status.CANCELLED, Status.INTERRUPTED])
def test_a_job_without_a_clip_can_be_queued_again(store: JobStore, brief: Brief, ended: Status) -> None:
    first, second = store.submit(brief), store.submit(brief)
    store.claim()
    store.close(first.id, ended, FAILURE)
    store.requeue(first.id)
    again = store.get(first.id)
    assert again
    assert (again.status, again.failure, again.brief) == (Status.QUEUED, None, first.brief)
    assert [job.id for job in iter(store.claim, None)] == [second.id, first.id], "it goes to the end"


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.DONE])
def test_other_jobs_are_not_queued_again(store: JobStore, brief: Brief, status: Status) -> None:
    job_id = store.submit(brief).id
    if status is not Status.QUEUED:
        store.claim()
    if status is Status.DONE:
        store.close(job_id, Status.DONE)
    store.requeue(job_id)
    assert store.get(job_id).status is status  # type: ignore[union-attr]


def test_recover_closes_what_a_dead_worker_left(store: JobStore, brief: Brief) -> None:
    running, cancelled, queued = (store.submit(brief) for _ in range(3))
    store.claim()
    store.claim()
    store.cancel(cancelled.id)
    part = store.data / running.folder / "clip.mp4.part"
    part.parent.mkdir()
    part.write_bytes(b"half a clip")
    assert sorted(store.recover()) == sorted([running.id, cancelled.id])
    assert not part.exists()
    states = {job.id: job for job in store.history()}
    assert states[running.id].status is Status.INTERRUPTED
    assert states[running.id].failure
    assert states[cancelled.id].status is Status.CANCELLED
    assert states[queued.id].status is Status.QUEUED


def test_a_store_of_a_newer_studio_is_left_alone(tmp_path: Path) -> None:
    JobStore(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match=r"studio\.db was written by a newer studio .* Update the studio"):
        JobStore(tmp_path)


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("This is a letter to a friend, and no database at all.")
    with pytest.raises(StoreError, match="can't be opened"):
        JobStore(tmp_path)
    assert (tmp_path / DATABASE).read_text().startswith("This is a letter")


def test_a_data_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreError, match="--data"):
        JobStore(tmp_path / "data")


def test_prompts_of_every_kind_survive(store: JobStore) -> None:
    for prompt in (
        "",
        "{braces} 'quotes' \"double\" 100 % ; DROP TABLE jobs; --",
        "海鸥 🐦‍⬛ مرحبا",
        "&lt;b&gt;\r\n\t",
    ):
        assert store.get(store.submit(make_brief(prompt)).id).brief.prompt == prompt  # type: ignore[union-attr]


# Takes and frames


def test_each_take_is_a_job_of_its_own_with_its_own_seed_and_frames(tmp_path: Path) -> None:
    seeds = iter([11, 22, 33])
    store = JobStore(tmp_path, seed=lambda: next(seeds))
    first = store.submit(make_brief(random_seed=True), first_frame=picture(), takes=3)
    jobs = store.queue()
    assert first == jobs[0]
    assert [job.brief.spec.seed for job in jobs] == [11, 22, 33]
    assert len({job.brief.first_frame for job in jobs}) == 3
    assert all((tmp_path / str(job.brief.first_frame)).is_file() for job in jobs)


def test_takes_of_a_given_seed_count_up_from_it(store: JobStore) -> None:
    store.submit(make_brief(), takes=3)
    assert [job.brief.spec.seed for job in store.queue()] == [7, 8, 9]


def test_the_frame_of_another_job_is_copied(store: JobStore, brief: Brief) -> None:
    earlier = store.submit(brief, first_frame=picture(colour="blue"))
    later = store.submit(brief.model_copy(update={"first_frame": earlier.brief.first_frame}))
    assert later.brief.first_frame == later.draft.first_frame == f"jobs/{later.id}/first_frame.png"
    store.delete(earlier.id)
    store.purge(-1)
    assert not (store.data / earlier.folder).exists()
    with Image.open(store.data / str(later.brief.first_frame)) as kept:
        assert kept.getpixel((0, 0)) == (0, 0, 255)


def test_a_frame_that_is_not_there_queues_nothing_and_leaves_nothing(store: JobStore, brief: Brief) -> None:
    with pytest.raises(PictureError):
        store.submit(brief.model_copy(update={"last_frame": "jobs/gone/last_frame.png"}), first_frame=picture())
    assert store.history() == []
    assert list((store.data / "jobs").iterdir()) == []


# Finding


def ids(jobs: Iterable[Job]) -> list[str]:
    return [job.id for job in jobs]


@pytest.fixture
def shelf(store: JobStore) -> dict[str, str]:
    """Name -> id of four jobs: three that wait, one of them upright and starred, and one that failed."""
    portrait = make_brief("A Gull sleeps. 海鸥")
    upright = portrait.spec.model_copy(update={"width": 48, "height": 64})
    jobs = {
        "failed": store.submit(make_brief("A ship sails by. ÉTÉ")).id,
        "gull": store.submit(make_brief("A gull lands.")).id,
        "upright": store.submit(portrait.model_copy(update={"spec": upright})).id,
        "rain": store.submit(make_brief("Rain on 100 % of _all_ roofs")).id,
    }
    store.claim()
    store.close(jobs["failed"], Status.FAILED, FAILURE)
    store.star(jobs["upright"], True)
    return jobs


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(), ["rain", "upright", "gull", "failed"]),
        (Wanted(text="gull"), ["upright", "gull"]),
        (Wanted(text="LANDS gull"), ["gull"]),
        (Wanted(text="海鸥"), ["upright"]),
        (Wanted(text="été"), ["failed"]),
        (Wanted(text="100 % _all_"), ["rain"]),
        (Wanted(text="%"), ["rain"]),
        (Wanted(text="whale"), []),
        (Wanted(states=(Status.FAILED,)), ["failed"]),
        (Wanted(states=(Status.FAILED, Status.QUEUED), text="a"), ["rain", "upright", "gull", "failed"]),
        (Wanted(starred=True), ["upright"]),
        (Wanted(orientation="portrait"), ["upright"]),
        (Wanted(orientation="landscape"), ["rain", "gull", "failed"]),
        (Wanted(orientation="landscape", text="a", states=(Status.QUEUED,)), ["rain", "gull"]),
    ],
)
def test_jobs_are_found(store: JobStore, shelf: dict[str, str], wanted: Wanted, names: list[str]) -> None:
    found = store.find(wanted)
    assert ids(found.jobs) == [shelf[name] for name in names]
    assert found.total == len(names)


def test_what_is_found_comes_in_pages(store: JobStore, shelf: dict[str, str]) -> None:
    pages = [store.find(Wanted(), page, 3) for page in (1, 2, 3)]
    assert [len(page.jobs) for page in pages] == [3, 1, 0]
    assert {page.total for page in pages} == {4}
    assert ids(pages[0].jobs + pages[1].jobs) == ids(store.history())


def test_a_star_can_be_taken_away(store: JobStore, shelf: dict[str, str]) -> None:
    store.star(shelf["upright"], False)
    assert store.find(Wanted(starred=True)).total == 0


def test_two_thousand_jobs_are_read_at_once(store: JobStore, brief: Brief) -> None:
    """Some twenty milliseconds if all of them wait, one or two if they are done; here with room for slow machines."""
    store.submit(brief, takes=2000)
    queued = len(store.queue())  # once, as every page that follows finds the values read
    for look in (store.queue, store.history, lambda: store.find(Wanted(text="pier gull", orientation="landscape"))):
        began = time.process_time()
        look()
        assert time.process_time() - began < 0.1
    assert queued == 2000


# Deleting


@pytest.mark.parametrize("status", list(Status))
def test_a_deleted_job_is_out_of_sight_and_can_be_restored(store: JobStore, brief: Brief, status: Status) -> None:
    job_id = store.submit(brief).id
    if status is not Status.QUEUED:
        store.claim()
    if not status.active:
        store.close(job_id, status, FAILURE)
    store.delete(job_id)
    assert (store.history(), store.queue(), store.find(Wanted()).total) == ([], [], 0)
    assert store.claim() is None
    deleted = store.get(job_id)
    assert deleted
    assert deleted.deleted_at
    assert deleted.cancel == (status is Status.RUNNING)
    store.restore(job_id)
    assert ids(store.history()) == [job_id]
    assert store.get(job_id).status is status  # type: ignore[union-attr]


def test_deleting_a_running_job_cancels_it(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    store.claim()
    store.delete(job_id)
    assert store.report(job_id, Progress(phase="text", step=0, total=1)) is True


def test_a_queued_job_that_is_restored_runs_in_its_old_place(store: JobStore, brief: Brief) -> None:
    jobs = ids([store.submit(brief) for _ in range(3)])
    store.delete(jobs[0])
    assert store.ahead(jobs[2]) == 1
    store.restore(jobs[0])
    assert ids(store.queue()) == jobs


def test_what_was_deleted_long_ago_goes_for_good(tmp_path: Path, brief: Brief) -> None:
    now = 1000.0
    store = JobStore(tmp_path, clock=lambda: now)
    old, recent, kept, running = (store.submit(brief, first_frame=picture()).id for _ in range(4))
    store.move(running, "first")
    store.claim()
    for job_id in (old, running):
        store.delete(job_id)
    now = 1900.0
    store.delete(recent)
    now = 2000.0
    assert store.purge(500) == [old]
    assert store.get(old) is None
    assert not (tmp_path / "jobs" / old).exists()
    assert ids(store.history()) == [kept]
    for job_id in (recent, running):
        assert store.get(job_id)
        assert (tmp_path / "jobs" / job_id / "first_frame.png").is_file()


def test_a_folder_without_a_job_goes_once_it_is_old(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief, first_frame=picture())
    for name, age in (("stray", 7200.0), ("submitting", 0.0)):
        folder = store.data / "jobs" / name
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    os.utime(store.data / job.folder, (0, 0))
    store.purge(0)
    assert sorted(folder.name for folder in (store.data / "jobs").iterdir()) == sorted([job.id, "submitting"])


# Order and mode


@pytest.mark.parametrize(
    ("index", "to", "order"),
    [
        (2, "first", "cabd"),
        (2, "up", "acbd"),
        (1, "down", "acbd"),
        (0, "last", "bcda"),
        (0, "first", "abcd"),
        (0, "up", "abcd"),
        (3, "down", "abcd"),
        (3, "last", "abcd"),
    ],
)
def test_queued_jobs_are_moved(store: JobStore, brief: Brief, index: int, to: Place, order: str) -> None:
    jobs = dict(zip("abcd", ids([store.submit(brief) for _ in range(4)]), strict=True))
    store.move(list(jobs.values())[index], to)
    assert ids(store.queue()) == [jobs[name] for name in order]
    assert ids(iter(store.claim, None)) == [jobs[name] for name in order]


def test_a_job_is_moved_past_those_that_wait_only(store: JobStore, brief: Brief) -> None:
    running, first, cancelled, deleted, last = (store.submit(brief).id for _ in range(5))
    store.claim()
    store.cancel(cancelled)
    store.delete(deleted)
    store.move(last, "up")
    assert ids(store.queue()) == [running, last, first]
    for other in (running, cancelled, deleted, "nobody"):
        store.move(other, "first")
    assert ids(store.queue()) == [running, last, first]


def test_a_paused_queue_gives_nothing(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    assert store.mode() is Mode.RUNNING
    store.pause_after()
    assert store.mode() is Mode.PAUSED, "as nothing runs"
    assert store.claim() is None
    store.resume()
    assert store.mode() is Mode.RUNNING
    assert store.claim().id == job_id  # type: ignore[union-attr]


def test_pausing_after_lets_the_running_job_end(store: JobStore, brief: Brief) -> None:
    first, second = store.submit(brief).id, store.submit(brief).id
    store.claim()
    store.pause_after()
    assert store.mode() is Mode.FINISHING
    assert store.report(first, Progress(phase="text", step=0, total=1)) is False
    assert store.claim() is None
    store.close(first, Status.DONE)
    assert store.mode() is Mode.PAUSED
    store.resume()
    assert store.claim().id == second  # type: ignore[union-attr]


def test_pausing_now_puts_the_running_job_back_to_the_front(store: JobStore, brief: Brief) -> None:
    first, second = store.submit(brief).id, store.submit(brief).id
    store.claim()
    store.report(first, Progress(phase="text", step=0, total=1))
    store.pause_now()
    assert store.mode() is Mode.PAUSED
    assert store.report(first, Progress(phase="text", step=1, total=1)) is True, "it is nobody's any more"
    store.close(first, Status.CANCELLED)
    assert [(job.id, job.status, job.progress) for job in store.queue()] == [
        (first, Status.QUEUED, None),
        (second, Status.QUEUED, None),
    ]
    assert store.take_free()
    assert not store.take_free(), "a wish is answered once"


def test_pausing_now_cancels_what_was_being_cancelled(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    store.claim()
    store.cancel(job_id)
    store.pause_now()
    assert store.get(job_id).status is Status.CANCELLED  # type: ignore[union-attr]


# The worker, hung or not


def test_a_worker_is_ended_only_as_it_was_when_that_was_asked(store: JobStore) -> None:
    assert store.worker() is None
    store.end_worker()
    assert store.ending() is None
    hung = Worker(pid=1, job="a", since=1.0)
    store.present(hung)
    assert store.worker() == hung
    store.end_worker()
    assert store.ending() == hung
    store.present(Worker(pid=1, job="b", since=2.0))
    assert store.ending() is None


def test_what_a_killed_worker_ran_is_said_to_have_hung(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    store.claim()
    store.present(Worker(pid=1, job=job_id, since=1.0))
    store.end_worker()
    store.recover()
    job = store.get(job_id)
    assert job
    assert (job.status, job.failure) == (Status.INTERRUPTED, HUNG)
    assert store.worker() is None


def test_a_silent_job_can_be_told(tmp_path: Path, brief: Brief) -> None:
    now = 100.0
    store = JobStore(tmp_path, clock=lambda: now)
    assert store.submit(brief).silent(1000.0) == 0
    job = store.claim()
    assert job
    assert job.silent(107.0) == 7
    now = 200.0
    store.report(job.id, Progress(phase="text", step=0, total=1))
    job = store.get(job.id)
    assert job
    assert job.silent(201.0) == 1
    assert job.silent(50.0) == 0, "the clock was set back"


# The form


def test_the_form_is_kept_for_everybody(store: JobStore) -> None:
    assert store.form() == {}
    content = {"prompt": "海鸥", "seed": None, "seconds": 2.5, "first_frame": "drafts/first_frame.png"}
    store.keep_form({"prompt": "before"})
    store.keep_form(content)
    assert JobStore(store.data).form() == content


def test_an_upload_of_the_form_is_kept_and_dropped(store: JobStore, brief: Brief) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = store.keep_upload("first_frame", picture(40, 30, kind="JPEG", exif=exif))
    assert path == store.keep_upload("first_frame.png", picture(30, 40)) == "drafts/first_frame.png"
    with Image.open(store.data / path) as kept:
        assert kept.size == (30, 40)
    job = store.submit(brief.model_copy(update={"first_frame": path}))
    store.drop_upload("first_frame")
    store.drop_upload("first_frame")
    assert not (store.data / path).exists()
    assert (store.data / str(job.brief.first_frame)).is_file()
    assert list((store.data / "drafts").iterdir()) == []


@pytest.mark.parametrize("name", ["../studio", "a/b", "", "x.exe", "..", "a b", "ä"])
def test_an_upload_stays_in_its_folder(store: JobStore, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for an upload"):
        store.keep_upload(name, picture())


# Time and disk


def run(
    store: JobStore,
    brief: Brief,
    denoising: float,
    device: str = "cpu",
    loading: float | None = None,
    plan: str | None = None,
) -> None:
    seconds = {"text": 1.0, "frame": 2.0, "denoising": denoising, "decoding": 4.0, "writing": 5.0}
    seconds |= {} if loading is None else {"loading": loading}
    job_id = store.submit(brief).id
    store.move(job_id, "first")
    store.claim()
    store.report(job_id, Progress(phase="writing", step=1, total=1, seconds=seconds), Machine(device=device, plan=plan))
    store.close(job_id, Status.DONE)


def test_what_was_measured_is_told(store: JobStore, brief: Brief) -> None:
    clip = clip_of(brief)
    assert store.timings(clip) is None
    for denoising, loading in ((6.0, 30.0), (12.0, None), (18.0, None)):
        run(store, brief, denoising, loading=loading)
    found = store.timings(clip, "cpu")
    assert found == Timings(load=30, text=1, frame=2, per_evaluation=2, decode=4, write=5), "medians; 3 steps, 2 each"
    longer = brief.spec.model_copy(update={"num_inference_steps": 50, "seed": 1})
    assert store.timings(clip_of(brief.model_copy(update={"spec": longer}))) == found
    for other in (
        {"width": 80},
        {"height": 64},
        {"num_frames": 9},
        {"offload": "layer"},
        {"preset": "light"},
        {"checkpoint": "another"},
    ):
        assert store.timings(clip._replace(**other)) is None  # type: ignore[arg-type]
    assert store.timings(clip, "a GPU") is None


def test_without_a_device_the_one_used_last_counts(store: JobStore, brief: Brief) -> None:
    run(store, brief, 60.0, "cpu")
    run(store, brief, 6.0, "a GPU")
    assert store.timings(clip_of(brief)).per_evaluation == 1  # type: ignore[union-attr]
    assert store.timings(clip_of(brief), "cpu").per_evaluation == 10  # type: ignore[union-attr]


def test_each_plan_has_times_of_its_own(store: JobStore, brief: Brief) -> None:
    """Whatever was asked for: *auto* and a mode that is named come to the same plan."""
    layered, clip = brief.model_copy(update={"offload": "layer"}), clip_of(brief)
    run(store, brief, 6.0, plan="streamed")
    run(store, brief, 60.0, plan="resident")
    run(store, layered, 12.0, plan="streamed")
    by_plan = {plan: store.timings(clip, plan=plan) for plan in ("streamed", "resident", "never run")}
    assert {plan: found and found.per_evaluation for plan, found in by_plan.items()} == {
        "streamed": 1.5,
        "resident": 10,
        "never run": None,
    }
    assert store.timings(clip).per_evaluation == 10, "without a plan, the one that was used last"  # type: ignore[union-attr]
    running = store.submit(layered).id
    store.move(running, "first")
    store.claim()
    store.report(running, Progress(phase="text", step=0, total=1, seconds={"text": 0.0}), Machine(plan="resident"))
    assert store.finish_times(1000.0)[running] == 1000 + 1 + 2 + 60 + 4 + 5, "what runs is of the plan that it runs by"


def test_the_times_of_plans_are_told_a_step(store: JobStore, brief: Brief) -> None:
    for denoising in (6.0, 12.0):
        run(store, brief, denoising, plan="streamed")
    run(store, brief, 60.0)
    assert store.measured_plans(brief) == {"streamed": {"text": 1.0, "frame": 2.0, "step": 3.0, "decoding": 4.0}}
    assert store.measured_plans(brief.model_copy(update={"checkpoint": "another"})) == {}


def test_timings_outlive_their_job_and_failures_tell_none(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    store.claim()
    progress = Progress(phase="writing", step=1, total=1, seconds=dict.fromkeys(estimates.PHASES, 1.0))
    store.report(job_id, progress, Machine(device="cpu"))
    store.close(job_id, Status.FAILED, FAILURE)
    assert store.timings(clip_of(brief)) is None
    run(store, brief, 6.0)
    for job in store.history():
        store.delete(job.id)
    store.purge(-1)
    assert store.history() == []
    assert store.timings(clip_of(brief))


def test_the_queue_has_finish_times(store: JobStore, brief: Brief) -> None:
    run(store, brief, 6.0, loading=30.0)
    first, second = store.submit(brief).id, store.submit(brief).id
    unknown = store.submit(make_brief().model_copy(update={"offload": "layer"})).id
    last = store.submit(brief).id
    assert store.finish_times(1000.0) == {first: 1048.0, second: 1066.0, unknown: None, last: None}
    store.claim()
    store.pause_after()
    assert store.finish_times(1000.0)[second] is None, "nobody knows when it will go on"
    assert store.finish_times(1000.0)[first] is not None


def test_what_a_job_ran_on_is_kept(store: JobStore, brief: Brief) -> None:
    job_id = store.submit(brief).id
    store.claim()
    how = {"plan": "cpu|clip|exact", "mode": "none", "attention": "sdpa", "notes": ("It went on.",)}
    machine = Machine(engine="mova", device="cpu", peak_memory={"rss": 5}, checkpoint_id="abc", **how)
    store.report(job_id, Progress(phase="text", step=0, total=1, seconds={"text": 2.5}), machine)
    store.report(job_id, Progress(phase="frame", step=0, total=1, seconds={"text": 2.5, "frame": 1.0}))
    job = store.get(job_id)
    assert job
    assert (job.engine, job.device, job.peak_memory, job.checkpoint_id) == ("mova", "cpu", {"rss": 5}, "abc")
    assert {name: getattr(job, name) for name in how} == how
    assert (job.seconds, job.checkpoint_name) == (3.5, "MOVA-playground")


def test_disk_use_is_told_by_what_it_is_for(store: JobStore, brief: Brief) -> None:
    job, deleted = store.submit(brief), store.submit(brief)
    sizes = {
        f"{job.folder}/clip.mp4": 10,
        f"{job.folder}/poster.webp": 1,
        f"{job.folder}/first_frame.png": 20,
        f"{job.folder}/job.log": 30,
        f"{deleted.folder}/clip.mp4": 40,
        "drafts/first_frame.png": 50,
        "logs/worker.log": 60,
        "checkpoints/MOVA/vae/model.safetensors": 70,
    }
    for name, size in sizes.items():
        (store.data / name).parent.mkdir(parents=True, exist_ok=True)
        (store.data / name).write_bytes(b"x" * size)
    store.delete(deleted.id)
    found = store.usage()
    assert found.pop("database") > 1000
    assert found == {"clips": 11, "uploads": 70, "logs": 90, "checkpoints": 70, "deleted": 40}


def test_a_jobs_log_is_read_from_its_end(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    assert store.log(job.id) == ""
    (store.data / job.folder).mkdir()
    (store.data / job.folder / "job.log").write_text("one\ntwo\nthree\n")
    assert store.log(job.id, lines=2) == "two\nthree\n"
    assert store.log("../jobs/" + job.id) == ""


# Other versions


def test_a_store_of_version_1_keeps_its_jobs(tmp_path: Path) -> None:
    """As the first studio wrote it: its schema, its JSON."""
    spec = ClipSpec(width=64, height=48, num_frames=5, fps=10, num_inference_steps=3, seed=7).model_dump_json()
    brief = (
        f'{{"prompt":"Ein Möwenschrei","checkpoint":"checkpoints/MOVA-playground","spec":{spec},"random_seed":true,'
        '"first_frame":"jobs/a1/first_frame.png","last_frame":null,"offload":"none","loudness":null}'
    )
    draft = '{"first_frame":"jobs/a1/first_frame.png","prompt":"Ein Möwenschrei","clip":null,"rendered":null}'
    failure = '{"sentence":"It broke.","remedy":"Mend it.","details":"Traceback …"}'
    progress = '{"phase":"denoising","step":1,"total":3,"seconds":{"loading":2.0,"denoising":1.5}}'
    rows = [
        ("a1", 1, "failed", 0, brief, draft, progress, failure, 10.0, 11.0, 12.0),
        ("b2", 3, "queued", 0, brief, draft, None, None, 20.0, None, None),
        ("c3", 2, "running", 1, brief, draft, progress, None, 30.0, 31.0, None),
    ]
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
        db.executemany(
            """INSERT INTO jobs (id, position, status, cancel, brief, draft, progress, failure, created_at, started_at,
               finished_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            rows,
        )
    store = JobStore(tmp_path)
    assert [(job.id, job.status) for job in store.history()] == [("c3", "running"), ("b2", "queued"), ("a1", "failed")]
    failed = store.get("a1")
    assert failed
    assert failed.brief.prompt == "Ein Möwenschrei"
    assert failed.brief.first_frame == "jobs/a1/first_frame.png"
    assert (failed.created_at, failed.started_at, failed.finished_at) == (10.0, 11.0, 12.0)
    assert failed.failure == FAILURE
    assert failed.seconds == 3.5
    assert (failed.starred, failed.deleted_at, failed.device) == (False, None, None)
    assert ids(store.find(Wanted(text="möwenschrei", orientation="landscape")).jobs) == ["c3", "b2", "a1"]
    store.recover()
    store.requeue("a1")
    assert ids(iter(store.claim, None)) == ["b2", "a1"]
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_store_of_version_4_keeps_its_times(tmp_path: Path, brief: Brief) -> None:
    """They have no plan: they tell of the mode that was asked for, and of *auto* until that has been measured."""
    old, spec = brief.model_copy(update={"offload": "component"}), brief.spec
    timings = Timings(text=1, frame=2, per_evaluation=7, decode=4, write=5)
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as db:
        for statement in (statement for statements in MIGRATIONS[:4] for statement in statements):
            db.execute(statement)
        db.execute("PRAGMA user_version = 4")
        db.execute(
            """INSERT INTO timings (checkpoint, width, height, num_frames, offload, device, timings)
               VALUES (?, ?, ?, ?, ?, ?, ?)""",
            (
                "MOVA-playground",
                spec.width,
                spec.height,
                spec.num_frames,
                "component",
                "a GPU",
                timings.model_dump_json(),
            ),
        )
        row = old.model_dump(mode="json", exclude={"preset"})
        db.execute(
            """INSERT INTO jobs (id, position, status, brief, draft, machine, created_at)
               VALUES ('a1', 1, 'done', ?, '{}', '{"engine": "mova", "device": "a GPU"}', 1.0)""",
            (json.dumps(row),),
        )
    store = JobStore(tmp_path)
    assert (job := store.get("a1"))
    assert (job.brief, job.device, job.plan, job.notes) == (old, "a GPU", None, ())
    assert store.timings(clip_of(old)) == store.timings(clip_of(brief)) == timings
    assert store.timings(clip_of(old), plan="never run") == timings, "the mode that the plan came to"
    assert store.timings(clip_of(old.model_copy(update={"offload": "layer"}))) is None
    assert store.timings(clip_of(old.model_copy(update={"preset": "light"}))) is None
    assert store.measured_plans(brief) == {}
    run(store, brief, 6.0, plan="streamed")
    assert store.timings(clip_of(brief)).per_evaluation == 1  # type: ignore[union-attr]
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


# Several processes


def _submit(data: Path, name: str, count: int) -> list[str]:
    store = JobStore(data)
    return [store.submit(make_brief(f"{name} {index}"), first_frame=_PIXEL).id for index in range(count)]


def _claim(data: Path, wanted: int) -> list[str]:
    store, claimed = JobStore(data), []
    while sum(job.status is not Status.QUEUED for job in store.history(1000)) < wanted:
        if job := store.claim():
            claimed.append(job.id)
    return claimed


def _pixel() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


_PIXEL = _pixel()


def test_processes_neither_lose_nor_double_a_job(tmp_path: Path) -> None:
    """Four processes submit 25 jobs each, three claim them; all seven open, and so make, the same new file."""
    with ProcessPoolExecutor(7, mp_context=get_context("spawn")) as pool:
        submits = [pool.submit(_submit, tmp_path, f"process {index}", 25) for index in range(4)]
        claims = [pool.submit(_claim, tmp_path, 100) for _ in range(3)]
        submitted = [job_id for future in submits for job_id in future.result()]
        claimed = [job_id for future in claims for job_id in future.result()]
    assert len(set(submitted)) == 100
    assert sorted(claimed) == sorted(submitted)
    store = JobStore(tmp_path)
    assert {job.id for job in store.history(1000)} == set(submitted)
    assert all((store.data / job.folder / "first_frame.png").is_file() for job in store.history(1000))


def _open(data: Path) -> int:
    return len(JobStore(data).history())


@pytest.mark.parametrize("attempt", range(5))
def test_processes_can_make_the_store_together(tmp_path: Path, attempt: int) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_open, [tmp_path] * 12)) == [0] * 12
