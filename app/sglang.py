"""The engine that has clips made by SGLang servers: choose one, hand in, wait, fetch, and never wait for ever."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from app.attending import attend
from app.jobs import LOCAL, SGLANG, Brief, Draft, Machine, Remote, Rendered
from app.remote import FETCH_WAITS, Line, RemoteError, RemoteJob, cause
from app.servers import REPORTING, Look, State, look, made, number_of, sizes_of, unable
from app.settings import Server
from mova.picture import fit_picture, open_picture
from mova.spec import ClipSpec

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5  # between two looks whether the job is still wanted
LEAVE_SECONDS = 4.0  # for the answer to a job that was handed in and is no longer wanted; a worker's end waits for 10
GONE = ("cancelled", "cancelling", "deleted")
SERVER_GONE = ("lost", "silent", "unhealthy")
WORKER_DIED = "worker exited"  # in what a release that reports it says of every job it had

OnStep = Callable[[str, int, int], None]
Keep = Callable[[Remote | None], None]
Receive = Callable[[Path, Brief], Rendered]  # checks what came, and levels its sound; raises mova's MediaError
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """Seconds after which nothing more is waited for, and between two looks at a job (the first, the longest)."""

    late: float = 180 * 60.0  # for the clip, from when the job is begun or picked up
    silent: float = 60.0  # without any answer
    stalled: float = 30 * 60.0  # at the same step, where steps are told
    warm_up: float = 30 * 60.0
    health: float = 30.0  # between two looks at the server itself
    poll: tuple[float, float] = (0.5, 5.0)
    fetch: tuple[float, ...] = FETCH_WAITS  # between two tries at the clip


class SGLangEngine:
    """Renders on servers, by their names. ``receive`` checks what was fetched."""

    def __init__(
        self,
        data: Path,
        servers: Mapping[str, Server],
        receive: Receive,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._data, self._servers, self._receive = data, servers, receive
        self._limits = limits or Limits()
        self._clock, self._wait, self._now = clock, wait, now
        self._on = Machine(engine=SGLANG)

    def render(self, brief: Brief, draft: Draft, target: Path, on_step: OnStep, keep: Keep) -> Rendered:
        """As ``Engine.render``. What was handed in before is picked up; raises ``RemoteError`` where it ends badly."""
        for error in unable(brief):
            raise error
        watch = _Watch(on_step, self._limits.late, self._clock, self._wait)
        remote, resumed, tried = draft.remote, draft.remote is not None, set[str]()
        self._on = Machine(engine=SGLANG, device=remote and (remote.device or remote.server))
        if remote and not remote.id:
            keep(None)  # whoever starts it again knows that it may be made twice
            raise RemoteError("answer_lost", server=remote.server, why="the studio ended meanwhile")
        while True:
            remote = remote or self._hand_in(brief, draft, watch, keep, tried)
            try:
                return self._bring(remote, brief, target, watch)
            except RemoteError as error:
                if not _may_come(error):
                    keep(None)
                gone = resumed and error.name in ("lost", "no_such")
                tried.update(() if gone else (remote.server,))
                if not gone and not self._another(brief, error, tried):
                    raise
                log.warning("%s The job is handed in anew", error)
                remote, resumed = None, False

    def free(self) -> None:
        """As ``Engine.free``: the weights are elsewhere."""

    @property
    def loaded(self) -> bool:
        """As ``Engine.loaded``."""
        return False

    def machine(self) -> Machine:
        """As ``Engine.machine``."""
        return self._on

    def _another(self, brief: Brief, error: RemoteError, tried: set[str]) -> bool:
        """Whether a job that any server may make, and whose server is gone, may go to another one."""
        return (
            brief.engine == SGLANG
            and error.name in ("lost", "silent", "unhealthy")
            and bool(set(self._servers) - tried)
        )

    def _hand_in(self, brief: Brief, draft: Draft, watch: _Watch, keep: Keep, tried: set[str]) -> Remote:
        """Give the job to a server that is ready for it; one that takes no connection leaves it to the next."""
        picture = _picture(self._data, draft, brief)
        fields = _fields(brief.spec, draft.prompt or "")
        while True:
            name, seen = self._choose(brief, watch, tried)
            device = f"{name} · {seen.model} · SGLang {seen.version or '?'}"
            self._on = Machine(engine=SGLANG, device=device)
            address, at = self._servers[name].base_url, self._now()
            asked = Remote(server=name, base_url=address, id="", submitted_at=at, device=device)
            try:
                return watch.attend(
                    lambda asked=asked: self._submit(asked, fields, picture, keep),  # type: ignore[misc]
                    leave=LEAVE_SECONDS,
                )
            except RemoteError as error:
                tried.add(name)
                if error.name not in ("unreachable", "unhealthy") or not set(self._names(brief)) - tried:
                    raise
                log.warning("%s The next server is asked", error)

    def _submit(self, asked: Remote, fields: Mapping[str, str], picture: bytes, keep: Keep) -> Remote:
        """Hand it in and keep the answer, in one call: what the server has taken is noted whatever ends the wait."""
        server = self._servers[asked.server]
        with contextlib.closing(Line(asked.server, server.base_url, server.token)) as line:
            keep(asked)
            try:
                job = line.submit(fields, picture)
            except RemoteError:
                keep(None)
                raise
        log.info("%s has the job as %s", asked.server, job.id)
        remote = asked.model_copy(update={"id": job.id})
        keep(remote)
        return remote

    def _choose(self, brief: Brief, watch: _Watch, tried: set[str]) -> tuple[str, Look]:
        """The first server that is ready and makes this size; while some warm up, they are waited for."""
        names = [name for name in self._names(brief) if name not in tried]
        until = self._clock() + self._limits.warm_up
        while True:
            errors: list[RemoteError] = []
            warming = False
            for name in names:
                seen = watch.attend(lambda name=name: look(name, self._servers[name]))  # type: ignore[misc]
                error = seen.error or _unfit(name, seen, brief.spec)
                if error is None:
                    return name, seen
                warming = warming or seen.state is State.WARMING_UP
                errors.append(error)
            if not warming or self._clock() > until:
                raise errors[0] if len(errors) == 1 else RemoteError("nobody", each=" ".join(map(str, errors)))
            watch.rest(2.0)

    def _names(self, brief: Brief) -> list[str]:
        """The servers that may make this clip: the one that is named, or all."""
        if not self._servers:
            raise RemoteError("none")
        _, _, name = brief.engine.partition(":")
        if name and name not in self._servers:
            raise RemoteError("no_such", server=name, names=", ".join(self._servers))
        return [name] if name else list(self._servers)

    def _bring(self, remote: Remote, brief: Brief, target: Path, watch: _Watch) -> Rendered:
        """Wait for a job that was handed in, and fetch its clip."""
        server = self._servers.get(remote.server)
        if server is None:
            raise RemoteError("no_such", server=remote.server, names=", ".join(self._servers))
        watch.server = remote.server
        part = target.with_name(target.name + ".part")
        line = Line(remote.server, server.base_url, server.token, waits=self._limits.fetch)
        try:
            job = self._wait_for(remote, line, brief.spec, watch)
            watch("fetching", 0, 1)
            watch.attend(lambda: line.fetch(job, part), line)
            watch("writing", 0, 1)
            rendered = self._receive(part, brief)
            part.replace(target)
        except Exception as error:
            if type(error).__name__ != "MediaError" or _disk_full(error):  # mova's, which would bring FFmpeg with it
                raise
            raise RemoteError("bad_clip", server=remote.server, why=str(error)) from error
        finally:
            line.close()
            part.unlink(missing_ok=True)
        watch("writing", 1, 1)
        return rendered

    def _wait_for(self, remote: Remote, line: Line, spec: ClipSpec, watch: _Watch) -> RemoteJob:
        """Look at the job, at first often, until it is done."""
        pause, longest = self._limits.poll
        answered = moved = looked = self._clock()
        before, reports = None, number_of(self._version()) >= REPORTING
        while True:
            try:
                job = watch.attend(lambda: line.job(remote.id), line)
            except RemoteError as error:
                if error.name != "unreachable":
                    raise
                if self._clock() - answered > self._limits.silent:
                    raise self._over("silent", line, self._limits.silent, why=_reason(error)) from error
            else:
                answered = self._clock()
                if _is_done(job, line.name):
                    self._note_memory(job)
                    return job
                reports = reports or job.status == "in_progress"
                if (job.status, job.progress) != before:
                    before, moved = (job.status, job.progress), answered
                elif job.status == "in_progress" and answered - moved > self._limits.stalled:
                    raise self._over("stalled", line, self._limits.stalled)
                watch(*_phase(job, spec.num_inference_steps, reports))
            if self._clock() - looked > self._limits.health:
                looked = self._clock()
                self._see_to_health(remote.server, watch)
            watch.rest(pause)
            pause = min(pause * 1.5, longest)

    def _see_to_health(self, name: str, watch: _Watch) -> None:
        seen = watch.attend(lambda: look(name, self._servers[name]))
        if seen.state is State.UNHEALTHY and seen.error:
            raise seen.error

    def _version(self) -> str | None:
        """The release that the job was handed to, as far as it was looked at."""
        return (self._on.device or "").rpartition("SGLang ")[2] or None

    def _note_memory(self, job: RemoteJob) -> None:
        if job.peak_memory_mb:
            self._on = self._on.model_copy(update={"peak_memory": {"cuda": int(job.peak_memory_mb) << 20}})

    def _over(self, name: str, line: Line, seconds: float, **values: str) -> RemoteError:
        return RemoteError(name, server=line.name, minutes=f"{seconds / 60:.3g}", **values)


class _Watch:
    """Tells of the phase under way while calls are made and pauses kept; what telling raises ends them at once."""

    def __init__(self, on_step: OnStep, late: float, clock: Callable[[], float], wait: Callable[[float], None]) -> None:
        self._on_step, self._late, self._clock, self._wait = on_step, late, clock, wait
        self._until = clock() + late
        self.server = "The server"
        self._last = ("waiting", 0, 1)

    def __call__(self, phase: str, step: int, total: int) -> None:
        self._last = (phase, step, total)
        self._on_step(phase, step, total)
        if self._clock() > self._until:
            raise RemoteError("late", server=self.server, minutes=f"{self._late / 60:.3g}")

    def rest(self, seconds: float) -> None:
        """Wait so long."""
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            self(*self._last)
            self._wait(min(left, TICK_SECONDS))

    def attend(self, call: Callable[[], Result], line: Line | None = None, leave: float = 0.0) -> Result:
        """Make a call in a thread of its own, which is left alone where the job is no longer wanted.

        What it does on ``line`` ends then; ``leave``: seconds that it has to end by itself.
        """

        def give_up(thread: threading.Thread) -> None:
            if line:
                line.close()
            thread.join(leave)

        return attend(call, lambda: self(*self._last), give_up, every=TICK_SECONDS)


def is_remote(brief: Brief) -> bool:
    """Whether a server is to make it."""
    return brief.engine != LOCAL


def _may_come(error: RemoteError) -> bool:
    """Whether the clip may still be there to be fetched, by another try at the same job."""
    answers = ("silent", "late", "stalled", "denied", "unreachable", "not_sglang")
    return error.name in (*answers, "broken_off", "no_clip", "not_video")


def _disk_full(error: BaseException | None) -> bool:
    """Whether it is this machine's disk that failed."""
    return error is not None and (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _disk_full(error.__cause__)
    )


def _unfit(name: str, seen: Look, spec: ClipSpec) -> RemoteError | None:
    size = (spec.width, spec.height)
    if seen.model is None or made(size, seen.model) == size:
        return None
    valid = ", ".join(f"{width} × {height}" for width, height in sizes_of(seen.model))
    size_in_words = f"{spec.width} × {spec.height}"
    return RemoteError("other_size", server=name, model=seen.model, valid=valid, size=size_in_words)


def _is_done(job: RemoteJob, name: str) -> bool:
    """Whether the clip is there. A status that isn't known means that it isn't yet."""
    if job.status == "failed":
        memory, said = cause(job.error)
        if memory:
            raise RemoteError("memory", server=name)
        raise RemoteError("unhealthy" if WORKER_DIED in said else "failed", server=name, said=said)
    if job.status in GONE:
        raise RemoteError("lost", server=name)
    return job.status == "completed"


def _phase(job: RemoteJob, steps: int, reports: bool) -> tuple[str, int, int]:
    """Releases that don't report say "queued" to the very end."""
    if not reports:
        return "remote", 0, 1
    if job.status != "in_progress":
        return "waiting", 0, 1
    if job.progress >= 99:
        return "decoding", 0, 1
    return "denoising", job.progress * steps // 100, steps


def _fields(spec: ClipSpec, prompt: str) -> dict[str, str]:
    """Everything that matters, as the servers' defaults aren't MOVA's."""
    return {
        "prompt": prompt.strip() or " ",  # an empty one is refused
        "size": f"{spec.width}x{spec.height}",
        "num_frames": str(spec.num_frames),
        "fps": str(round(spec.fps)),
        "seed": str(spec.seed),
        "num_inference_steps": str(spec.num_inference_steps),
        "guidance_scale": f"{spec.guidance_scale:g}",
        "negative_prompt": spec.negative_prompt,
    }


def _picture(data: Path, draft: Draft, brief: Brief) -> bytes:
    """The first frame cut to the clip's size, so that the server's own cutting changes nothing; white without one."""
    spec = brief.spec
    if draft.first_frame is None:
        picture = Image.new("RGB", (spec.width, spec.height), "white")
    else:
        source = open_picture(data / draft.first_frame)
        picture = fit_picture(source, spec.height, spec.width, position=brief.first_frame_position)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _reason(error: RemoteError) -> str:
    return str(error).partition(": ")[2].rstrip(".")
