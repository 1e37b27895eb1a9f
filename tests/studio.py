"""The studio as a process of its own, for the tests that need one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.settings import ROOT
from tests.app.conftest import wait_for


@contextmanager
def studio(data: Path, *options: str, cwd: Path = ROOT) -> Iterator[str]:
    """``python -m app`` on a free port; gives its address once /health says that it is ready."""
    command = [sys.executable, "-m", "app", "--port", "0", "--data", str(data), *options]
    paths = (os.environ.get("PYTHONPATH"), str(ROOT))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "it prints its address first"
            wait_for(lambda: _ready(found[0]))
            yield found[0]
        finally:
            process.terminate()


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=30).status_code == 200
    except httpx.TransportError:
        return False
