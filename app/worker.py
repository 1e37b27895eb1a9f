"""The one process that renders: claim a job, run it, close it. ``python -m app.worker`` starts it by hand."""

from __future__ import annotations

import argparse
import errno
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from filelock import FileLock, Timeout

from app import workflow
from app.engines import Engine, open_engine
from app.jobs import Cancelled, Failure, Job, Progress, Status
from app.settings import SettingsError, load
from app.store import JobStore, StoreError
from mova.layout import CheckpointError
from mova.picture import PictureError

log = logging.getLogger("app.worker")

IDLE_SECONDS = 0.25  # between two looks at an empty queue
GRACE_SECONDS = 10.0  # for the step that runs when the worker is told to end
ALREADY_SERVED = 3  # exit status: another worker holds the folder

CLOSED = Failure(sentence="The studio was closed while this job was running.", remedy="Start it again.")

_probe = threading.Lock()


class Stopping(Exception):  # noqa: N818  (not an error)
    """The worker is ending; the job that runs is interrupted, not cancelled."""


def is_running(data: Path) -> bool:
    """Whether a worker serves this data folder, whoever started it: whether its lock is held."""
    lock = FileLock(data / "worker.lock")
    with _probe:  # or two probes of one process would take each other for a worker
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
    return False


def serve(
    store: JobStore,
    engine_factory: Callable[[], Engine],
    stop: threading.Event,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the queue until ``stop`` is set. The caller holds the folder's lock."""
    for job_id in store.recover():
        log.warning("Job %s was interrupted: its worker had ended", job_id)
    engine: Engine | None = None
    while not stop.is_set():
        job = store.claim()
        if job is None:
            stop.wait(IDLE_SECONDS)
            continue
        engine = engine or engine_factory()
        work(store, job, engine, stop, clock)


def work(store: JobStore, job: Job, engine: Engine, stop: threading.Event, clock: Callable[[], float]) -> None:
    """Run one claimed job to whatever end; no failure of its gets out of here."""
    log.info("Job %s starts (%d steps, seed %d)", job.id, job.brief.spec.num_inference_steps, job.brief.spec.seed)
    reporter = _Reporter(store, job.id, stop, clock)
    context = workflow.Context(engine, store.data, job.folder, reporter)
    try:
        workflow.run(job, context, lambda draft: store.save(job.id, draft))
    except Cancelled:
        store.close(job.id, Status.CANCELLED)
    except Stopping:
        store.close(job.id, Status.INTERRUPTED, CLOSED)
    except Exception as error:
        log.exception("Job %s failed", job.id)
        store.close(job.id, Status.FAILED, explain(error))
    else:
        store.close(job.id, Status.DONE)
        log.info("Job %s is done", job.id)


def explain(error: Exception) -> Failure:
    """A failure in the creator's words: what happened, and what to do."""
    said = str(error).strip() or type(error).__name__
    remedy = "Try again; if it happens again, the details below belong in a bug report."
    match error:
        case CheckpointError():
            remedy = "Mend the checkpoint or choose another one, then try again."
        case PictureError():
            remedy = "Choose another picture."
        case OSError(errno=errno.ENOSPC):
            said, remedy = "The disk is full.", "Make room on the disk of the data folder, then try again."
        case ValueError() if str(error):  # a setting that this machine can't follow, such as a device it doesn't have
            remedy = "Change what it names, then try again."
        case MemoryError():
            said, remedy = "This machine ran out of memory.", _SMALLER
        case _ if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            said, remedy = "The GPU ran out of memory.", _SMALLER
        case _ if type(error).__module__.partition(".")[0] != "mova":  # whose errors are sentences
            said = f"The worker met an error that it doesn't know ({type(error).__name__}: {said.splitlines()[0]})."
    return Failure(sentence=said.splitlines()[0], remedy=remedy, details="".join(traceback.format_exception(error)))


_SMALLER = "Under Advanced, let the weights wait off the GPU (by component, then by layer), or make the clip shorter."


class _Reporter:
    """The step callback of one job: measures the phases, tells the store, and raises if the job is to end."""

    def __init__(self, store: JobStore, job_id: str, stop: threading.Event, clock: Callable[[], float]) -> None:
        self._store = store
        self._job_id = job_id
        self._stop = stop
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._phase = ""
        self._since = clock()

    def __call__(self, phase: str, step: int, total: int) -> None:
        now = self._clock()
        if self._phase:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now
        if self._stop.is_set():
            raise Stopping
        self._seconds.setdefault(phase, 0.0)
        progress = Progress(phase=phase, step=step, total=total, seconds=self._seconds)
        if self._store.report(self._job_id, progress):
            raise Cancelled


def main(arguments: list[str] | None = None, engine_factory: Callable[[], Engine] | None = None) -> int:
    """The worker as a program; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app.worker", description="Renders the jobs of one data folder.")
    parser.add_argument("--data", type=Path, help="the data folder (default: STUDIO_DATA, or data)")
    parser.add_argument("--follow", action="store_true", help="end when standard input closes")
    given = parser.parse_args(arguments)
    try:
        settings = load(**({"data": given.data} if given.data else {}))
        store = JobStore(settings.data)
        with FileLock(settings.data / "worker.lock").acquire(timeout=2):
            _log_to(settings.data / "logs")
            stop = _stop_signals(follow=given.follow)
            serve(store, engine_factory or (lambda: open_engine(settings)), stop)
    except Timeout:
        _say(f"Another worker serves {settings.data} already; there is never more than one.")
        return ALREADY_SERVED
    except (SettingsError, StoreError) as error:
        _say(str(error))
        return 2
    return 0


def _stop_signals(*, follow: bool) -> threading.Event:
    """Set by SIGTERM and Ctrl+C; with ``follow`` by the end of standard input instead of Ctrl+C.

    The server holds the other end of that pipe, which closes with the server however that ends, on every system.
    """
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN if follow else end)
    if follow:
        threading.Thread(target=_end_with_stdin, args=(stop,), daemon=True).start()
    return stop


def _end_with_stdin(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(1):
        pass
    stop.set()
    time.sleep(GRACE_SECONDS)
    log.warning("Ended in the middle of a step")
    os._exit(1)  # a step may take minutes, and the GPU has to be free for whoever comes next


def _log_to(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(folder / "worker.log", maxBytes=1_000_000, backupCount=3, encoding="utf-8")
    logging.basicConfig(
        level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    faulthandler.enable()  # a crash in native code leaves its stack on stderr, which the server keeps in a file
    log.info("Worker %d serves %s", os.getpid(), folder.parent)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
