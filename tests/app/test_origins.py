from __future__ import annotations

from pathlib import Path

from app.origins import NOTE, Origin, came_from, handed_on, in_force
from app.settings import load


def test_the_first_in_order_is_named(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.toml"
    secrets.write_text('[studio]\nport = 1\ndevice = "cpu"\noffload = "layer"\n')
    found = came_from({"STUDIO_PORT": "2", "STUDIO_OFFLOAD": "none", "STUDIO_DTYPE": ""}, {"port": 3}, secrets)
    assert found["port"] is Origin.COMMAND_LINE
    assert found["offload"] is Origin.ENVIRONMENT
    assert found["device"] is Origin.SECRETS
    assert found["dtype"] is Origin.DEFAULT, "an empty variable sets nothing"


def test_what_is_handed_on_is_in_force_with_its_origins(tmp_path: Path) -> None:
    settings = load(data=tmp_path, port=9000)
    environment = handed_on(settings, came_from({}, {"data": tmp_path, "port": 9000}, tmp_path / "none.toml"))
    assert environment["STUDIO_DATA"] == str(tmp_path)
    assert "STUDIO_CHECKPOINT" not in environment
    found = {setting.name: setting for setting in in_force(settings, environment)}
    assert (found["data"].value, found["data"].origin) == (str(tmp_path), Origin.COMMAND_LINE)
    assert (found["port"].value, found["port"].origin) == ("9000", Origin.COMMAND_LINE)
    assert (found["host"].origin, found["checkpoint"].value) == (Origin.DEFAULT, None)


def test_without_a_note_the_environment_itself_says_it(tmp_path: Path) -> None:
    found = {setting.name: setting.origin for setting in in_force(load(data=tmp_path), {"STUDIO_DEVICE": "cpu"})}
    assert NOTE not in found
    assert found["device"] is Origin.ENVIRONMENT
