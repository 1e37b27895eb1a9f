"""The worker as a real process, with an engine that is quick; and the one place that turns errors into sentences."""

from __future__ import annotations

import errno
import sqlite3
import sys
import threading
from pathlib import Path

import av
import pytest

from app import worker
from app.estimates import clip_of
from app.explain import explain
from app.jobs import Kind, Mode, Progress, Status
from app.schema import StoreBusy
from app.store import JobStore
from app.worker import ALREADY_SERVED, is_running
from mova.layout import CheckpointError
from mova.media import MediaError
from mova.picture import PictureError
from tests.app.conftest import Start, ended, found, make_brief, under_way, wait_for
from tests.app.fakes import DEVICE, FakeEngine

ENDLESS = 1000  # steps


def test_a_queue_is_worked_off(store: JobStore, start: Start) -> None:
    jobs = [store.submit(make_brief()) for _ in range(3)]
    start()
    for job, loading in zip((ended(store, job) for job in jobs), (["loading"], [], []), strict=True):
        assert job.status is Status.DONE
        assert job.draft.rendered
        assert job.progress
        phases = [*loading, "text", "frame", "denoising", "decoding", "writing"]
        assert list(job.progress.seconds) == phases, "the engine stays loaded between jobs"
        with av.open(str(store.data / str(job.draft.clip))) as clip:
            assert clip.streams.video[0].frames == 5


def test_a_job_that_fails_leaves_the_worker_alive(store: JobStore, start: Start) -> None:
    failing, fine = store.submit(make_brief("fail now")), store.submit(make_brief())
    start()
    failed = ended(store, failing)
    assert failed.status is Status.FAILED
    assert failed.failure
    assert "was told to fail" in failed.failure.sentence
    assert "Traceback" in failed.failure.details
    assert ended(store, fine).status is Status.DONE


def test_a_cancel_stops_the_run_and_the_next_job_follows(store: JobStore, start: Start) -> None:
    endless, next_one = store.submit(make_brief(steps=ENDLESS)), store.submit(make_brief())
    start(0.05)
    under_way(store, endless)
    store.cancel(endless.id)
    assert ended(store, endless).status is Status.CANCELLED
    assert not (store.data / endless.folder / "clip.mp4").exists()
    assert ended(store, next_one).status is Status.DONE


def test_a_killed_worker_leaves_an_interrupted_job_that_can_be_started_again(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief(steps=60))
    victim = start(0.05)
    under_way(store, job)
    victim.kill()
    victim.wait()
    assert not is_running(store.data)
    start()
    found = ended(store, job)
    assert found.status is Status.INTERRUPTED
    assert found.failure
    store.requeue(job.id)
    assert ended(store, job).status is Status.DONE


def test_there_are_never_two(store: JobStore, start: Start) -> None:
    first = start()
    wait_for(lambda: is_running(store.data))
    second = start()
    assert second.wait(timeout=60) == ALREADY_SERVED
    assert second.stderr
    assert b"Another worker serves" in second.stderr.read()
    assert first.poll() is None


def test_it_ends_with_the_pipe_that_it_follows(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief(steps=ENDLESS))
    process = start(0.05, "--follow")
    under_way(store, job)
    assert process.stdin
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert ended(store, job).status is Status.INTERRUPTED
    assert not is_running(store.data)


def test_sigterm_ends_it_and_interrupts_its_job(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief(steps=ENDLESS))
    process = start(0.05)
    under_way(store, job)
    process.terminate()
    process.wait(timeout=60)
    if sys.platform == "win32":  # where terminate is kill
        start()
    assert ended(store, job).status is Status.INTERRUPTED


def test_the_log_tells_of_the_job_and_not_its_prompt(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief("A secret that nobody may read, " * 3))
    start()
    ended(store, job)
    log = wait_for(lambda: "is done" in (text := (store.data / "logs" / "worker.log").read_text()) and text)
    assert job.id in log
    assert "secret" not in log


def test_the_phases_are_timed(store: JobStore) -> None:
    job = store.submit(make_brief())
    ticks = iter(range(1000))
    claimed = store.claim()
    assert claimed
    worker.work(store, claimed, FakeEngine(), threading.Event(), lambda: float(next(ticks)))
    found = store.get(job.id)
    assert found
    assert found.progress
    assert found.progress.seconds["denoising"] == 3.0, "three steps, a second each"


def test_a_finished_step_has_a_pace(store: JobStore) -> None:
    store.submit(make_brief())
    claimed = store.claim()
    assert claimed
    reported: list[Progress] = []
    ticks = iter(range(1000))

    class Spy(JobStore):
        def report(self, job_id: str, progress: Progress, *rest: object) -> bool:
            reported.append(progress)
            return False

    worker.work(Spy(store.data), claimed, FakeEngine(), threading.Event(), lambda: float(next(ticks)))
    paces = [progress.pace for progress in reported if progress.phase == "denoising"]
    assert paces == [None, 1.0, 1.0]


def test_what_a_run_measured_is_kept(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief())
    assert store.timings(clip_of(job.brief)) is None
    start(0.05)
    done = ended(store, job)
    assert (done.engine, done.device, done.peak_memory) == ("fake", DEVICE, {"rss": 1 << 20})
    timings = store.timings(clip_of(job.brief), DEVICE)
    assert timings
    assert timings.per_evaluation >= 0.025, "a step of 0.05 s has two evaluations"
    assert done.seconds
    assert done.seconds >= 0.15


def test_each_job_has_its_log(store: JobStore, start: Start) -> None:
    failing, fine = store.submit(make_brief("fail at a secret")), store.submit(make_brief("another secret"))
    start()
    ended(store, fine)
    assert "was told to fail" in store.log(failing.id)
    assert f"{fine.id} is done" in store.log(fine.id)
    assert failing.id not in store.log(fine.id)
    assert "secret" not in store.log(failing.id) + store.log(fine.id)


def test_pausing_after_ends_with_the_job_that_runs(store: JobStore, start: Start) -> None:
    first, second = store.submit(make_brief(steps=40)), store.submit(make_brief())
    start(0.02)
    under_way(store, first)
    store.pause_after()
    assert store.mode() is Mode.FINISHING
    assert ended(store, first).status is Status.DONE
    assert store.mode() is Mode.PAUSED
    assert found(store, second).status is Status.QUEUED
    store.resume()
    assert ended(store, second).status is Status.DONE


def test_pausing_now_frees_the_engine_and_resuming_starts_again(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief(steps=40))
    start(0.02)
    under_way(store, job)
    store.pause_now()
    freed = wait_for(lambda: (seen := store.worker()) and seen.job is None and not seen.loaded and seen)
    assert freed.pid
    waiting = found(store, job)
    assert (waiting.status, waiting.progress, waiting.failure) == (Status.QUEUED, None, None)
    assert not list((store.data / job.folder).glob("clip*"))
    store.resume()
    done = ended(store, job)
    assert done.status is Status.DONE
    assert done.progress
    assert "loading" in done.progress.seconds, "as the engine was freed"


def test_an_idle_engine_is_freed_when_told_to(store: JobStore, start: Start) -> None:
    first = store.submit(make_brief())
    start()
    wait_for(lambda: (seen := store.worker()) and seen.job is None and seen.loaded)
    store.free_engine()
    wait_for(lambda: (seen := store.worker()) and not seen.loaded)
    second = ended(store, store.submit(make_brief()))
    assert found(store, first).status is second.status is Status.DONE
    assert second.progress
    assert "loading" in second.progress.seconds


def test_a_worker_says_what_it_is_on(store: JobStore, start: Start) -> None:
    job = store.submit(make_brief(steps=ENDLESS))
    process = start(0.05)
    under_way(store, job)
    seen = store.worker()
    assert seen
    assert (seen.pid, seen.job) == (process.pid, job.id)
    process.terminate()
    process.wait(timeout=60)
    assert store.worker() is None


def test_what_was_deleted_long_ago_is_purged_by_an_idle_worker(tmp_path: Path, start: Start) -> None:
    now = 1000.0
    past = JobStore(tmp_path / "data", clock=lambda: now)
    job = past.submit(make_brief())
    past.delete(job.id)
    start()
    wait_for(lambda: past.get(job.id) is None)


def test_a_report_that_cannot_be_made_does_not_stop_the_clip(store: JobStore) -> None:
    job = store.submit(make_brief())
    claimed = store.claim()
    assert claimed

    class Held(JobStore):
        tries = 0

        def report(self, job_id: str, progress: Progress, *rest: object) -> bool:
            if progress.phase != "writing":
                Held.tries += 1
                raise StoreBusy("held")
            return super().report(job_id, progress)

    worker.work(Held(store.data), claimed, FakeEngine(), threading.Event(), lambda: 0.0)
    assert found(store, job).status is Status.DONE
    assert Held.tries == 1, "it isn't tried at every step, as each try takes its time"


class Broken(FakeEngine):
    """Fails in the middle with the error that it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def _misbehave(self, how: str) -> None:
        if how == "fail":
            raise self._error


def serve_until_idle(store: JobStore, engine: FakeEngine) -> None:
    stop = threading.Event()

    class Last(JobStore):
        def take_free(self) -> bool:
            stop.set()
            return super().take_free()

    worker.serve(Last(store.data), lambda: engine, stop)


def test_the_engine_is_loaded_afresh_after_it_was_short_of_memory(store: JobStore) -> None:
    jobs = [store.submit(make_brief(prompt)) for prompt in ("fine", "fail", "fine")]
    engine = Broken(MemoryError())
    serve_until_idle(store, engine)
    assert engine.loads == 2
    failure = found(store, jobs[1]).failure
    assert failure
    assert failure.kind is Kind.MEMORY
    assert [found(store, job).status for job in jobs] == [Status.DONE, Status.FAILED, Status.DONE]


def test_a_device_that_failed_ends_the_worker_rather_than_the_queue(store: JobStore) -> None:
    failing, waiting = store.submit(make_brief("fail")), store.submit(make_brief())
    with pytest.raises(worker.DeviceFault):
        serve_until_idle(store, Broken(RuntimeError("CUDA error: an illegal memory access was encountered")))
    assert found(store, failing).status is Status.FAILED
    assert found(store, waiting).status is Status.QUEUED
    serve_until_idle(store, FakeEngine())
    assert found(store, waiting).status is Status.DONE


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


def _full(error: OSError | sqlite3.Error) -> MediaError:
    full = MediaError("The disk is full; clip.mp4 wasn't written.")
    full.__cause__ = error
    return full


ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


@pytest.mark.parametrize(
    ("error", "kind", "sentence", "remedy"),
    [
        (CheckpointError("x/config.json is missing. Get it."), Kind.CHECKPOINT, "x/config.json is missing", "Mend"),
        (PictureError("The file is empty."), Kind.PICTURE, "The file is empty.", "another picture"),
        (OSError(errno.ENOSPC, "No space left on device"), Kind.DISK_FULL, "The disk is full.", "Make room"),
        (_full(OSError(errno.ENOSPC, "No space left")), Kind.DISK_FULL, "The disk is full.", "Make room"),
        (MediaError("There are only 3 of 5 frames."), Kind.MEDIA, "There are only 3 of 5 frames.", "Try again"),
        (MemoryError(), Kind.MEMORY, "ran out of memory", "a lighter preset"),
        (RuntimeError(ALLOCATOR), Kind.MEMORY, "This machine ran out of memory.", "a lighter preset"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Kind.MEMORY, "ran out of memory", "a lighter preset"),
        (
            OutOfMemoryError("CUDA out of memory. Tried …"),
            Kind.GPU_MEMORY,
            "The GPU ran out of memory.",
            "a lighter preset",
        ),
        (RuntimeError("CUDA error: out of memory"), Kind.GPU_MEMORY, "The GPU ran out of memory.", "a lighter preset"),
        (KeyError("x"), Kind.UNKNOWN, "KeyError: 'x'", "bug report"),
        (ValueError(), Kind.UNKNOWN, "ValueError", "bug report"),
        (ValueError("'cuda' is not there."), Kind.SETTING, "'cuda' is not there.", "Change what it names"),
    ],
)
def test_errors_become_a_sentence_and_a_remedy(error: Exception, kind: Kind, sentence: str, remedy: str) -> None:
    failure = explain(error)
    assert failure.kind is kind
    assert sentence in failure.sentence
    assert remedy in failure.remedy
    assert "\n" not in failure.sentence
    assert type(error).__name__ in failure.details


def test_a_checkpoint_that_has_gone_is_told_from_one_that_is_broken(tmp_path: Path) -> None:
    error = CheckpointError("x/config.json is missing.")
    assert explain(error, tmp_path).kind is Kind.CHECKPOINT
    for met in (error, FileNotFoundError("x")):
        gone = explain(met, tmp_path / "MOVA-720p")
        assert gone.kind is Kind.GONE
        assert str(tmp_path / "MOVA-720p") in gone.sentence
