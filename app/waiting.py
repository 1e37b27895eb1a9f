"""Waits for jobs to end, and sees to it meanwhile that a worker serves their folder."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence

from app.jobs import Job, Mode, Status
from app.keeper import FAILED
from app.store import JobStore, StoreBusy
from app.telling import Left, Show
from app.worker import is_running

POLL_SECONDS = 0.5
SERVED_SECONDS = 1.0  # between two looks whether a worker serves the folder
PAUSED = "The queue is paused; nothing runs until it is resumed on the page Queue."

StartKeeper = Callable[[], "subprocess.Popen[bytes]"]


class NotServedError(Exception):
    """No worker can be had; the message says where the reason stands."""


class Service:
    """Has a worker serve the folder for as long as something waits: whichever is there, or one with a keeper."""

    def __init__(
        self, store: JobStore, start_keeper: StartKeeper | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without ``start_keeper`` only a worker of others' does."""
        self._store = store
        self._start_keeper = start_keeper
        self._clock = clock
        self._keeper: subprocess.Popen[bytes] | None = None
        self._looked = -SERVED_SECONDS

    def __call__(self) -> None:
        """See to it; cheap, so that it can be called again and again.

        Raises:
            NotServedError: the keeper gave up.
            OSError: it can't be started.
        """
        if self._start_keeper is None or self._clock() - self._looked < SERVED_SECONDS:
            return
        self._looked = self._clock()
        if self._keeper is not None:
            status = self._keeper.poll()
            if status is None:
                return
            if status == FAILED:
                logs = self._store.data / "logs"
                raise NotServedError(f"No worker could be kept running; {logs / 'worker-output.log'} says why.")
            self._keeper = None
        if not is_running(self._store.data) and self._store.mode() is not Mode.PAUSED:
            self._keeper = self._start_keeper()


def is_settled(job: Job) -> bool:
    """Whether nothing more happens to it by itself."""
    return not job.status.active or job.deleted_at is not None


def wait(
    store: JobStore,
    jobs: Sequence[Job],
    show: Show,
    service: Service,
    warn: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> list[Job]:
    """Tell how these jobs go until all are settled; how they stand then. One that was purged is as it was last."""
    said: set[str] = set()
    interrupted = False
    while True:
        try:
            jobs, left = _look(store, jobs)
            paused = store.mode() is Mode.PAUSED
        except StoreBusy as error:  # a backup, a virus scanner: it goes by
            _say_once(str(error), said, warn)
            pause(POLL_SECONDS)
            continue
        show(jobs, left)
        waiting = [job for job in jobs if not is_settled(job)]
        if not waiting and (interrupted or not any(job.status is Status.INTERRUPTED for job in jobs)):
            return jobs
        interrupted = not waiting  # a keeper that had just begun a job as it went puts it back: look once more
        if paused and waiting:
            _say_once(PAUSED, said, warn)
        service()
        pause(POLL_SECONDS)


def _look(store: JobStore, jobs: Sequence[Job]) -> tuple[list[Job], Left]:
    """The jobs as they are now, and the seconds that each of the queue still takes."""
    jobs = [store.get(job.id) or job.model_copy(update={"status": Status.CANCELLED}) for job in jobs]
    now = time.time()
    times = store.finish_times(now) if any(job.status.active for job in jobs) else {}
    return jobs, {job_id: None if at is None else max(0.0, at - now) for job_id, at in times.items()}


def _say_once(sentence: str, said: set[str], warn: Callable[[str], None]) -> None:
    if sentence not in said:
        said.add(sentence)
        warn(sentence)
