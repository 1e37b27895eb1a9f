"""What all tests share: none reaches the network, not from a program of its own either; none finds the user's keys."""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import providers
from agents.models import names
from app.settings import ROOT
from tests.agents.wire import Wire
from tests.agents.wire import wire as loopback

GUARD = ROOT / "tests" / "guard"
PROVIDERS = ROOT / "tests" / "providers"
LIVE = "STUDIO_TESTS_LIVE"  # set by a person: the tests marked `live` reach the network, with that person's keys


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(LIVE):
        return
    for name in [name for name in os.environ if name.startswith("STUDIO_")]:
        del os.environ[name]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(GUARD), str(ROOT), os.environ.get("PYTHONPATH"))))
    runpy.run_path(str(GUARD / "sitecustomize.py"))


@pytest.fixture(autouse=True, scope="session")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where whoever reaches out is noted."""
    notes = tmp_path_factory.mktemp("network") / "tried.txt"
    notes.touch()
    os.environ["STUDIO_TESTS_TRIED"] = str(notes)
    return notes


@pytest.fixture(autouse=True)
def nobody_reaches_out(tried: Path) -> Iterator[None]:
    yield
    said = tried.read_text(encoding="utf-8")
    tried.write_text("", encoding="utf-8")
    assert not said, f"The network was asked for:\n{said}"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> str:
    """The tests' own provider, there for one test: its file lies where providers are looked for."""
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, str(PROVIDERS)])
    assert "scripted" in names({})
    return "scripted"


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A server on the loopback that answers as a test tells it to."""
    with loopback() as server:
        yield server
