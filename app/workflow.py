"""From a brief to a clip: stages that each fill one blank of a draft, passed over where the blank is full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.agency import Models
from app.engines import Engine, OnStep, save_poster
from app.jobs import Brief, Draft, Job, Remote, Status, Step, Version

CLIP, POSTER = "clip.mp4", "poster.webp"


class Save(Protocol):
    """Keeps what is known so far, and what a step has just brought about."""

    def __call__(self, draft: Draft, made: Version | None = None) -> None: ...


@dataclass(frozen=True)
class Context:
    """What a stage may use. ``folder`` is the job's, relative to ``data``; ``clock`` gives seconds since the epoch."""

    engine: Engine
    models: Models
    data: Path
    folder: str
    on_step: OnStep
    save: Save
    clock: Callable[[], float]


@dataclass(frozen=True)
class Stage:
    """One blank of the draft: whether it is full, and how it is filled.

    ``run`` saves what it brought about, and gives the draft; None if only the creator can fill the blank. ``step``: the
    agents' step that it is, after which the creator may want to look.
    """

    name: str
    done: Callable[[Brief, Draft], bool]
    run: Callable[[Brief, Draft, Context], Draft | None]
    step: Step | None = None


def run(job: Job, context: Context, stages: tuple[Stage, ...]) -> Status:
    """Fill what is blank; ``DONE``, or ``REVIEW`` where it is the creator's turn."""
    draft = job.draft
    for stage in stages:
        if not stage.done(job.brief, draft):
            filled = stage.run(job.brief, draft, context)
            if filled is None:
                return Status.REVIEW
            draft = filled
        if stage.step and job.brief.is_reviewed(stage.step) and stage.step not in draft.passed:
            return Status.REVIEW
    return Status.DONE


def render(brief: Brief, draft: Draft, context: Context) -> Draft:
    """The clip, from the prompt and the first frame; the agents' models make room for it."""
    context.models.release(brief)
    folder = context.data / context.folder
    folder.mkdir(parents=True, exist_ok=True)

    def keep(remote: Remote | None) -> None:
        context.save(draft.model_copy(update={"remote": remote}))

    rendered = context.engine.render(brief, draft, folder / CLIP, context.on_step, keep)
    save_poster(folder / CLIP, folder / POSTER)
    draft = draft.model_copy(update={"clip": f"{context.folder}/{CLIP}", "rendered": rendered})
    context.save(draft)
    return draft
