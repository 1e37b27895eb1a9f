from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app import supervisor
from app.store import JobStore
from app.supervisor import Supervisor, WorkerState
from app.worker import is_running
from tests.app.conftest import wait_for


def worker(data: Path) -> list[str]:
    return [sys.executable, "-m", "tests.app.fakes", "0", "--data", str(data), "--follow"]


def counting(file: Path, then: str) -> list[str]:
    """A program that notes that it ran."""
    return [sys.executable, "-c", f"open({str(file)!r}, 'a').write('x'); {then}"]


def test_it_starts_a_worker_and_ends_it(store: JobStore) -> None:
    watcher = Supervisor(store.data, worker(store.data))
    assert watcher.state is WorkerState.STARTING
    watcher.start()
    wait_for(lambda: watcher.state is WorkerState.READY)
    assert is_running(store.data)
    watcher.end()
    assert not is_running(store.data)


def test_it_uses_the_worker_that_is_there_and_takes_over_when_that_ends(store: JobStore, tmp_path: Path) -> None:
    first, second = Supervisor(store.data, worker(store.data)), Supervisor(store.data, worker(store.data))
    first.start()
    wait_for(lambda: first.state is WorkerState.READY)
    second.start()
    wait_for(lambda: second.state is WorkerState.READY)
    first.end()
    wait_for(lambda: is_running(store.data))
    second.end()
    assert not is_running(store.data)


def test_it_starts_a_dead_worker_again_and_gives_up_in_the_end(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "DEATHS", 3)
    watcher = Supervisor(store.data, counting(tmp_path / "runs", "raise SystemExit('no engine today')"))
    watcher.start()
    wait_for(lambda: watcher.state is WorkerState.FAILED)
    watcher.end()
    assert (tmp_path / "runs").read_text() == "xxx"
    assert "no engine today" in (store.data / "logs" / "worker-output.log").read_text()


def test_a_worker_that_does_not_go_is_killed(store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.2)
    watcher = Supervisor(store.data, counting(tmp_path / "runs", "import time; time.sleep(600)"))
    watcher.start()
    wait_for((tmp_path / "runs").exists)
    watcher.end()
