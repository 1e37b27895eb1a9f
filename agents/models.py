"""What the agents ask of models, and how a model is reached: ``connect("provider:model", …)``.

A provider is one file of ``agents/providers/`` that holds a ``PROVIDER``. An endpoint is a provider with an address and
a key, under a name of its own; ``known.toml`` has those that most people use. A choice is ``endpoint:model``, or the
endpoint alone for the model that ``known.toml`` names.
"""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from agents import providers
from agents.troubles import AgentError, Trouble

PICTURE_TYPES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))


class Ability(StrEnum):
    """What a model can be asked for: text from text, text from pictures, or a picture."""

    TEXT = "text"
    VISION = "vision"
    IMAGE = "image"


class Task(StrEnum):
    """What a writer is asked to write."""

    IMAGE_PROMPT = "image_prompt"
    SHORTEN = "shorten"
    ELEMENTS = "elements"
    VIDEO_PROMPT = "video_prompt"
    TEST = "test"


@dataclass(frozen=True)
class Ask:
    """One request to a writer.

    Models read ``system``, ``user`` and ``images`` (PNG or JPEG files); the built-in, which reads no instructions, goes
    by ``task`` and ``material``: named texts of the creator's and of earlier stages, such as ``idea`` and ``elements``.
    """

    task: Task
    system: str
    material: Mapping[str, str] = field(default_factory=dict)
    images: tuple[bytes, ...] = ()
    json: bool = False  # whether the answer is to be one JSON object

    @property
    def user(self) -> str:
        """The material as a model reads it: each text between tags that it cannot close itself."""
        return "\n\n".join(
            f"<{name}>\n{text.replace('</', '< /')}\n</{name}>" for name, text in self.material.items() if text.strip()
        )


@dataclass(frozen=True)
class Written:
    """A writer's answer; tokens where they were reported, and the model by the name that the server gave it."""

    text: str
    model: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(frozen=True)
class Painted:
    """A painter's answer: a picture file as it came (PNG, JPEG, WebP)."""

    picture: bytes
    model: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None


class Model(Protocol):
    """A model that is connected to."""

    def close(self) -> None:
        """Give back what it holds: a connection, weights, another server's memory. May be called while it works."""


@runtime_checkable
class Writer(Model, Protocol):
    """A model that writes. All that can go wrong is an ``AgentError``."""

    def write(self, ask: Ask) -> Written:
        """The answer to one request, which is never empty."""


@runtime_checkable
class Painter(Model, Protocol):
    """A model that paints. All that can go wrong is an ``AgentError``."""

    @property
    def longest(self) -> int | None:
        """The characters that its prompt may have; None: as many as one likes."""

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        """One picture, of the ratio ``width:height`` or the nearest that the model makes; it may be larger."""


class Endpoint(BaseModel):
    """A provider's address and key, as the studio is told them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    provider: str | None = None  # a file of agents/providers/; None: the one that known.toml names, or its own name
    api_key: SecretStr | None = None
    base_url: str | None = Field(None, pattern=r"^https?://")
    timeout: float = Field(120.0, gt=0, le=3600)  # seconds for one answer


class Known(BaseModel):
    """An endpoint that most people use, as ``known.toml`` describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    provider: str
    base_url: str | None = None
    needs_key: bool = True
    models: dict[Ability, str] = {}  # what to use where no model is named
    longest: int | None = None  # characters that a painter's prompt may have
    checked: date | None = None  # when the models were last compared with the documentation
    documentation: str = ""


@dataclass(frozen=True)
class Address:
    """All that a provider needs to connect: an endpoint with what ``known.toml`` says of it."""

    name: str
    provider: str
    title: str
    base_url: str | None
    api_key: SecretStr | None
    needs_key: bool
    timeout: float
    longest: int | None
    models: Mapping[Ability, str]
    configured: bool  # whether the studio was told anything about it

    @property
    def key(self) -> str:
        """The key in the clear, for the provider's client alone; empty if there is none."""
        return self.api_key.get_secret_value() if self.api_key else ""

    @property
    def variable(self) -> str:
        """Where its key is set."""
        return f"STUDIO_PROVIDERS__{self.name.upper()}__API_KEY"

    @property
    def base_url_variable(self) -> str:
        """Where its base URL is set."""
        return f"STUDIO_PROVIDERS__{self.name.upper()}__BASE_URL"


@dataclass(frozen=True)
class Provider:
    """What one file of ``agents/providers/`` offers, as its ``PROVIDER``.

    ``connect`` makes the model of that name a ``Writer`` or a ``Painter``, whichever the ability asks for, without any
    call. ``missing`` says in a sentence what keeps an address (and a model, if one is named) from being used; a key
    that is missing is found without it. ``remote``: whether the creator's words leave this machine.
    """

    abilities: frozenset[Ability]
    connect: Callable[[Address, str, Ability], Writer | Painter]
    missing: Callable[[Address, str, Ability], str | None] = lambda address, model, ability: None
    remote: bool = True
    heavy: bool = False  # whether it loads weights into this process, for which the engine has to make room


def connect_writer(choice: str, ability: Ability, endpoints: Mapping[str, Endpoint]) -> Writer:
    """The writer of that choice. Raises ``AgentError`` if ``problem`` would find one."""
    model = _connect(choice, ability, endpoints)
    assert isinstance(model, Writer), choice
    return model


def connect_painter(choice: str, endpoints: Mapping[str, Endpoint]) -> Painter:
    """The painter of that choice. Raises ``AgentError`` if ``problem`` would find one."""
    model = _connect(choice, Ability.IMAGE, endpoints)
    assert isinstance(model, Painter), choice
    return model


def problem(choice: str, ability: Ability, endpoints: Mapping[str, Endpoint]) -> AgentError | None:
    """What keeps a choice from being used for this, found without any call; None if nothing does."""
    name, model = split(choice)
    address = address_of(name, endpoints)
    provider = provider_of(address)
    if provider is None:
        return AgentError(Trouble.NO_SUCH_PROVIDER, endpoint=name, known=", ".join(names({})))
    if ability not in abilities(address):
        return AgentError(Trouble.CANNOT, endpoint=address.title, ability=ability)
    model = model or address.models.get(ability, "")
    if not model:
        return AgentError(Trouble.NO_MODEL_NAMED, endpoint=address.title, name=name)
    if untold := _untold(address):
        return untold
    if missing := provider.missing(address, model, ability):
        return AgentError(Trouble.NOT_HERE, said=missing)
    return None


def split(choice: str) -> tuple[str, str]:
    """The endpoint and the model of a choice; the model is empty where only the endpoint is named."""
    name, _, model = choice.strip().partition(":")
    return name.strip(), model.strip()


def full(choice: str, ability: Ability, endpoints: Mapping[str, Endpoint]) -> str:
    """The choice with its model named, as far as one is known."""
    name, model = split(choice)
    model = model or address_of(name, endpoints).models.get(ability, "")
    return f"{name}:{model}" if model else name


def names(endpoints: Mapping[str, Endpoint]) -> list[str]:
    """Every endpoint there is: those of ``known.toml``, providers beyond them, and those the studio was told of."""
    return list(dict.fromkeys([*known(), *provider_names(), *endpoints]))


def address_of(name: str, endpoints: Mapping[str, Endpoint]) -> Address:
    """What is known of that endpoint, told or in ``known.toml``; an address nobody knows has no provider."""
    told, row = endpoints.get(name), known().get(name)
    endpoint = told or Endpoint()
    return Address(
        name=name,
        provider=endpoint.provider or (row.provider if row else name),
        title=row.title if row else name,
        base_url=endpoint.base_url or (row.base_url if row else None),
        api_key=endpoint.api_key,
        needs_key=row.needs_key if row else False,
        timeout=endpoint.timeout,
        longest=row.longest if row else None,
        models=row.models if row else {},
        configured=told is not None,
    )


def provider_of(address: Address) -> Provider | None:
    """The provider of an address; None if there is no file of that name."""
    if address.provider not in provider_names():
        return None
    found = importlib.import_module(f"{providers.__name__}.{address.provider}").PROVIDER
    assert isinstance(found, Provider), address.provider
    return found


def abilities(address: Address) -> frozenset[Ability]:
    """What may be asked of an address: what its provider can do, less what ``known.toml`` says that it can't."""
    provider = provider_of(address)
    if provider is None:
        return frozenset()
    row = known().get(address.name)
    return provider.abilities & frozenset(row.models) if row and row.models else provider.abilities


def provider_names() -> list[str]:
    """The files of ``agents/providers/``."""
    return sorted(module.name for module in pkgutil.iter_modules(providers.__path__))


@cache
def known() -> dict[str, Known]:
    """The endpoints of ``known.toml``."""
    rows = tomllib.loads(Path(__file__).with_name("known.toml").read_text(encoding="utf-8"))
    return {name: Known.model_validate(row) for name, row in rows.items()}


def picture_type(picture: bytes) -> str:
    """The media type of a picture file, by its first bytes."""
    return next((kind for start, kind in PICTURE_TYPES if picture.startswith(start)), "application/octet-stream")


def _untold(address: Address) -> AgentError | None:
    """What the studio would have to be told first: a key, or that a server without one is there."""
    if address.needs_key and not address.key:
        return AgentError(Trouble.MISSING_KEY, endpoint=address.title, variable=address.variable, name=address.name)
    if address.base_url and not address.needs_key and not address.configured:
        variable = address.base_url_variable
        return AgentError(Trouble.NOT_SET_UP, endpoint=address.title, variable=variable, address=address.base_url)
    return None


def _connect(choice: str, ability: Ability, endpoints: Mapping[str, Endpoint]) -> Writer | Painter:
    if wrong := problem(choice, ability, endpoints):
        raise wrong
    name, model = split(choice)
    address = address_of(name, endpoints)
    provider = provider_of(address)
    assert provider
    return provider.connect(address, model or address.models[ability], ability)
