"""The Settings page, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from app.jobs import Mode, Status
from app.settings import Settings
from app.store import JobStore
from app.texts import catalogue
from mova.layout import MODEL_INDEX
from tests.pages import stage
from tests.pages.stage import click, look, shown, visit


def test_what_is_in_force_and_where_it_comes_from(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_OFFLOAD", "layer")
    text = shown(visit("settings"))
    assert f"`data` **{store.data}**" in text
    assert "`offload` **layer**" in text
    assert "environment (STUDIO_OFFLOAD)" in text
    assert "`watchdog_minutes` **10**" in text
    assert "`free_first_expert` **no**" in text
    assert "`loudness` **not set**" in text


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained(name: str) -> None:
    assert f"settings.about_{name}" in catalogue()


def test_chinese(store: JobStore) -> None:
    text = shown(visit("settings", "zh"))
    for words in (
        "当前生效",
        "环境变量（STUDIO_DATA）",
        "默认值",
        "本机",
        "回收站",
        "没有运行",
    ):
        assert words in text


def test_the_playground_is_there_before_it_is_made(store: JobStore) -> None:
    text = shown(visit("settings"))
    assert "MOVA-playground" in text
    assert "Made when first used" in text
    assert str(store.data / "checkpoints") in text


def test_a_checkpoint_with_something_missing_says_what(store: JobStore) -> None:
    folder = store.data / "checkpoints" / "MOVA-broken"
    folder.mkdir(parents=True)
    (folder / MODEL_INDEX).write_text("{}")
    page = visit("settings")
    assert "MOVA-broken" in shown(page)
    assert "1 problem" in shown(page)
    assert "model_index.json" in page.error[0].value.replace("\\", "")


def test_machine_and_disk_have_figures(store: JobStore) -> None:
    text = shown(visit("settings"))
    for words in ("Main memory", "Free on this disk", "GB", "Database", "Trash"):
        assert words in text


def test_the_trash_is_emptied_only_when_asked_twice(store: JobStore) -> None:
    job = stage.finished(store)
    folder = store.data / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clip.mp4").write_bytes(b"0" * 5000)
    assert visit("settings").button(key="purge").disabled, "the trash is empty"
    click(visit("clip", job=job.id), "delete")
    page = click(visit("settings"), "purge")
    assert look(store, job.id)
    assert "5 KB of deleted clips" in shown(page)
    click(page, "purge_confirm")
    assert store.get(job.id) is None
    assert not folder.exists()


def test_the_trash_can_be_kept(store: JobStore) -> None:
    job = stage.finished(store)
    (store.data / job.folder).mkdir(parents=True, exist_ok=True)
    (store.data / job.folder / "clip.mp4").write_bytes(b"0" * 5000)
    store.delete(job.id)
    page = click(visit("settings"), "purge")
    click(page, "keep")
    assert store.get(job.id) is not None


def test_the_engine_can_be_freed_and_the_queue_resumed(store: JobStore) -> None:
    job = stage.running(store)
    page = click(visit("settings"), "free_engine")
    assert store.mode() is Mode.PAUSED
    assert look(store, job.id).status is Status.QUEUED
    click(page, "resume")
    assert store.mode() is Mode.RUNNING


def test_the_worker_and_its_log(store: JobStore) -> None:
    assert "Not running" in shown(visit("settings"))
    assert "has written no log yet" in shown(visit("settings"))
    logs = store.data / "logs"
    logs.mkdir()
    (logs / "worker.log").write_text("".join(f"line {number}\n" for number in range(500)))
    with FileLock(store.data / "worker.lock"):
        page = visit("settings")
    assert "Running" in shown(page)
    lines = page.code[0].value.splitlines()
    assert (len(lines), lines[-1]) == (200, "line 499")


def test_secrets_are_never_shown(store: JobStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.toml"
    secrets.write_text('[studio]\nloudness = -23.0\n[providers]\napi_key = "hush"\n')
    monkeypatch.setattr("app.settings.SECRETS", secrets)
    monkeypatch.setattr("app.origins.SECRETS", secrets)
    text = shown(visit("settings"))
    assert "`loudness` **-23**" in text
    assert "secrets.toml" in text
    assert "hush" not in text
