"""The worker as a real process, with an engine that is quick; and the one place that turns errors into sentences."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from app import worker
from app.jobs import Job, Status
from app.settings import ROOT
from app.store import JobStore
from app.worker import ALREADY_SERVED, explain, is_running
from mova.layout import CheckpointError
from mova.picture import PictureError
from tests.app.conftest import make_brief, wait_for
from tests.app.fakes import FakeEngine

Start = Callable[..., "subprocess.Popen[bytes]"]
ENDLESS = 1000  # steps


@pytest.fixture
def start(store: JobStore) -> Iterator[Start]:
    """Starts workers on the store's folder; all are ended with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(seconds_per_step: float = 0.0, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.app.fakes", str(seconds_per_step), "--data", str(store.data), *options]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        running.append(process)
        return process

    yield start
    for process in running:
        with process:  # closes its pipes
            process.kill()


def ended(store: JobStore, job: Job) -> Job:
    def look() -> Job | None:
        found = store.get(job.id)
        return found if found and not found.status.active else None

    return wait_for(look)


def under_way(store: JobStore, job: Job) -> None:
    wait_for(lambda: (found := store.get(job.id)) and found.progress and found.progress.phase == "denoising")


def test_a_queue_is_worked_off(store: JobStore, start: Start) -> None:
    jobs = [store.submit(make_brief()) for _ in range(3)]
    start()
    for job in (ended(store, job) for job in jobs):
        assert job.status is Status.DONE
        assert job.draft.rendered
        assert job.progress
        assert list(job.progress.seconds) == ["loading", "text", "frame", "denoising", "decoding", "writing"]
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


def test_a_bad_setting_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDIO_DEVICE", "tpu")
    assert worker.main(["--data", str(tmp_path)]) == 2
    assert "STUDIO_DEVICE" in capsys.readouterr().err


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "sentence", "remedy"),
    [
        (CheckpointError("x/config.json is missing. Download it again."), "x/config.json is missing", "Mend"),
        (PictureError("The file is empty."), "The file is empty.", "another picture"),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full.", "Make room"),
        (MemoryError(), "ran out of memory", "by component"),
        (OutOfMemoryError("CUDA out of memory. Tried …"), "The GPU ran out of memory.", "by component"),
        (KeyError("x"), "KeyError: 'x'", "bug report"),
        (ValueError(), "ValueError", "bug report"),
        (ValueError("'cuda' is not there."), "'cuda' is not there.", "Change what it names"),
    ],
)
def test_errors_become_a_sentence_and_a_remedy(error: Exception, sentence: str, remedy: str) -> None:
    failure = explain(error)
    assert sentence in failure.sentence
    assert remedy in failure.remedy
    assert "\n" not in failure.sentence
    assert type(error).__name__ in failure.details
