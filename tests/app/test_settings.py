from __future__ import annotations

from pathlib import Path

import pytest

from app import settings
from app.settings import SettingsError, load


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"STUDIO_{name.upper()}", raising=False)
    file = tmp_path / "secrets.toml"
    monkeypatch.setattr(settings, "SECRETS", file)
    return file


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load()
    assert (found.host, found.port, found.data) == ("127.0.0.1", 8501, tmp_path / "data")
    assert (found.checkpoint, found.device, found.dtype, found.offload) == (None, "auto", "auto", "none")
    assert (found.free_first_expert, found.loudness, found.watchdog_minutes) == (False, None, 10)


def test_command_line_over_environment_over_secrets(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.write_text('[studio]\nport = 1\ndevice = "cuda:1"\noffload = "layer"\n')
    monkeypatch.setenv("STUDIO_PORT", "2")
    monkeypatch.setenv("STUDIO_OFFLOAD", "component")
    found = load(port=3)
    assert (found.port, found.offload, found.device) == (3, "component", "cuda:1")


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_CHECKPOINT", "")
    assert load().checkpoint is None


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDIO_CHECKPOINT", "models/MOVA-360p")
    assert load(data="there").data == tmp_path / "there"
    assert load().checkpoint == tmp_path / "models" / "MOVA-360p"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "99999"),
        ("port", "eight"),
        ("device", "tpu"),
        ("dtype", "int8"),
        ("offload", "half"),
        ("free_first_expert", "perhaps"),
        ("loudness", "3"),
        ("loudness", "nan"),
        ("watchdog_minutes", "0"),
    ],
)
def test_a_bad_value_is_named_with_its_place(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"STUDIO_{name.upper()}", value)
    with pytest.raises(SettingsError, match=rf"{name} = '{value}' can't be used: .* Set STUDIO_{name.upper()}"):
        load()


def test_a_misspelt_secret_is_said(secrets: Path) -> None:
    secrets.write_text("[studio]\nofload = 'layer'\n")
    with pytest.raises(SettingsError, match=r"no setting 'ofload' .* offload"):
        load()


def test_broken_secrets_are_said(secrets: Path) -> None:
    secrets.write_text("[studio\n")
    with pytest.raises(SettingsError, match="can't be read as TOML"):
        load()


def test_the_example_of_secrets_is_valid_when_uncommented(secrets: Path) -> None:
    example = (settings.ROOT / ".streamlit" / "secrets.toml.example").read_text()
    secrets.write_text("\n".join(line.removeprefix("# ") if " = " in line else line for line in example.splitlines()))
    assert load().loudness == -14
