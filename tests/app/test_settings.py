from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from agents.models import Endpoint
from app import settings
from app.origins import in_force
from app.settings import SettingsError, load

PLANTED = "sk-planted-0123456789"


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
    assert (found.checkpoint, found.device, found.dtype, found.offload) == (None, "auto", "auto", "auto")
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
        ("preset", "slow"),
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
    lines = [
        line.removeprefix("# ") if " = " in line or line.startswith("# [") else line for line in example.splitlines()
    ]
    secrets.write_text("\n".join(lines))
    assert load().loudness == -14


# Models' endpoints, and that their keys get nowhere


def test_an_endpoint_is_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_PROVIDERS__OPENAI__API_KEY", PLANTED)
    monkeypatch.setenv("STUDIO_PROVIDERS__MY_VLLM__PROVIDER", "openai")
    monkeypatch.setenv("STUDIO_PROVIDERS__MY_VLLM__BASE_URL", "http://192.0.2.7:8000/v1")
    monkeypatch.setenv("STUDIO_PROVIDERS__MY_VLLM__TIMEOUT", "7.5")
    found = load()
    assert set(found.providers) == {"openai", "my_vllm"}
    assert found.providers["my_vllm"].timeout == 7.5
    assert settings.secrets(found.providers) == (PLANTED,)
    assert PLANTED not in repr(found) + str(found.model_dump()) + found.model_dump_json()


def test_an_endpoint_is_told_by_secrets_toml(secrets: Path) -> None:
    secrets.write_text(f'[studio.providers.gemini]\napi_key = "{PLANTED}"\n')
    assert settings.secrets(load().providers) == (PLANTED,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STUDIO_PROVIDERS__OPENAI__APIKEY", PLANTED),
        ("STUDIO_PROVIDERS__OPENAI__BASE_URL", PLANTED),
        ("STUDIO_PROVIDERS__OPENAI__TIMEOUT", PLANTED),
        ("STUDIO_PROVIDERS__OPENAI", PLANTED),
        ("STUDIO_PROVIDERS", PLANTED),
        ("STUDIO_PROVIDERS", f'{{"openai": "{PLANTED}"}}'),
    ],
)
def test_a_slip_with_a_key_is_explained_without_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"(?i)providers") as caught:
        load()
    told = "".join(traceback.format_exception(caught.value))
    assert PLANTED not in told


def test_every_secret_is_known_also_where_it_was_copied_with_blanks() -> None:
    endpoints = {
        "a": Endpoint(api_key=SecretStr(f" {PLANTED}\n")),
        "b": Endpoint(base_url="http://me:hunter2@192.0.2.7/v1"),
        "c": Endpoint(base_url="http://["),
    }
    assert settings.secrets(endpoints) == (PLANTED, "hunter2")


def test_what_is_in_force_is_shown_without_the_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_PROVIDERS__OPENAI__API_KEY", PLANTED)
    shown = in_force(load(), {})
    assert PLANTED not in str(shown)
    assert "providers" not in {setting.name for setting in shown}
