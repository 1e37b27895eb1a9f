"""From a brief to a clip: stages that each fill one blank of a draft, passed over where the blank is full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.engines import Engine, OnStep, save_poster
from app.jobs import Brief, Draft, Job

CLIP, POSTER = "clip.mp4", "poster.webp"


@dataclass(frozen=True)
class Context:
    """What a stage may use. ``folder`` is the job's, relative to ``data``."""

    engine: Engine
    data: Path
    folder: str
    on_step: OnStep


@dataclass(frozen=True)
class Stage:
    """One blank of the draft: whether it is full, and how it is filled. ``run`` gives None if only the creator can."""

    name: str
    done: Callable[[Brief, Draft], bool]
    run: Callable[[Brief, Draft, Context], Draft | None]


def run(job: Job, context: Context, save: Callable[[Draft], None], stages: tuple[Stage, ...] | None = None) -> Draft:
    """Fill what is blank, saving after each stage; stops early where only the creator can go on."""
    draft = job.draft
    for stage in STAGES if stages is None else stages:
        if stage.done(job.brief, draft):
            continue
        filled = stage.run(job.brief, draft, context)
        if filled is None:
            break
        draft = filled
        save(draft)
    return draft


def _render(brief: Brief, draft: Draft, context: Context) -> Draft:
    folder = context.data / context.folder
    folder.mkdir(parents=True, exist_ok=True)
    rendered = context.engine.render(brief, draft, folder / CLIP, context.on_step)
    save_poster(folder / CLIP, folder / POSTER)
    return draft.model_copy(update={"clip": f"{context.folder}/{CLIP}", "rendered": rendered})


STAGES = (Stage("render", done=lambda _, draft: draft.clip is not None, run=_render),)
