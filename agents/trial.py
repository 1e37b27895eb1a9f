"""Whether an endpoint answers: the smallest real call that it can be asked for."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

from agents.first_frame import paint
from agents.models import (
    Ability,
    Ask,
    Endpoint,
    Task,
    abilities,
    address_of,
    connect_painter,
    connect_writer,
    full,
    problem,
    provider_of,
    split,
)
from agents.prompts import instructions

SIDE = 512  # pixels of the picture that is painted; painters take the nearest that they make
SEEN_SIDE = 64  # pixels of the picture that is shown
PICTURE = "A red circle on a white ground."


@dataclass(frozen=True)
class Trial:
    """A call that went well: what was asked for, the model by the name that the server gave it, and how long it took.

    Where weights would have to be loaded for it, nothing was called, and ``seconds`` is None.
    """

    ability: Ability
    model: str
    seconds: float | None


def try_out(choice: str, endpoints: Mapping[str, Endpoint], clock: Callable[[], float] = time.monotonic) -> Trial:
    """Ask an endpoint, or a model of it, for one word, or for a small picture if it only paints.

    Raises:
        AgentError: it can't be used, or didn't answer.
    """
    address = address_of(split(choice)[0], endpoints)
    provider = provider_of(address)
    if provider and provider.heavy:
        return _looked_at(choice, endpoints)
    ability = tried(choice, endpoints)
    began = clock()
    if ability is Ability.IMAGE:
        painter = connect_painter(choice, endpoints)
        try:
            model = paint(painter, PICTURE, SIDE, SIDE, endpoint=address.title).model
            took = clock() - began
        finally:
            painter.close()
    else:
        writer = connect_writer(choice, ability, endpoints)
        images = (_seen(),) if ability is Ability.VISION else ()
        try:
            model = writer.write(Ask(Task.TEST, instructions(Task.TEST), {"say": "ok"}, images)).model
            took = clock() - began
        finally:
            writer.close()
    return Trial(ability, model or split(full(choice, ability, endpoints))[1], took)


def tried(choice: str, endpoints: Mapping[str, Endpoint]) -> Ability:
    """What an endpoint is asked for: what costs the least of what it can do."""
    able = abilities(address_of(split(choice)[0], endpoints))
    return next((ability for ability in Ability if ability in able), Ability.TEXT)


def _looked_at(choice: str, endpoints: Mapping[str, Endpoint]) -> Trial:
    """A model that is too heavy to be loaded for this: whether its files are there, for whatever it can do."""
    able = [ability for ability in Ability if ability in abilities(address_of(split(choice)[0], endpoints))]
    problems = {ability: problem(choice, ability, endpoints) for ability in able}
    for ability, error in problems.items():
        if error is None:
            return Trial(ability, split(full(choice, ability, endpoints))[1], None)
    raise next(error for error in problems.values() if error)


def _seen() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SEEN_SIDE, SEEN_SIDE), "white").save(buffer, "PNG")
    return buffer.getvalue()
