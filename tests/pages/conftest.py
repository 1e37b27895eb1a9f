"""What the pages' tests share: a data folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from app import desk
from app.store import JobStore
from tests.pages.chromium import CHROMIUM, FLAGS


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDIO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("STUDIO_CHECKPOINT", raising=False)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def nothing_was_tried() -> None:
    """What other tests' endpoints answered is known to the process, and is forgotten."""
    desk.probes.clear()


@pytest.fixture
def store(data: Path) -> JobStore:
    return JobStore(data)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
