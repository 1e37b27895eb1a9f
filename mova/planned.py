"""The plan in force: after an out-of-memory, the next one down, and a note that says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from mova.memory import out_of_memory, release_memory
from mova.plan import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")
Lower = Callable[[Plan, str], Plan | None]  # (plan, phase) -> the next plan with less memory in that phase

TOLD = {"text": "reading the prompt", "frame": "encoding the frame", "denoising": "denoising", "decoding": "decoding"}


class Planned:
    """A plan that may be lowered on the way.

    Args:
        plan: what to begin with.
        lower: finds the next plan; None if there is nothing left to give.
        make_room: lets go of what an earlier plan kept on the device and this one doesn't count on.
    """

    def __init__(self, plan: Plan, lower: Lower, make_room: Callable[[Plan], None] = lambda _plan: None) -> None:
        self.plan = plan
        self.notes: list[str] = []
        self._lower = lower
        self._make_room = make_room

    def make_room(self) -> None:
        """Before each phase, and before it is tried again."""
        self._make_room(self.plan)

    def surviving(self, phase: str, attempt: Callable[[Plan], T]) -> T:
        """What ``attempt`` gives under the plan in force; out of memory, it is tried again under the next one.

        Raises:
            RuntimeError, MemoryError: the out-of-memory itself, if no plan with less memory is left.
        """
        while True:
            try:
                self.make_room()
                return attempt(self.plan)
            except (RuntimeError, MemoryError) as error:
                self.lower(phase, error)
            release_memory()  # only here: the error's frames held tensors

    def lower(self, phase: str, error: Exception) -> None:
        """Put the next plan into force, or raise ``error`` if it is no out-of-memory or nothing is left to give."""
        plan = self._lower(self.plan, phase) if out_of_memory(error) else None
        if plan is None:
            raise error
        self.notes.append(_said(phase, self.plan, plan))
        logger.warning("%s (%s)", self.notes[-1], error)
        self.plan = plan


def _said(phase: str, before: Plan, after: Plan) -> str:
    changed = (name for name in _CHANGES if getattr(before, name) != getattr(after, name))
    changes = ", ".join(_CHANGES[name](after) for name in changed)
    return f"Memory ran out while {TOLD.get(phase, phase)}; it went on with less: {changes or after.offload}."


_CHANGES: dict[str, Callable[[Plan], str]] = {
    "text": lambda plan: "the text encoder on the CPU" if plan.text == "cpu" else "the text encoder part by part",
    "slots": lambda plan: f"{plan.slots} layers on the device at a time",
    "text_kv": lambda _plan: "the text's keys and values computed at every step",
    "token_chunk": lambda plan: f"{plan.token_chunk} tokens at a time",
    "vae_tile": lambda plan: f"pictures in tiles of {plan.vae_tile} pixels",
    "tiles_wait": lambda _plan: "what tiles remember waiting in RAM",
}
