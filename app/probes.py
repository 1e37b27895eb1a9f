"""Tests of endpoints under way: each in a thread of its own, whose outcome any page may look at. No key is kept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agents.models import Endpoint
from agents.trial import Trial, try_out
from agents.troubles import AgentError
from app.explain import without
from app.settings import secrets

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """Since when (seconds since the epoch)."""

    since: float


@dataclass(frozen=True)
class Passed:
    """What came of it, and when."""

    trial: Trial
    at: float


@dataclass(frozen=True)
class Failed:
    """Why, in a sentence of the agents', and when."""

    sentence: str
    at: float


Outcome = Running | Passed | Failed


class Probes:
    """The last test of each endpoint, by its name. ``try_out`` makes the call; what it raises is an ``AgentError``."""

    def __init__(
        self,
        try_out: Callable[[str, Mapping[str, Endpoint]], Trial] = try_out,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._try_out = try_out
        self._clock = clock
        self._lock = threading.Lock()
        self._outcomes: dict[str, Outcome] = {}

    def start(self, name: str, endpoints: Mapping[str, Endpoint], model: str = "") -> None:
        """Test an endpoint, by a model of that name if one is given; nothing if a test of it is under way."""
        with self._lock:
            if isinstance(self._outcomes.get(name), Running):
                return
            self._outcomes[name] = Running(self._clock())
        choice = f"{name}:{model}" if model else name
        threading.Thread(target=self._run, args=(name, choice, endpoints), daemon=True, name=f"probe {name}").start()

    def result(self, name: str) -> Outcome | None:
        """How the last test of that endpoint stands; None if there was none."""
        with self._lock:
            return self._outcomes.get(name)

    def _run(self, name: str, choice: str, endpoints: Mapping[str, Endpoint]) -> None:
        try:
            trial, said = self._try_out(choice, endpoints), ""
        except AgentError as error:
            trial, said = None, str(error)
        except Exception as error:  # noqa: BLE001  its words may hold a key, and nobody waits for this thread
            kind, place = type(error).__name__, _place(error)
            log.error("The test of %s broke off: %s at %s", name, kind, place)
            trial, said = None, f"The test broke off ({kind}). The studio's log says where."
        now = self._clock()
        outcome = Passed(trial, now) if trial else Failed(without(said, secrets(endpoints)), now)
        with self._lock:
            self._outcomes[name] = outcome


def _place(error: BaseException) -> str:
    """The file and line that an error comes from."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
