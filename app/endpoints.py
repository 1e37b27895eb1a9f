"""What can be told of each endpoint: what it can do, how it stands, what to set. Its key is never part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit

from agents.models import Ability, Address, Endpoint, abilities, address_of, known, names, problem, provider_of
from agents.trial import tried
from agents.troubles import Trouble
from app.explain import without
from app.settings import secrets


class State(StrEnum):
    """How an endpoint stands."""

    KEY_SET = "key_set"
    KEY_MISSING = "key_missing"
    SET_UP = "set_up"  # the studio was told of it, and it needs no key
    NOT_SET_UP = "not_set_up"  # it needs no key, but the studio was told nothing of it
    NOTHING_NEEDED = "nothing_needed"  # it works within the studio
    BROKEN = "broken"  # what was set can't be used


@dataclass(frozen=True)
class Row:
    """One endpoint. ``models``: those used where none is named, each with what it is used for."""

    name: str
    title: str
    state: State
    abilities: tuple[str, ...]
    address: str | None
    models: tuple[tuple[str, tuple[str, ...]], ...]
    problem: str | None  # a sentence of the agents'
    key_variable: str
    address_variable: str
    tried: str  # what a test asks for
    heavy: bool  # a test looks at its files, and loads nothing
    configured: bool  # whether the studio was told anything about it
    checked: date | None
    documentation: str

    @property
    def usable(self) -> bool:
        """Whether there is anything to test."""
        return self.state in (State.KEY_SET, State.SET_UP, State.NOTHING_NEEDED)

    @property
    def inside(self) -> bool:
        """Whether it is the built-in: no model, no network."""
        return self.state is State.NOTHING_NEEDED and not self.heavy

    @property
    def in_use(self) -> bool:
        """Whether the studio was told of it, or need not be."""
        return self.configured or self.inside


def all_rows(endpoints: Mapping[str, Endpoint]) -> list[Row]:
    """Every endpoint there is, in the order of ``known.toml``."""
    return [_row(name, endpoints) for name in names(endpoints)]


def _row(name: str, endpoints: Mapping[str, Endpoint]) -> Row:
    address, entry = address_of(name, endpoints), known().get(name)
    provider, able, keys = provider_of(address), abilities(address), secrets(endpoints)
    wrong = _problem(address, endpoints)
    return Row(
        name=name,
        title=address.title,
        state=_state(address, broken=wrong is not None),
        abilities=tuple(ability.value for ability in Ability if ability in able),
        address=_shown(address.base_url, keys) if address.base_url else None,
        models=_models(address),
        problem=without(wrong, keys) if wrong else None,
        key_variable=address.variable,
        address_variable=address.base_url_variable,
        tried=tried(name, endpoints).value,
        heavy=provider is not None and provider.heavy,
        configured=address.configured,
        checked=entry.checked if entry else None,
        documentation=entry.documentation if entry else "",
    )


def _problem(address: Address, endpoints: Mapping[str, Endpoint]) -> str | None:
    """What is wrong with what was set; what is still to be set has states of its own."""
    ability, provider = tried(address.name, endpoints), provider_of(address)
    error = problem(address.name, ability, endpoints)
    if error is None or error.trouble in (Trouble.MISSING_KEY, Trouble.NOT_SET_UP):
        return None
    if error.trouble is Trouble.NO_MODEL_NAMED and provider:
        return None if provider.heavy else provider.missing(address, "", ability)
    return str(error)


def _state(address: Address, *, broken: bool) -> State:
    provider = provider_of(address)
    if broken:
        return State.BROKEN
    if provider and not provider.remote:
        return State.NOTHING_NEEDED
    if address.key:
        return State.KEY_SET
    if address.needs_key:
        return State.KEY_MISSING
    return State.SET_UP if address.configured else State.NOT_SET_UP


def _models(address: Address) -> tuple[tuple[str, tuple[str, ...]], ...]:
    uses: dict[str, tuple[str, ...]] = {}
    for ability in Ability:
        if model := address.models.get(ability):
            uses[model] = (*uses.get(model, ()), ability.value)
    return tuple(uses.items())


def _shown(url: str, keys: tuple[str, ...]) -> str | None:
    """An address without what may be secret in it: a user, a password, a query. None if it can't be read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return without(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")), keys)
