"""A studio process whose worker only pretends: the real server, queue and files, and a clip in a moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.settings import ROOT
from app.worker import is_running
from tests.app.conftest import wait_for
from tests.studio import studio


@contextmanager
def pretending(data: Path, seconds_per_step: float = 0.0) -> Iterator[str]:
    """Its address, for the length of a ``with``."""
    command = [sys.executable, "-m", "tests.app.fakes", str(seconds_per_step), "--data", str(data)]
    with subprocess.Popen(command, cwd=ROOT) as worker:
        try:
            wait_for(lambda: is_running(data))
            with studio(data) as address:
                yield address
        finally:
            worker.terminate()
