from __future__ import annotations

import io
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from PIL import Image

from app.jobs import Brief, Draft, Failure, Progress, Rendered, Status
from app.store import DATABASE, MIGRATIONS, JobStore, StoreError
from mova.picture import PictureError
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
