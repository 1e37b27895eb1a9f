"""Keeps a worker on a data folder until its queue is empty: what the command line leaves behind where no studio runs.

``python -m app.keeper --data DIR``; a process of its own, so that Ctrl+C on whoever waits doesn't end the rendering.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from app.jobs import Mode, Status
from app.settings import ROOT
from app.store import JobStore, StoreError
from app.supervisor import Supervisor, WorkerState

log = logging.getLogger("app.keeper")

LOOK_SECONDS = 0.25  # between two looks at the queue
LOCK_SECONDS = 2.0  # for those who hold the worker's lock just to see whether one is there
LOG = "keeper.log"
FAILED = 1  # exit status: no worker lives long enough to serve the folder


def start(data: Path, environment: Mapping[str, str], worker: Sequence[str] | None = None) -> subprocess.Popen[bytes]:
    """Start a keeper, which outlives us. ``worker`` replaces the program that it starts.

    Raises:
        OSError: it can't be.
    """
    logs = data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "app.keeper", "--data", str(data), *(("--", *worker) if worker else ())]
    with (logs / LOG).open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def keep(store: JobStore, supervisor: Supervisor) -> bool:
    """See to it that a worker serves the folder until nothing is left to do; False if none lives.

    What a worker of ours had just claimed as it was told to end is put back, and served.
    """
    supervisor.start()
    try:
        while True:
            looked = time.time()
            if not _is_needed(store):
                break
            if supervisor.state is WorkerState.FAILED:
                return False
            time.sleep(LOOK_SECONDS)
    finally:
        supervisor.end()
    _put_back(store, looked)
    return True


def _put_back(store: JobStore, looked: float) -> None:
    """Queue again what our worker claimed after this look; one that was killed has left it running."""
    lock = FileLock(store.data / "worker.lock")
    try:
        with lock.acquire(timeout=LOCK_SECONDS):
            put_back = store.put_back(looked, running=True)
    except Timeout:  # a worker of others', which has closed what ours left: what runs now is its own
        put_back = store.put_back(looked, running=False)
    for job_id in put_back:
        log.warning("Job %s had just begun; it is put back", job_id)


def _is_needed(store: JobStore) -> bool:
    """Whether anything runs, or waits and may run."""
    try:
        states = {job.status for job in store.queue()}
        return Status.RUNNING in states or (Status.QUEUED in states and store.mode() is Mode.RUNNING)
    except StoreError as error:  # a disk that is full for a while: the worker insists as well
        log.warning("%s", error)
        return True


def main(arguments: list[str] | None = None) -> int:
    """The keeper as a program; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m app.keeper", description="Keeps a worker until the queue is empty."
    )
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("worker", nargs="*", help="the worker's command, after --")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        store = JobStore(given.data)
        while keep(store, Supervisor(given.data, given.worker or None)):
            if not _is_needed(store):
                return 0
    except StoreError as error:
        log.error("%s", error)
        return FAILED
    log.error("No worker lives; see %s", given.data / "logs" / "worker-output.log")
    return FAILED


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
