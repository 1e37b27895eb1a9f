"""What the studio's tests share."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.jobs import Brief
from app.store import JobStore
from mova.spec import ClipSpec


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "data")


@pytest.fixture
def brief() -> Brief:
    return make_brief()


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
