"""How long clips take, told from what was measured; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import BaseModel

from app.jobs import Brief, Job, Offload, Preset, Progress, Status
from mova.spec import ClipSpec

# Phase of the engine -> what its seconds are called here, in the order of a run.
PHASES = {
    "loading": "load",
    "text": "text",
    "frame": "frame",
    "denoising": "per_evaluation",
    "decoding": "decode",
    "writing": "write",
}


class Clip(NamedTuple):
    """What clips have in common that take equally long on one machine, their steps apart."""

    checkpoint: str
    width: int
    height: int
    num_frames: int
    offload: Offload
    preset: Preset


class Timings(BaseModel, frozen=True):
    """Seconds of each part of a clip's making. ``load`` is 0 where nobody has measured it yet.

    ``agents`` are those of the agents' steps that are still to come.
    """

    agents: float = 0.0
    load: float = 0.0
    text: float
    frame: float
    per_evaluation: float
    decode: float
    write: float


def clip_of(brief: Brief) -> Clip:
    """What is asked for, as times are kept under it; a checkpoint by its folder's name."""
    spec = brief.spec
    return Clip(Path(brief.checkpoint).name, spec.width, spec.height, spec.num_frames, brief.offload, brief.preset)


def measured(progress: Progress | None, brief: Brief) -> Timings | None:
    """What a finished run tells; None if it didn't go through every phase (loading apart)."""
    seconds = progress.seconds if progress else {}
    if any(phase not in seconds for phase in PHASES if phase != "loading"):
        return None
    return Timings(
        load=seconds.get("loading", 0.0),
        text=seconds["text"],
        frame=seconds["frame"],
        per_evaluation=seconds["denoising"] / evaluations(brief.spec),
        decode=seconds["decoding"],
        write=seconds["writing"],
    )


def typical(runs: Sequence[Timings]) -> Timings | None:
    """The medians of several runs; of the loads, those that did load."""
    if not runs:
        return None
    loads = [run.load for run in runs if run.load > 0]
    rest = ("text", "frame", "per_evaluation", "decode", "write")
    return Timings(
        load=median(loads) if loads else 0.0, **{name: median(getattr(run, name) for run in runs) for name in rest}
    )


def by_phase(timings: Timings, spec: ClipSpec) -> dict[str, float]:
    """The seconds of each phase that is planned, as ``mova.plan`` takes them: of denoising those of one step."""
    step = timings.per_evaluation * evaluations(spec) / spec.num_inference_steps
    return {"text": timings.text, "frame": timings.frame, "step": step, "decoding": timings.decode}


def evaluations(spec: ClipSpec) -> int:
    """How often the model is evaluated for a clip: one to three times a step, see ``mova.guidance``."""
    scales = [spec.bridge_guidance_scale, spec.guidance_scale]
    if scales[0] == scales[1]:
        scales.pop()
    while scales and scales[0] == 1.0:
        scales.pop(0)
    while scales and scales[-1] == 0.0:
        scales.pop()
    return (len(scales) + 1) * spec.num_inference_steps


def total(timings: Timings, brief: Brief, *, loaded: bool = False) -> float:
    """Seconds from start to clip; without loading if the engine holds the weights already."""
    return timings.agents + sum(_expected(timings, brief.spec, loaded).values())


def remaining(job: Job, timings: Timings | None, now: float) -> float | None:
    """Seconds until a queued job would be done if it started now, or a running one is; None: not known yet.

    What this run has measured itself goes before what earlier runs did, once it has done a step. Decoding and writing
    are left out where nobody has measured them.
    """
    if job.status is Status.QUEUED:
        return None if timings is None else total(timings, job.brief)
    if job.status is not Status.RUNNING:
        return None
    progress = job.progress
    if progress is None or progress.phase not in PHASES:
        left = None if timings is None else total(timings, job.brief)
    else:
        left = _left(progress, timings, job.brief.spec)
    return None if left is None else max(0.0, left - job.silent(now))


def finish_times(
    jobs: Sequence[Job], timings_of: Callable[[Job], Timings | None], now: float
) -> dict[str, float | None]:
    """When each of ``jobs`` will be done (seconds since the epoch) if they run one after the other, in this order.

    From the first that isn't known, none is. Weights that the job before has used are not loaded again.
    """
    known: dict[str, float | None] = {}
    moment: float | None = now
    before: tuple[str, Offload, Preset] | None = None
    for job in jobs:
        weights = (job.brief.checkpoint, job.brief.offload, job.brief.preset)
        timings = timings_of(job)
        if moment is not None:
            seconds = remaining(job, timings, now)
            if seconds is not None and timings is not None and job.status is Status.QUEUED:
                seconds = total(timings, job.brief, loaded=weights == before)
            moment = None if seconds is None else moment + seconds
        known[job.id] = moment
        before = weights
    return known


def _expected(timings: Timings, spec: ClipSpec, loaded: bool) -> dict[str, float]:
    """Phase -> seconds, in the order of a run."""
    expected = {phase: float(getattr(timings, name)) for phase, name in PHASES.items()}
    expected["denoising"] *= evaluations(spec)
    return expected | ({"loading": 0.0} if loaded else {})


def _left(progress: Progress, timings: Timings | None, spec: ClipSpec) -> float | None:
    """Seconds left at the moment of this report."""
    expected = _expected(timings, spec, loaded=True) if timings else {}
    if timings and progress.phase == "loading":
        expected["loading"] = timings.load
    spent = progress.seconds.get(progress.phase, 0.0)
    within = _within(progress, expected.get(progress.phase), spent)
    order = list(PHASES)
    after = order[order.index(progress.phase) + 1 :]
    if within is None or ("denoising" in after and not expected):
        return None
    return within + sum(expected.get(phase, 0.0) for phase in after)


def _within(progress: Progress, expected: float | None, spent: float) -> float | None:
    """Seconds left of the phase that runs: at its own pace where its steps are alike, else as long as before."""
    if progress.phase in ("denoising", "decoding") and progress.step >= 1:
        pace = progress.pace or spent / progress.step
        return max(pace * progress.total - spent, 0.0)
    if progress.step >= progress.total:
        return 0.0
    return None if expected is None else max(expected - spent, 0.0)
