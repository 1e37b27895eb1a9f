"""Keeps one worker process on a data folder: starts it, starts it again if it dies, and ends it with the server."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from app.settings import ROOT
from app.worker import GRACE_SECONDS, is_running

log = logging.getLogger(__name__)

DEATHS = 5  # in a row, before giving up
LIVED = 60.0  # seconds after which a worker's death is no longer one of a row
LOOK = 0.1  # seconds between two looks at the worker


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
                self._ending.wait(1.0)
                continue
            self.state = WorkerState.STARTING
            began = time.monotonic()
            status = self._run_one()
            if self._ending.is_set():
                return
            deaths = 1 if time.monotonic() - began > LIVED else deaths + 1
            log.warning("The worker ended with status %s; see %s", status, self._data / "logs")
            if deaths >= DEATHS:
                self.state = WorkerState.FAILED
                return
            self._ending.wait(2.0 ** (deaths - 2))

    def _run_one(self) -> int | None:
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
                self._ending.wait(LOOK)
            _end(process)
        return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the worker follows, and kill it if it doesn't go."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(timeout=GRACE_SECONDS / 2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
