"""Where each setting in force came from, and how that is handed on to the pages and the worker."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.settings import SECRETS, TABLE, Settings

NOTE = "STUDIO_ORIGINS"  # name -> origin, as JSON; beside the settings themselves in the environment
SECRET = ("providers", "sglang", "token")  # holds keys, and is shown elsewhere without them
HANDED_ON = ("data", "checkpoint", "host", "port")  # what a command line or a working directory may have changed


class Origin(StrEnum):
    """Who set a setting; the first in this order wins."""

    COMMAND_LINE = "command_line"
    ENVIRONMENT = "environment"
    SECRETS = "secrets"
    DEFAULT = "default"


@dataclass(frozen=True)
class InForce:
    """One setting: its value as text, ``None`` if it is not set, and where that came from."""

    name: str
    value: str | bool | None
    origin: Origin


def came_from(
    environment: Mapping[str, str], given: Collection[str] = (), secrets: Path = SECRETS
) -> dict[str, Origin]:
    """Every setting's origin. ``given`` names those of the command line."""
    kept = tomllib.loads(secrets.read_text(encoding="utf-8")).get(TABLE, {}) if secrets.is_file() else {}
    found = {}
    for name in Settings.model_fields:
        if name in given:
            found[name] = Origin.COMMAND_LINE
        elif environment.get(f"STUDIO_{name.upper()}"):
            found[name] = Origin.ENVIRONMENT
        else:
            found[name] = Origin.SECRETS if name in kept else Origin.DEFAULT
    return found


def handed_on(settings: Settings, origins: Mapping[str, Origin]) -> dict[str, str]:
    """What the environment has to say for pages and worker to have these settings, and to know their origins."""
    values = {name: getattr(settings, name) for name in HANDED_ON}
    said = {f"STUDIO_{name.upper()}": str(value) for name, value in values.items() if value is not None}
    return said | {NOTE: json.dumps(origins)}


def in_force(settings: Settings, environment: Mapping[str, str]) -> list[InForce]:
    """Every setting without a key; by the note of the studio that runs, or else by the environment as it is."""
    note = environment.get(NOTE)
    origins = {name: Origin(origin) for name, origin in json.loads(note).items()} if note else came_from(environment)
    return [
        InForce(name, value if value is None or isinstance(value, bool) else _words(value), origins[name])
        for name, value in ((name, getattr(settings, name)) for name in Settings.model_fields if name not in SECRET)
    ]


def _words(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
