"""What the studio's tests share."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.jobs import Brief, Job
from app.settings import ROOT
from app.store import JobStore
from mova.spec import ClipSpec

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "data")


@pytest.fixture
def brief() -> Brief:
    return make_brief()


@pytest.fixture
def start(store: JobStore) -> Iterator[Start]:
    """Starts workers on the store's folder; all are ended with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(seconds_per_step: float = 0.0, *options: str, **popen: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.app.fakes", str(seconds_per_step), "--data", str(store.data), *options]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, **popen)
        running.append(process)
        return process

    yield start
    for process in running:
        with process:  # closes its pipes
            process.kill()


def found(store: JobStore, job: Job) -> Job:
    """The job as it is now."""
    now = store.get(job.id)
    assert now
    return now


def ended(store: JobStore, job: Job) -> Job:
    """The job once it has ended."""
    wait_for(lambda: not found(store, job).status.active)
    return found(store, job)


def under_way(store: JobStore, job: Job) -> None:
    """Wait until the job is being denoised."""
    wait_for(lambda: (progress := found(store, job).progress) and progress.phase == "denoising")


def make_brief(prompt: str = "A gull lands on a pier.", steps: int = 3, **changes: Any) -> Brief:
    spec = ClipSpec(width=64, height=48, num_frames=5, fps=10, num_inference_steps=steps, seed=7)
    return Brief(prompt=prompt, checkpoint="checkpoints/MOVA-playground", spec=spec, **changes)


def picture(width: int = 40, height: int = 30, colour: str = "red", kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, kind, **options)
    return buffer.getvalue()


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until ``condition`` is truthy, and give what it gave; fails rather than hangs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"It did not come about within {seconds} seconds.")
