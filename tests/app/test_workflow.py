from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest

from app import workflow
from app.agency import Models
from app.jobs import Brief, Draft, Status, Version
from app.stages import STAGES
from app.store import JobStore
from app.workflow import Context, Save, Stage
from mova.picture import open_picture
from tests.app.fakes import FakeEngine


def never(draft: Draft, made: Version | None = None) -> None:
    pytest.fail(f"nothing is to be saved, and {draft} was")


def context(store: JobStore, folder: str, save: Save = never) -> Context:
    engine = FakeEngine()
    return Context(
        engine, Models({}, engine.free), store.data, folder, lambda phase, step, total: None, save, lambda: 7
    )


def fill(prompt: str) -> Callable[[Brief, Draft, Context], Draft | None]:
    return lambda brief, draft, context: draft.model_copy(update={"prompt": prompt})


def test_a_stage_whose_blank_is_full_is_passed_over(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    ran: list[str] = []

    def run(brief: Brief, draft: Draft, context: Context) -> Draft:
        ran.append("this one")
        return draft

    stages = (
        Stage("full", done=lambda brief, draft: draft.prompt is not None, run=fill("not this one")),
        Stage("blank", done=lambda brief, draft: draft.clip is not None, run=run),
    )
    assert workflow.run(job, context(store, job.folder), stages) is Status.DONE
    assert ran == ["this one"]


def test_what_only_the_creator_can_fill_stops_the_run(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    stages = (
        Stage("creator's", done=lambda brief, draft: False, run=lambda brief, draft, context: None),
        Stage("later", done=lambda brief, draft: False, run=lambda brief, draft, context: pytest.fail("it was run")),
    )
    assert workflow.run(job, context(store, job.folder), stages) is Status.REVIEW


def test_rendering_makes_clip_and_poster(store: JobStore, brief: Brief) -> None:
    job = store.submit(brief)
    save: Save = lambda draft, made=None: store.save(job.id, draft, made)  # noqa: E731
    assert workflow.run(job, context(store, job.folder, save), STAGES) is Status.DONE
    kept = store.get(job.id)
    assert kept
    draft = kept.draft
    assert draft.clip == f"jobs/{job.id}/clip.mp4"
    with av.open(str(store.data / draft.clip)) as clip:
        assert len(clip.streams.video) == len(clip.streams.audio) == 1
    assert open_picture(store.data / job.folder / "poster.webp").size == (64, 48)
    assert draft.rendered
    assert draft.rendered.num_frames == 5


def test_a_job_whose_clip_is_there_is_not_rendered_again(store: JobStore, brief: Brief, tmp_path: Path) -> None:
    job = store.submit(brief)
    done = job.model_copy(update={"draft": job.draft.model_copy(update={"clip": "jobs/x/clip.mp4"})})
    assert workflow.run(done, context(store, job.folder), STAGES) is Status.DONE
