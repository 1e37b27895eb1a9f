"""What can be told of each SGLang server: how it stands, its release, its model; looked at beside the pages."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agents.addresses import shown
from app.jobs import Brief
from app.remote import Answer, Line, RemoteError
from app.settings import Server

LOOK_SECONDS = 3.0  # for each of the two calls of a look
FRESH_SECONDS = 20.0  # for which a look is good
OLDEST = (0, 5, 10)
REPORTING = (0, 5, 23)  # the first release that tells of progress, and of a worker that died
MODELS = {"MOVA-360p": (640, 352), "MOVA-720p": (1280, 720)}  # each with the size whose pixels it spends
SIZE_MULTIPLE = 16


class State(StrEnum):
    """How a server stands."""

    READY = "ready"
    WARMING_UP = "warming_up"
    UNHEALTHY = "unhealthy"
    UNREACHABLE = "unreachable"
    DENIED = "denied"
    TOO_OLD = "too_old"
    OTHER_MODEL = "other_model"
    NOT_SGLANG = "not_sglang"


@dataclass(frozen=True)
class Look:
    """How a server stood at a look; ``error`` is what is wrong, if anything is. ``model`` as in ``MODELS``."""

    state: State
    model: str | None = None
    version: str | None = None
    error: RemoteError | None = None
    at: float = 0.0

    @property
    def reports(self) -> bool:
        """Whether its release tells how far a job is."""
        return number_of(self.version) >= REPORTING


def look(name: str, server: Server, *, seconds: float = LOOK_SECONDS, clock: Callable[[], float] = time.time) -> Look:
    """Ask a server how it stands, by calls that a warm-up and a running job leave free; ends within twice ``seconds``.

    ``/health`` first, then ``/server_info``, which releases before 0.5.10 don't have.
    """
    try:
        with contextlib.closing(Line(name, server.base_url, server.token, ask_seconds=seconds)) as line:
            return _judged(name, line, clock())
    except RemoteError as error:
        return Look(State.UNREACHABLE, error=error, at=clock())


def made(size: tuple[int, int], model: str) -> tuple[int, int]:
    """The (width, height) that the model makes of what is asked: the ratio counts, the pixels are its own."""
    width, height = size
    pixels = MODELS[model][0] * MODELS[model][1]
    return _floored((pixels * width / height) ** 0.5), _floored((pixels * height / width) ** 0.5)


def sizes_of(model: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (width, height) pairs to ask that model for, landscape first."""
    width, height = MODELS[model]
    return (width, height), (height, width)


def unable(brief: Brief) -> list[RemoteError]:
    """What a brief asks for that no server can do over HTTP."""
    spec = brief.spec
    asked = {
        "no_last_frame": brief.last_frame is not None,
        "no_bridge": spec.bridge_guidance_scale != 1.0,
        "no_shift": spec.video_shift is not None or spec.audio_shift is not None,
        "no_offload": brief.offload not in ("auto", "none"),
        "no_preset": brief.preset != "exact",
        "no_fps": spec.fps != round(spec.fps),
    }
    return [RemoteError(name, fps=f"{spec.fps:g}") for name, is_asked in asked.items() if is_asked]


def number_of(version: str | None) -> tuple[int, ...]:
    """0.5.10.post1 as (0, 5, 10); nothing where no release is told."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    return tuple(int(part or 0) for part in found.groups()) if found else ()


class Servers:
    """The last look at each server, made in threads: asking waits for none. ``look`` makes the calls."""

    def __init__(
        self,
        look: Callable[[str, Server], Look] = look,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._look, self._clock = look, clock
        self._lock = threading.Lock()
        self._looks: dict[tuple[str, str], Look] = {}
        self._under_way: set[tuple[str, str]] = set()

    def seen(self, servers: Mapping[str, Server]) -> dict[str, Look | None]:
        """How each stood when it was last looked at, None before; those that are no longer fresh are looked at anew."""
        now, found = self._clock(), {}
        for name, server in servers.items():
            key = (name, server.base_url)
            with self._lock:
                last = found[name] = self._looks.get(key)
                due = key not in self._under_way and (last is None or not 0 <= now - last.at < FRESH_SECONDS)
                if due:
                    self._under_way.add(key)
            if due:
                threading.Thread(target=self._run, args=(name, server), daemon=True, name=f"look at {name}").start()
        return found

    def looking(self) -> bool:
        """Whether any is being looked at just now."""
        with self._lock:
            return bool(self._under_way)

    def _run(self, name: str, server: Server) -> None:
        key, seen = (name, server.base_url), None
        try:
            seen = self._look(name, server)
        finally:
            with self._lock:
                self._under_way.discard(key)
                if seen:
                    self._looks[key] = seen


def _judged(name: str, line: Line, at: float) -> Look:
    health = line.ask("/health")
    info = line.ask("/server_info")
    told: dict[str, Any] = info.body if info.status == 200 and isinstance(info.body, dict) else {}
    version = told.get("version") if isinstance(told.get("version"), str) else None
    path = str(told.get("model_path") or "")
    model = _model(f"{path} {told.get('served_model_name') or ''}")
    state, error = _stands(name, health, info, path, version)
    if state is State.READY and model is None:
        state, error = State.OTHER_MODEL, RemoteError("other_model", server=name, model=path[:100])
    return Look(state, model, version, error, at)


def _stands(
    name: str, health: Answer, info: Answer, path: str, version: str | None
) -> tuple[State, RemoteError | None]:
    """A 503 without a word is a warm-up, one with words a server that won't come back by itself."""
    talks = isinstance(health.body, dict)
    if denied := {401, 403} & {health.status, info.status}:
        return State.DENIED, RemoteError("denied", server=name, status=denied.pop())
    if (info.status == 404 and health.status == 200 and talks) or (version and number_of(version) < OLDEST):
        return State.TOO_OLD, RemoteError("too_old", server=name)
    if health.status == 503 and (path or info.status in (503, 404)):
        if talks:
            return State.UNHEALTHY, RemoteError("unhealthy", server=name, said=health.said)
        return State.WARMING_UP, RemoteError("warming_up", server=name)
    if not path or health.status != 200:
        said = info.said if info.status != 200 else f"/health {health.status}, no model in /server_info"
        return State.NOT_SGLANG, RemoteError("not_sglang", server=name, said=said)
    return State.READY, None


def _model(names: str) -> str | None:
    names = names.lower()
    found = next((model for model in MODELS if model[-4:] in names), None)
    return found if "mova" in names else None


def _floored(side: float) -> int:
    return round(side) // SIZE_MULTIPLE * SIZE_MULTIPLE


def address_of(server: Server) -> str:
    """Its address, without what may be secret in it."""
    return shown(server.base_url)
