"""The one process that renders: claim a job, run it, close it. ``python -m app.worker`` starts it by hand."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from agents.models import Endpoint
from app import workflow
from app.agency import Models, is_heavy
from app.engines import Engine, open_engine
from app.explain import explain, without
from app.jobs import (
    CLOSED,
    HUNG_SECONDS,
    LOCAL,
    Cancelled,
    Draft,
    Failure,
    Job,
    Kind,
    Progress,
    Status,
    Step,
    Version,
    Worker,
)
from app.settings import SettingsError, load, secrets
from app.stages import STAGES, check_models
from app.store import LOG, JobStore, StoreBusy, StoreError

__all__ = ["ALREADY_SERVED", "GRACE_SECONDS", "HUNG_SECONDS", "is_running", "main", "serve", "work"]

log = logging.getLogger("app.worker")

IDLE_SECONDS = 0.25  # between two looks at an empty queue
GRACE_SECONDS = 10.0  # for the step that runs when the worker is told to end
ALREADY_SERVED = 3  # exit status: another worker holds the folder
PATIENCE_SECONDS = 5.0  # for another program's hold on the store, before saying so
RETRY_SECONDS = 1.0  # between two tries at a store that can't be used
SILENT_SECONDS = 10.0  # without reports after one that couldn't be made, so that the engine isn't held up
UNDO_SECONDS = 24 * 3600.0  # what was deleted can be restored for this long
PURGE_SECONDS = 3600.0  # between two looks for what is to be removed for good
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

OUT_OF_MEMORY = (Kind.MEMORY, Kind.GPU_MEMORY)
DEVICE_FAULT = "CUDA error"  # in what torch says when a GPU has failed: it does for the rest of the process's life
FAULTY = 4  # exit status: the device failed, and a new process may find it well

Result = TypeVar("Result")

AGENTS = frozenset(Step)  # phases in which the engine has no part
NOWHERE: Mapping[str, Endpoint] = {}

_probe = threading.Lock()


class Stopping(Exception):  # noqa: N818  (not an error)
    """The worker is ending; the job that runs is interrupted, not cancelled."""


class DeviceFault(Exception):  # noqa: N818  (as CUDA calls it)
    """The device has failed this process; a new one may find it well."""


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
    endpoints: Mapping[str, Endpoint] = NOWHERE,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the queue until ``stop`` is set, with models at these endpoints. The caller holds the folder's lock.

    Raises:
        DeviceFault: nothing more can be run in this process.
    """
    for job_id in _insist(store.recover, stop) or ():
        log.warning("Job %s was interrupted: its worker had ended", job_id)
    engine: Engine | None = None
    loaded, swept = False, -PURGE_SECONDS
    _present(store, stop)
    while not stop.is_set():
        job = _insist(store.claim, stop)
        if job is not None:
            engine = engine or engine_factory()
            _present(store, stop, job.id, loaded=loaded)
            failure = work(store, job, engine, stop, clock, endpoints)
            if failure and failure.kind in OUT_OF_MEMORY:
                engine.free()
            loaded = engine.loaded
            _present(store, stop, loaded=loaded)
            if failure and _device_failed(failure, job, endpoints):
                raise DeviceFault
        elif _insist(store.take_free, stop):
            if engine:
                engine.free()
                log.info("The engine is freed")
            loaded = False
            _present(store, stop)
        elif clock() - swept >= PURGE_SECONDS:
            _insist(lambda: store.purge(UNDO_SECONDS), stop)
            swept = clock()
        else:
            stop.wait(IDLE_SECONDS)


def _device_failed(failure: Failure, job: Job, endpoints: Mapping[str, Endpoint]) -> bool:
    """Whether this process's own device did; a server may say the same of its own."""
    full = job.brief.full
    if full and failure.step:
        here = is_heavy(full.models.get(failure.step, ""), endpoints)
    else:
        here = job.brief.engine == LOCAL
    return here and DEVICE_FAULT in failure.details and failure.kind not in OUT_OF_MEMORY


def work(
    store: JobStore,
    job: Job,
    engine: Engine,
    stop: threading.Event,
    clock: Callable[[], float],
    endpoints: Mapping[str, Endpoint] = NOWHERE,
) -> Failure | None:
    """Run one claimed job to whatever end; its failure, which doesn't get out of here otherwise."""
    reporter, models = _Reporter(store, job.id, engine, stop, clock), Models(endpoints, engine.free)
    keys = secrets(endpoints)

    def save(draft: Draft, made: Version | None = None) -> None:
        _insist(lambda: store.save(job.id, draft, made), stop)

    failure = None
    with _job_log(store.data / job.folder, keys):
        log.info("Job %s starts (%d steps, seed %d)", job.id, job.brief.spec.num_inference_steps, job.brief.spec.seed)
        try:
            check_models(job, endpoints)
            context = workflow.Context(engine, models, store.data, job.folder, reporter, save, time.time)
            status = workflow.run(job, context, STAGES)
        except Cancelled:
            status = Status.CANCELLED
        except Stopping:
            status, failure = Status.INTERRUPTED, CLOSED
        except Exception as error:
            log.exception("Job %s failed", job.id)
            checkpoint = store.data / job.brief.checkpoint if job.brief.engine == LOCAL else None
            status, failure = Status.FAILED, explain(error, checkpoint, keys)
        models.close()
        reporter.finish()
        log.info("Job %s is %s", job.id, status)
    _insist(lambda: store.close(job.id, status, failure), stop)
    return failure


def _insist(action: Callable[[], Result], stop: threading.Event) -> Result | None:
    """Do it, again and again while the store can't be used: another program holds it, or the disk is full."""
    while True:
        try:
            return action()
        except StoreError as error:
            log.warning("%s", error)
            if stop.wait(RETRY_SECONDS):
                return None  # what was left undone is found by the next worker


def _present(store: JobStore, stop: threading.Event, job: str | None = None, *, loaded: bool = False) -> None:
    worker = Worker(pid=os.getpid(), host=platform.node(), job=job, loaded=loaded, since=time.time())
    _insist(lambda: store.present(worker), stop)


@contextmanager
def _job_log(folder: Path, keys: Sequence[str]) -> Iterator[None]:
    """Keep what is logged meanwhile in the job's folder too."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    except OSError as error:  # the job will meet the same, and say so
        log.warning("%s can't be written (%s)", folder / LOG, error)
        yield
        return
    handler.setFormatter(_Discreet(keys))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):
            handler.close()


class _Discreet(logging.Formatter):
    """Writes no key, whatever library has logged it."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(LOG_FORMAT)
        self._keys = keys

    def format(self, record: logging.LogRecord) -> str:
        return without(super().format(record), self._keys)


class _Reporter:
    """The step callback of one job: measures the phases, tells the store, and raises if the job is to end."""

    def __init__(
        self, store: JobStore, job_id: str, engine: Engine, stop: threading.Event, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._job_id = job_id
        self._engine = engine
        self._stop = stop
        self._clock = clock
        self._progress: Progress | None = None
        self._since = clock()
        self._silent_until = self._since

    def __call__(self, phase: str, step: int, total: int) -> None:
        now = self._clock()
        before = self._progress
        self._progress = self._follow(phase, step, total, now)
        if self._stop.is_set():
            raise Stopping
        if now < self._silent_until:
            return
        news = (before is None or before.phase != phase) and phase not in AGENTS
        try:
            if self._store.report(self._job_id, self._progress, self._engine.machine() if news else None):
                raise Cancelled
        except StoreError as error:  # the clip is worth more than its progress bar
            log.warning("%s", error)
            self._silent_until = self._clock() + SILENT_SECONDS

    def finish(self) -> None:
        """Keep what was measured to the very end."""
        last = self._progress
        if last is not None:
            final = self._follow(last.phase, last.step, last.total, self._clock())
            machine = None if last.phase in AGENTS else self._engine.machine()
            _insist(lambda: self._store.report(self._job_id, final, machine), self._stop)

    def _follow(self, phase: str, step: int, total: int, now: float) -> Progress:
        """The progress that this report brings; the time since the last one belongs to the phase of then."""
        before, since = self._progress, self._since
        self._since = now
        if before is None:
            return Progress(phase=phase, step=step, total=total, seconds={phase: 0.0})
        seconds = before.seconds | {before.phase: before.seconds[before.phase] + now - since}
        seconds.setdefault(phase, 0.0)
        pace = before.pace if phase == before.phase else None
        if step and (pace is None or step != before.step):
            pace = seconds[phase] / step
        return Progress(phase=phase, step=step, total=total, seconds=seconds, pace=pace)


def main(arguments: list[str] | None = None, engine_factory: Callable[[], Engine] | None = None) -> int:
    """The worker as a program; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app.worker", description="Renders the jobs of one data folder.")
    parser.add_argument("--data", type=Path, help="the data folder (default: STUDIO_DATA, or data)")
    parser.add_argument("--follow", action="store_true", help="end when standard input closes")
    given = parser.parse_args(arguments)
    try:
        settings = load(**({"data": given.data} if given.data else {}))
        stop = _stop_signals(follow=given.follow)
        store = _open(settings.data, stop)
        if store is None:
            return 0
        with FileLock(settings.data / "worker.lock").acquire(timeout=2):
            _log_to(settings.data / "logs", secrets(settings.providers))
            serve(store, engine_factory or (lambda: open_engine(settings)), stop, endpoints=settings.providers)
            with suppress(StoreError):
                store.present(None)
    except DeviceFault:
        _say("The device failed. The worker ends, as only a new process can use it again.")
        return FAULTY
    except Timeout:
        _say(f"Another worker serves {settings.data} already; there is never more than one.")
        return ALREADY_SERVED
    except (SettingsError, StoreError) as error:
        _say(str(error))
        return 2
    return 0


def _open(data: Path, stop: threading.Event) -> JobStore | None:
    """The store, once no other program holds it; None if the worker is to end before."""
    while not stop.is_set():
        try:
            return JobStore(data, patience=PATIENCE_SECONDS)
        except StoreBusy as error:
            _say(str(error))
            stop.wait(RETRY_SECONDS)
    return None


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


def _log_to(folder: Path, keys: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(folder / "worker.log", maxBytes=1_000_000, backupCount=3, encoding="utf-8")
    handler.setFormatter(_Discreet(keys))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for client in ("httpx", "httpx2"):  # they log the addresses that they ask, and some of those are signed
        logging.getLogger(client).setLevel(logging.WARNING)
    faulthandler.enable()  # a crash in native code leaves its stack on stderr, which the server keeps in a file
    log.info("Worker %d serves %s", os.getpid(), folder.parent)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
