"""The bad days, each made to happen: a sentence, the rest goes on, and no half clip anywhere."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import av
import pytest

from app import __main__ as program
from app import worker
from app.engines import LocalEngine
from app.estimates import clip_of
from app.jobs import Job, Kind, Mode, Progress, Status
from app.schema import StoreBusy
from app.settings import ROOT
from app.store import DATABASE, MIGRATIONS, JobStore, StoreError
from app.supervisor import Supervisor, WorkerState
from app.worker import is_running
from tests.app.conftest import Start, ended, found, make_brief, under_way, wait_for
from tests.app.fakes import FakeEngine
from tests.studio import studio

MEGABYTE = 1 << 20


def no_half_clip(store: JobStore) -> None:
    assert not list(store.data.rglob("*.part"))
    for clip in store.data.rglob("clip.mp4"):
        with av.open(str(clip)) as container:
            assert sum(1 for _ in container.demux(video=0)) > 1


def has_ended(store: JobStore, job: Job) -> bool:
    """A disk that is full keeps readers out too, now and then: they need a page of their own beside the database."""
    try:
        return not found(store, job).status.active
    except StoreError:
        return False


def failed(store: JobStore, job: Job, kind: Kind) -> str:
    """What is said of a job that failed in that way."""
    wait_for(lambda: has_ended(store, job))
    end = found(store, job)
    assert end.status is Status.FAILED
    assert end.failure
    assert end.failure.kind is kind
    assert end.failure.sentence.count(".") >= 1
    assert "\n" not in end.failure.sentence
    return end.failure.sentence


# A disk of our own


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size at ``folder``; skips where nobody may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of one's own takes Linux and root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until there is no room left."""
    file = folder / "ballast"
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    return file


def test_a_disk_that_fills_up_while_a_clip_is_written(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", 4) as folder:
        store = JobStore(folder)
        large, small = store.submit(make_brief("flood")), store.submit(make_brief())
        stop = threading.Event()
        serving = threading.Thread(target=worker.serve, args=(store, FakeEngine, stop))
        serving.start()
        try:
            assert failed(store, large, Kind.DISK_FULL) == "The disk is full."
            assert ended(store, small).status is Status.DONE
        finally:
            stop.set()
            serving.join()
        assert not (folder / large.folder / "clip.mp4").exists()
        no_half_clip(store)


def test_a_disk_that_is_full_when_a_job_is_queued_or_ends(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", 4) as folder:
        store = JobStore(folder)
        running = store.submit(make_brief(steps=60))
        stop = threading.Event()
        serving = threading.Thread(target=worker.serve, args=(store, lambda: FakeEngine(0.02), stop))
        serving.start()
        try:
            under_way(store, running)
            ballast = fill(folder)
            with pytest.raises(StoreError, match="full"):
                while True:  # what the database had set aside is used up first
                    store.submit(make_brief("A long prompt. " * 1000))
            ballast.unlink()
            assert not found(store, running).status.active or found(store, running).status is Status.RUNNING
            wait_for(lambda: not found(store, running).status.active)
            for job in store.queue():
                store.cancel(job.id)
        finally:
            stop.set()
            serving.join()
        assert found(store, running).status in (Status.DONE, Status.FAILED)
        no_half_clip(store)
        with closing(sqlite3.connect(folder / DATABASE)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_data_folder_that_is_read_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with disk(tmp_path / "disk", 4) as folder:
        store = JobStore(folder)
        store.submit(make_brief())
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(StoreError, match="can't be written to"):
            JobStore(folder)
        with pytest.raises(StoreError):
            store.submit(make_brief())
        for main in (worker.main, program.main):
            assert main(["--data", str(folder)]) == 2
            said = capsys.readouterr().err
            assert f"{folder} can't be written to" in said
            assert said.count("\n") == 1


# The store's file


def test_a_store_of_another_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    JobStore(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 7}")
    for main in (worker.main, program.main):
        assert main(["--data", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "was written by a newer studio" in said
        assert said.count("\n") == 1


@contextmanager
def held(store: JobStore) -> Iterator[None]:
    """The store's file in the hands of another process."""
    code = (
        f"import sqlite3, sys; db = sqlite3.connect({str(store.data / DATABASE)!r}, isolation_level=None, timeout=60);"
        "db.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline().strip() == b"held"
        yield
        holder.kill()


def test_a_store_that_another_program_holds(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief(steps=60))
    process = start(0.05)
    under_way(store, job)
    log = store.data / "logs" / "worker.log"
    hasty = JobStore(store.data, patience=0.1)
    with held(store):
        with pytest.raises(StoreBusy, match=r"Another program holds .*studio\.db .* Close it"):
            hasty.submit(make_brief())
        assert [seen.id for seen in hasty.queue()] == [job.id], "what is there can still be read"
        wait_for(lambda: "Another program holds" in log.read_text())
    assert ended(store, job).status is Status.DONE
    assert ended(store, store.submit(make_brief())).status is Status.DONE
    assert process.poll() is None


def test_a_worker_waits_for_a_store_that_is_held_from_the_start(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief())
    with held(store):
        process = start()
        log = store.data / "logs" / "worker.log"
        wait_for(lambda: log.is_file() and "Another program holds" in log.read_text())
        assert process.poll() is None
    assert ended(store, job).status is Status.DONE


# The clock


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    now = 1_000_000.0
    store = JobStore(tmp_path, clock=lambda: now)
    first = store.submit(make_brief())
    now = 1000.0
    second = store.submit(make_brief())
    assert second.created_at < first.created_at
    assert [job.id for job in store.history()] == [second.id, first.id], "ordered by number"
    now = 900_000.0
    claimed = store.claim()
    assert claimed
    assert claimed.id == first.id
    store.report(first.id, Progress(phase="text", step=0, total=1))
    now = 10.0
    ticks = iter(range(1000))
    worker.work(store, claimed, FakeEngine(), threading.Event(), lambda: float(next(ticks)))
    done = found(store, first)
    assert done.status is Status.DONE
    assert done.finished_at == 10.0
    assert done.started_at == 900_000.0
    assert done.seconds
    assert done.seconds > 0, "measured by a clock that nobody sets"
    store.delete(first.id)
    now = 5.0
    assert store.purge(60) == [], "what was deleted in the future waits"
    finish = store.finish_times()[second.id]
    assert finish
    assert finish > now


# Two at once


def test_two_studios_on_one_data_folder(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    with studio(tmp_path):
        first = wait_for(store.worker)
        with studio(tmp_path):
            assert store.worker() == first, "the second studio uses the worker of the first"
            os.kill(first.pid, 0)
            job = store.submit(make_brief())
            store.cancel(job.id)
            stopped = found(store, job)
    assert stopped.status is Status.CANCELLED
    wait_for(lambda: not is_running(tmp_path))


def test_the_second_studio_takes_over_when_the_first_is_killed(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    command = [sys.executable, "-m", "app", "--port", "0", "--data", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as first:
        try:
            served_by = wait_for(store.worker).pid
            with studio(tmp_path):
                first.kill()
                wait_for(lambda: (seen := store.worker()) and seen.pid != served_by and is_running(tmp_path))
        finally:
            first.kill()


# A worker that hangs


def fake_worker(data: Path) -> list[str]:
    return [sys.executable, "-m", "tests.app.fakes", "0.01", "--data", str(data), "--follow"]


def test_a_worker_that_hangs_is_ended_and_the_next_job_runs(store: JobStore) -> None:
    hanging, next_one = store.submit(make_brief("hang")), store.submit(make_brief())
    watcher = Supervisor(store.data, fake_worker(store.data))
    watcher.start()
    try:
        under_way(store, hanging)
        silent = wait_for(lambda: (now := found(store, hanging)).silent((now.reported_at or 0) + 601) > 600 and now)
        assert silent.status is Status.RUNNING, "it is said, and nothing more, until somebody asks for it"
        store.end_worker()
        end = ended(store, hanging)
        assert (end.status, end.failure and end.failure.kind) == (Status.INTERRUPTED, Kind.HUNG)
        assert ended(store, next_one).status is Status.DONE
        wait_for(lambda: watcher.state is WorkerState.READY)
    finally:
        watcher.end()
    no_half_clip(store)


def test_a_worker_started_by_hand_is_ended_too(store: JobStore, start: Start) -> None:
    hanging, next_one = store.submit(make_brief("hang")), store.submit(make_brief())
    by_hand = start(0.01)
    under_way(store, hanging)
    watcher = Supervisor(store.data, fake_worker(store.data))
    watcher.start()
    try:
        wait_for(lambda: watcher.state is WorkerState.READY)
        store.end_worker()
        assert by_hand.wait(timeout=60) != 0
        assert ended(store, hanging).failure.kind is Kind.HUNG  # type: ignore[union-attr]
        assert ended(store, next_one).status is Status.DONE
    finally:
        watcher.end()


def test_a_worker_that_hangs_while_the_queue_is_paused_can_be_ended(store: JobStore) -> None:
    hanging = store.submit(make_brief("hang"))
    watcher = Supervisor(store.data, fake_worker(store.data))
    watcher.start()
    try:
        wait_for(lambda: (progress := found(store, hanging).progress) and progress.step == 1)
        hung = wait_for(store.worker)
        store.pause_now()
        assert found(store, hanging).status is Status.QUEUED
        store.end_worker()
        wait_for(lambda: (seen := store.worker()) and seen.pid != hung.pid)
        assert store.mode() is Mode.PAUSED
        assert found(store, hanging).status is Status.QUEUED
    finally:
        watcher.end()


# The engine


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on memory there")
def test_an_engine_out_of_memory(store: JobStore, start: Start) -> None:
    import resource  # noqa: PLC0415  not on Windows

    limit = 3 << 30
    fine, devouring, after = (store.submit(make_brief(prompt)) for prompt in ("one", "devour", "two"))
    process = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert failed(store, devouring, Kind.MEMORY) == "This machine ran out of memory."
    assert ended(store, fine).status is Status.DONE
    last = ended(store, after)
    assert last.status is Status.DONE
    assert last.progress
    assert "loading" in last.progress.seconds, "the engine was loaded afresh"
    assert process.poll() is None
    no_half_clip(store)


def test_a_job_whose_checkpoint_has_gone(store: JobStore) -> None:
    brief = make_brief(steps=1)
    gone = store.submit(brief.model_copy(update={"checkpoint": "checkpoints/MOVA-gone"}))
    fine = store.submit(brief)
    stop = threading.Event()
    engine = LocalEngine(store.data, device="cpu")
    serving = threading.Thread(target=worker.serve, args=(store, lambda: engine, stop))
    serving.start()
    try:
        said = failed(store, gone, Kind.GONE)
        assert str(store.data / "checkpoints" / "MOVA-gone") in said
        done = ended(store, fine)
    finally:
        stop.set()
        serving.join()
    assert done.status is Status.DONE
    assert (done.engine, done.device) == ("mova", "cpu")
    assert done.peak_memory["rss"] > MEGABYTE
    assert done.checkpoint_id
    assert store.timings(clip_of(done.brief), "cpu")
