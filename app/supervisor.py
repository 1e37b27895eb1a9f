"""Keeps one worker process on a data folder: starts it, starts it again if it dies, and ends it with the server."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from app.jobs import Worker
from app.settings import ROOT
from app.store import JobStore, StoreError
from app.worker import GRACE_SECONDS, is_running

log = logging.getLogger(__name__)

DEATHS = 5  # in a row, before giving up
LIVED = 60.0  # seconds after which a worker's death is no longer one of a row
LOOK = 0.1  # seconds between two looks at the worker
WISH = 1.0  # seconds between two looks for the wish that it be killed


class WorkerState(StrEnum):
    """Whether the folder is served. Another program's worker is as good as our own."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class Supervisor:
    """Watches over the worker from a thread of its own."""

    def __init__(self, data: Path, command: Sequence[str] | None = None) -> None:
        self._data = data
        self._command = command or (sys.executable, "-m", "app.worker", "--data", str(data), "--follow")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="worker-supervisor", daemon=True)
        self._looked = 0.0
        self._store: JobStore | None = None
        self.state = WorkerState.STARTING

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def end(self) -> None:
        """End our worker, if there is one, and wait for it."""
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        deaths = 0
        while not self._ending.is_set():
            if is_running(self._data):  # somebody else's
                self.state = WorkerState.READY
                if worker := self._unwanted():
                    _kill(worker.pid)
                self._ending.wait(1.0)
                continue
            self.state = WorkerState.STARTING
            began = time.monotonic()
            try:
                status = self._run_one()
            except OSError as error:  # no room for its log, no program to start
                log.warning("The worker can't be started (%s)", error)
                status = 1
            if self._ending.is_set():
                return
            if status is None:
                continue
            deaths = 1 if time.monotonic() - began > LIVED else deaths + 1
            log.warning("The worker ended with status %s; see %s", status, self._data / "logs")
            if deaths >= DEATHS:
                self.state = WorkerState.FAILED
                return
            self._ending.wait(2.0 ** (deaths - 2))

    def _run_one(self) -> int | None:
        """Start a worker and stay with it to its end; its exit status, None if it was killed because it hung."""
        logs = self._data / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / "worker-output.log").open("wb") as output:
            process = subprocess.Popen(
                self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )
        with process:
            while process.poll() is None and not self._ending.is_set():
                if self.state is not WorkerState.READY and is_running(self._data):
                    self.state = WorkerState.READY
                worker = self._unwanted()
                if worker and worker.pid == process.pid:
                    process.kill()
                    process.wait()
                    return None
                self._ending.wait(LOOK)
            _end(process)
        return process.returncode

    def _unwanted(self) -> Worker | None:
        """The worker of this machine that somebody wants killed, if there is one; looked for once in a while."""
        if time.monotonic() - self._looked < WISH:
            return None
        self._looked = time.monotonic()
        try:
            self._store = self._store or JobStore(self._data, patience=WISH)
            worker = self._store.ending()
        except StoreError as error:
            log.warning("%s", error)
            return None
        if worker is None or worker.host != platform.node():
            return None
        log.warning("Worker %d hung on job %s and is killed", worker.pid, worker.job)
        return worker


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has but one way, and that is sure


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the worker follows, and kill it if it doesn't go."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(timeout=GRACE_SECONDS / 2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
