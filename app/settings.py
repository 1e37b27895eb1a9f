"""What the studio is told: by the environment (``STUDIO_…``), then ``.streamlit/secrets.toml``, then defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError as SourceError

from agents.models import Endpoint
from app.jobs import HUNG_SECONDS, Offload, Preset

ROOT = Path(__file__).resolve().parent.parent
SECRETS = ROOT / ".streamlit" / "secrets.toml"
TABLE = "studio"  # the table of secrets.toml that is ours; Streamlit exports what stands outside of tables


class SettingsError(Exception):
    """A setting cannot be used; the message names it, its value and where it may be set."""


class Server(BaseModel):
    """An SGLang server's address. ``token`` is for a proxy in front of it: the server itself asks for none."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = Field(pattern=r"^https?://")
    token: SecretStr | None = None

    @field_validator("base_url")
    @classmethod
    def _callable(cls, address: str) -> str:
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL:  # its words repeat the address
            url = httpx.URL()
        if not url.host or "%" in url.host or not 0 < (url.port or 80) < 2**16:
            raise ValueError("it isn't an address such as http://gpu:30000")
        return address


class Settings(BaseSettings):
    """Everything that may differ between two machines. Paths are absolute once validated."""

    model_config = SettingsConfigDict(
        env_prefix="STUDIO_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
    )

    data: Path = Path("data")
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8501, ge=0, le=65535)
    checkpoint: Path | None = None
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    offload: Offload = "auto"
    preset: Preset = "exact"
    free_first_expert: bool = False
    watchdog_minutes: float = Field(HUNG_SECONDS / 60, gt=0)  # without a report, after which a job is said to hang
    loudness: float | None = Field(None, ge=-70, le=0)  # LUFS to level the sound to; None leaves it as it is
    token: SecretStr | None = None  # what pages and API ask for; demanded where the studio isn't on loopback alone
    sglang: dict[str, Server] = {}  # servers that render, by name
    sglang_minutes: float = Field(180, gt=0)  # after which a server's clip is no longer waited for
    providers: dict[str, Endpoint] = {}  # addresses and keys of models, by the name that a choice has

    @field_validator("data", "checkpoint")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else path

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, ``[studio]`` of secrets.toml; first come, first served."""
        secrets = TomlConfigSettingsSource(settings_cls, toml_file=SECRETS, toml_table_header=(TABLE,))
        return init_settings, env_settings, secrets


def load(**given: Any) -> Settings:
    """The settings in force, ``given`` (a command line) above all else.

    Raises:
        SettingsError: one sentence per setting that cannot be used.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        sentences = [_sentence(dict(item)) for item in error.errors()]
    except SourceError:  # its words repeat the value, which may hold keys
        sentences = ["A setting isn't the JSON object that it would have to be: STUDIO_PROVIDERS or STUDIO_SGLANG."]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        sentences = [f"{SECRETS} can't be read as TOML ({error}). Mend that line."]
    raise SettingsError("\n".join(sentences))  # outside of the handlers: the cause has the values that were given


def secrets(endpoints: Mapping[str, Endpoint]) -> tuple[str, ...]:
    """Every key that the studio was told, in the clear: what may stand in no log and no failure."""
    keys = [endpoint.api_key.get_secret_value().strip() for endpoint in endpoints.values() if endpoint.api_key]
    passwords = [_password(endpoint.base_url or "") for endpoint in endpoints.values()]
    return tuple(secret for secret in (*keys, *passwords) if secret)


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:  # no address; whoever wants to use it says so
        return None


def _sentence(item: dict[str, Any]) -> str:
    name = str(item["loc"][0])
    if name in SECRETIVE:  # what was given may be a key, and isn't repeated
        return _without_its_value(item)
    if item["type"] == "extra_forbidden":
        known = ", ".join(Settings.model_fields)
        return f"There is no setting {name!r} in [{TABLE}] of {SECRETS}; the settings are: {known}."
    where = f"Set STUDIO_{name.upper()}, or {name} under [{TABLE}] in {SECRETS}."
    return f"The setting {name} = {item['input']!r} can't be used: {item['msg'].lower()}. {where}"


def _without_its_value(item: dict[str, Any]) -> str:
    name, *entries = (str(part) for part in item["loc"])
    form = SECRETIVE[name]
    if form is None:
        where = f"Set STUDIO_{name.upper()}, or {name} under [{TABLE}] in {SECRETS}."
        return f"The setting {name} can't be used: {item['msg']}. {where}"
    unknown = f"there is no such entry; there are {', '.join(form.model_fields)}"
    said = unknown if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
    where = f"Set STUDIO_{name.upper()}__NAME__…, or entries under [{TABLE}.{name}.name] in {SECRETS}."
    return f"The setting {'.'.join((name, *entries))} can't be used: {said}. {where}"


# What may hold a key, and the entries that it has.
SECRETIVE: dict[str, type[BaseModel] | None] = {"providers": Endpoint, "sglang": Server, "token": None}
