from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest

from app import workflow
from app.jobs import Brief, Draft
from app.store import JobStore
from app.workflow import Context, Stage
from mova.picture import open_picture
from tests.app.fakes import FakeEngine


def context(store: JobStore, folder: str) -> Context:
    return Context(FakeEngine(), store.data, folder, lambda phase, step, total: None)


def fill(prompt: str) -> Callable[[Brief, Draft, Context], Draft | None]:
    return lambda brief, draft, context: draft.model_copy(update={"prompt": prompt})


def test_a_stage_whose_blank_is_full_is_passed_over(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    saved: list[Draft] = []
    stages = (
        Stage("full", done=lambda brief, draft: draft.prompt is not None, run=fill("not this one")),
        Stage("blank", done=lambda brief, draft: draft.clip is not None, run=fill("this one")),
    )
    draft = workflow.run(job, context(store, job.folder), saved.append, stages)
    assert draft.prompt == "this one"
    assert saved == [draft]


def test_what_only_the_creator_can_fill_stops_the_run(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    stages = (
        Stage("creator's", done=lambda brief, draft: False, run=lambda brief, draft, context: None),
        Stage("later", done=lambda brief, draft: False, run=fill("never")),
    )
    assert workflow.run(job, context(store, job.folder), pytest.fail, stages) == job.draft


def test_rendering_makes_clip_and_poster(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    draft = workflow.run(job, context(store, job.folder), lambda draft: store.save(job.id, draft))
    assert draft.clip == f"jobs/{job.id}/clip.mp4"
    with av.open(str(store.data / draft.clip)) as clip:
        assert len(clip.streams.video) == len(clip.streams.audio) == 1
    assert open_picture(store.data / job.folder / "poster.webp").size == (64, 48)
    assert draft.rendered
    assert draft.rendered.num_frames == 5
    kept = store.get(job.id)
    assert kept
    assert kept.draft == draft


def test_a_job_whose_clip_is_there_is_not_rendered_again(store: JobStore, brief: Brief, tmp_path: Path) -> None:
    job = store.submit(brief)
    done = job.model_copy(update={"draft": job.draft.model_copy(update={"clip": "jobs/x/clip.mp4"})})
    assert workflow.run(done, context(store, job.folder), pytest.fail) == done.draft
