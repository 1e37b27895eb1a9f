"""What the pages' tests share: a data folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.store import JobStore


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDIO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("STUDIO_CHECKPOINT", raising=False)
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> JobStore:
    return JobStore(data)
