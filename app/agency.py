"""The models of one run: connected when they are first asked, watched while they work, closed before rendering."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from agents.addresses import is_here
from agents.models import (
    Ability,
    Endpoint,
    Model,
    Painter,
    Writer,
    abilities,
    address_of,
    connect_painter,
    connect_writer,
    full,
    names,
    problem,
    provider_of,
    split,
)
from agents.troubles import AgentError
from app import attending
from app.jobs import Brief, Step

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks whether a job is still wanted
LET_GO_SECONDS = 5.0  # for a call that was given up to end; after that it ends by its own timeout

SEE_OFF_SECONDS = 300.0  # for weights to be loaded to their end, before others come

# What each step asks of its model.
ABILITIES = {
    Step.IMAGE_PROMPT: Ability.TEXT,
    Step.FIRST_FRAME: Ability.IMAGE,
    Step.ELEMENTS: Ability.VISION,
    Step.VIDEO_PROMPT: Ability.TEXT,
}

BUILTIN = "builtin"

Result = TypeVar("Result")


def problems(brief: Brief, endpoints: Mapping[str, Endpoint]) -> dict[Step, AgentError]:
    """What keeps the steps of a brief from running, by step, found without any call."""
    if brief.full is None:
        return {}
    found = {step: problem(brief.full.models.get(step, ""), ABILITIES[step], endpoints) for step in brief.steps}
    return {step: error for step, error in found.items() if error}


def offered(step: Step, endpoints: Mapping[str, Endpoint]) -> list[str]:
    """The choices for this step by name: what the studio was told of first, then what it could be told of.

    Any other model of these endpoints may be chosen too.
    """
    ability = ABILITIES[step]
    able = [name for name in names(endpoints) if ability in abilities(address_of(name, endpoints))]
    choices = [full(name, ability, endpoints) for name in able]

    def is_far(choice: str) -> bool:
        return not told(choice, endpoints) or problem(choice, ability, endpoints) is not None

    return sorted(choices, key=is_far)


def told(choice: str, endpoints: Mapping[str, Endpoint]) -> bool:
    """Whether the studio was told anything about its endpoint; the built-in needs nothing."""
    return split(choice)[0] == BUILTIN or address_of(split(choice)[0], endpoints).configured


def usual(step: Step, endpoints: Mapping[str, Endpoint]) -> str:
    """What a step is done by unless its creator chooses: the first that was set up and can do it, or the built-in."""
    choices = offered(step, endpoints)
    ready = [each for each in choices if told(each, endpoints) and problem(each, ABILITIES[step], endpoints) is None]
    return next((each for each in ready if split(each)[0] != BUILTIN), next(iter(ready), BUILTIN))


def is_heavy(choice: str, endpoints: Mapping[str, Endpoint]) -> bool:
    """Whether its provider loads weights into this process."""
    provider = provider_of(address_of(split(choice)[0], endpoints))
    return provider is not None and provider.heavy


class Models:
    """Connections of one run, each made when it is first asked for.

    Weights that a model brings into this process have it to themselves: ``make_room`` frees the engine before, and one
    such model goes before another comes.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint], make_room: Callable[[], None]) -> None:
        self._endpoints = endpoints
        self._make_room = make_room
        self._open: dict[tuple[str, Ability], Model] = {}

    def writer(self, brief: Brief, step: Step) -> Writer:
        """The one that the brief has chosen for this step. Raises ``AgentError``."""
        choice, ability = self._key(brief, step)
        found = self._open.get((choice, ability)) or self._sees(choice)
        if not isinstance(found, Writer):
            self._prepare(choice)
            found = self._open[choice, ability] = connect_writer(choice, ability, self._endpoints)
        return found

    def painter(self, brief: Brief) -> Painter:
        """The one that the brief has chosen for the first frame. Raises ``AgentError``."""
        choice, ability = self._key(brief, Step.FIRST_FRAME)
        found = self._open.get((choice, ability))
        if not isinstance(found, Painter):
            self._prepare(choice)
            found = self._open[choice, ability] = connect_painter(choice, self._endpoints)
        return found

    def close(self) -> None:
        """Let all of them go."""
        while self._open:
            _, model = self._open.popitem()
            model.close()

    def release(self, brief: Brief) -> None:
        """Let all models of this brief go, those too that an earlier run has left in another server's memory."""
        self.close()
        _see_off()
        for step in brief.steps:
            choice, ability = self._key(brief, step)
            address = address_of(split(choice)[0], self._endpoints)
            if is_here(address) and problem(choice, ability, self._endpoints) is None:
                if ability is Ability.IMAGE:
                    connect_painter(choice, self._endpoints).close()
                else:
                    connect_writer(choice, ability, self._endpoints).close()

    def _key(self, brief: Brief, step: Step) -> tuple[str, Ability]:
        assert brief.full
        return brief.full.models.get(step, ""), ABILITIES[step]

    def _sees(self, choice: str) -> Model | None:
        """Weights of that choice which are here already: those that see can write as well, and need no second place."""
        return self._open.get((choice, Ability.VISION)) if is_heavy(choice, self._endpoints) else None

    def _prepare(self, choice: str) -> None:
        if not is_heavy(choice, self._endpoints):
            return
        for key in [key for key in self._open if is_heavy(key[0], self._endpoints)]:
            self._open.pop(key).close()
        _see_off()
        self._make_room()


def attend(call: Callable[[], Result], model: Model, tick: Callable[[], None]) -> Result:
    """Make a call in a thread of its own, and ``tick`` meanwhile; what that raises closes the model and ends the wait.

    Raises:
        AgentError: of the call.
    """

    def give_up(thread: threading.Thread) -> None:
        began = time.monotonic()
        model.close()
        thread.join(LET_GO_SECONDS)
        _given_up.append(thread)
        log.info("A call was given up; it ended %.1f s later", time.monotonic() - began)

    return attending.attend(call, tick, give_up, every=LOOK_SECONDS)


_given_up: list[threading.Thread] = []  # calls whose jobs didn't wait for their end


def _see_off() -> None:
    """Wait for calls that were given up: one may be in the middle of loading weights, which nothing can stop."""
    deadline = time.monotonic() + SEE_OFF_SECONDS
    while _given_up:
        _given_up.pop().join(max(0.0, deadline - time.monotonic()))
