"""How jobs are told on a command line: as an object, a line, or a bar with the time that is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from app.jobs import Job, Status

SHORT = 8  # letters of an id that are enough for a person
AGAIN_SECONDS = 30.0  # after which a line is said again though nothing but a step has changed
LONGEST_PROMPT = 60

Left = Mapping[str, float | None]  # id -> seconds until the job is done; None: not known


class Show(Protocol):
    """Tells how jobs stand, again and again."""

    def __call__(self, jobs: Sequence[Job], left: Left) -> None:
        """Tell it."""

    def close(self) -> None:
        """Nothing more will be told."""


def as_object(job: Job, data: Path, left: float | None = None) -> dict[str, Any]:
    """A job as programs read it. Keys are only ever added. Times are seconds since the epoch, paths absolute."""
    brief, spec, progress, failure = job.brief, job.brief.spec, job.progress, job.failure
    return {
        "id": job.id,
        "status": str(job.status),
        "workflow": "full" if brief.full else "simple",
        "prompt": brief.prompt,
        "engine": brief.engine,
        "checkpoint": job.checkpoint_name,
        "width": spec.width,
        "height": spec.height,
        "num_frames": spec.num_frames,
        "fps": spec.fps,
        "steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "seed": spec.seed,
        "offload": brief.offload,
        "preset": brief.preset,
        "loudness": brief.loudness,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "device": job.device,
        "plan": job.plan,
        "attention": job.attention,
        "engine_notes": list(job.notes),
        "seconds": job.seconds,
        "seconds_left": left,
        "progress": progress and {"phase": progress.phase, "step": progress.step, "total": progress.total},
        "failure": failure and {"kind": str(failure.kind), "sentence": failure.sentence, "remedy": failure.remedy},
        "review": str(step) if (step := reviewed_step(job)) else None,
        "clip": str(data / job.draft.clip) if job.draft.clip else None,
    }


def as_json(values: Mapping[str, Any]) -> str:
    """One object, on one line, in letters that every terminal and pipe takes."""
    return json.dumps(values)


def as_line(job: Job, left: float | None = None) -> str:
    """How a job stands, for a person or a log."""
    said = f"{job.id[:SHORT]}  {standing(job)}"
    return f"{said}, about {as_time(left)} left" if left is not None and job.status is Status.RUNNING else said


def standing(job: Job) -> str:
    """Its status, with the step that it is on."""
    if job.deleted_at is not None:
        return "deleted"
    if job.status is not Status.RUNNING:
        step = reviewed_step(job)
        return f"review of {step}" if step else str(job.status)
    if job.cancel:
        return "being cancelled"
    progress = job.progress
    if progress is None:
        return "started"
    return f"{progress.phase} {progress.step}/{progress.total}" if progress.total > 1 else progress.phase


def title(job: Job) -> str:
    """The beginning of its prompt, on one line."""
    words = " ".join(job.brief.prompt.split())
    return words if len(words) <= LONGEST_PROMPT else words[: LONGEST_PROMPT - 1] + "…"


def reviewed_step(job: Job) -> str | None:
    """The step whose outcome waits for its creator; None for a job that isn't in review."""
    if job.status is not Status.REVIEW:
        return None
    done = (step for step in job.brief.steps if job.draft.of(step) is not None)
    return next((str(step) for step in done if job.brief.is_reviewed(step) and step not in job.draft.passed), "steps")


def as_time(seconds: float) -> str:
    """Seconds as a clock shows them."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Lines:
    """A line for each job whose status or phase has changed, and once in a while for one that is at work."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._said: dict[str, tuple[str, float]] = {}

    def __call__(self, jobs: Sequence[Job], left: Left) -> None:
        """As ``Show``."""
        now = self._clock()
        for job in jobs:
            phase = job.progress.phase if job.progress and job.status is Status.RUNNING else ""
            news = f"{job.status} {phase} {job.cancel}"
            before, at = self._said.get(job.id, ("", 0.0))
            if news != before or (job.status is Status.RUNNING and now - at >= AGAIN_SECONDS):
                self._said[job.id] = news, now
                self._say(as_line(job, left.get(job.id)))

    def close(self) -> None:
        """As ``Show``."""


class Objects:
    """An object for each job that has changed in any way, the time left apart."""

    def __init__(self, say: Callable[[str], None], data: Path) -> None:
        self._say = say
        self._data = data
        self._said: dict[str, dict[str, Any]] = {}

    def __call__(self, jobs: Sequence[Job], left: Left) -> None:
        """As ``Show``."""
        for job in jobs:
            news = as_object(job, self._data)
            if news != self._said.get(job.id):
                self._said[job.id] = news
                self._say(as_json(as_object(job, self._data, left.get(job.id))))

    def close(self) -> None:
        """As ``Show``."""


class Bar:
    """One line on a terminal: the job that runs, how far its phase is, and the time until it is done."""

    def __init__(self, stream: TextIO) -> None:
        self._bar = tqdm(total=1, file=stream, bar_format="{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}", leave=False)

    def __call__(self, jobs: Sequence[Job], left: Left) -> None:
        """As ``Show``."""
        active = [job for job in jobs if job.status.active]
        if not active:
            return
        job = next((job for job in active if job.status is Status.RUNNING), active[0])
        progress, seconds = job.progress, left.get(job.id)
        ended = len(jobs) - len(active)
        self._bar.total = max(1, progress.total) if progress else 1
        self._bar.n = min(progress.step, self._bar.total) if progress else 0
        self._bar.set_description_str(
            f"{job.id[:SHORT]} {progress.phase if progress else standing(job)}", refresh=False
        )
        waits = f", {ended} of {len(jobs)} jobs done" if len(jobs) > 1 else ""
        known = "time left unknown" if seconds is None else f"{as_time(seconds)} left"
        self._bar.set_postfix_str(known + waits, refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """As ``Show``."""
        self._bar.close()
