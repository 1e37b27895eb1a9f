"""How a job's steps stand: what fills each, which version that is, and what its creator is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from agents.checker import Asked, Finding, check
from agents.elements import Elements
from agents.models import known, split
from app.agency import BUILTIN
from app.jobs import Brief, Draft, Job, Status, Step, Version


class State(StrEnum):
    """Where a step stands; the catalogue's words go by it."""

    BLANK = "blank"
    NEEDLESS = "needless"
    WORKING = "working"
    DONE = "done"
    WRITTEN = "written"
    STALE = "stale"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True)
class Standing:
    """A step of a job: its versions, those that are alike once, and the one in force, if any is."""

    step: Step
    state: State
    versions: tuple[Version, ...] = ()
    version: Version | None = None

    @property
    def others(self) -> tuple[Version, ...]:
        """The versions that are not in force, the latest first."""
        return tuple(version for version in reversed(self.versions) if version is not self.version)


def standing(job: Job, step: Step, versions: Sequence[Version]) -> Standing:
    """How that step of a job stands, with all that it has brought about, the earliest first."""
    versions = [version for version in versions if version.text or version.pictures]  # not what a try only began with
    distinct: dict[tuple[str, tuple[str, ...], str | None], Version] = {}
    for version in versions:
        distinct.setdefault(_content(version), version)
    matching = [version for version in versions if _fills(version, job.draft.of(step))]
    in_force = distinct[_content(matching[-1])] if matching else None
    return Standing(step, _state(job, step, in_force), tuple(distinct.values()), in_force)


def waits_at(job: Job) -> Step | None:
    """The step after which a job in review has stopped; None for any other, and where its creator has changed it."""
    if job.status is not Status.REVIEW:
        return None
    steps = (step for step in job.brief.steps if job.draft.of(step) is not None and step not in job.draft.passed)
    return next((step for step in steps if job.brief.is_reviewed(step)), None)


def stale_steps(job: Job) -> tuple[Step, ...]:
    """The steps whose input has changed since they ran, in their order."""
    return tuple(step for step in job.brief.steps if step in job.draft.stale)


def next_step(job: Job) -> Step | None:
    """The step that runs next if the job goes on; None: the clip itself."""
    blank = (step for step in job.brief.steps if job.draft.of(step) is None)
    return next((step for step in blank if not _is_needless(job, step)), None)


def begun(job: Job, step: Step) -> tuple[Version, ...]:
    """What a step that has still to fill its blank, or didn't get to it, has brought about all the same."""
    return tuple(made for made in job.draft.unfinished if made.step is step and job.draft.of(step) is None)


def findings_of(prompt: str, brief: Brief, draft: Draft) -> tuple[Finding, ...]:
    """What the checker finds in words for the video prompt of this job."""
    assert brief.full
    seen = Elements.from_text(draft.elements).text if draft.elements else ()
    return check(prompt, Asked(idea=brief.prompt, sound=brief.full.sound, on_screen=seen))


def as_simple(job: Job) -> Job:
    """A job asked for by what its steps made: the same clip in Simple mode, for which no agent is asked again."""
    if job.brief.full is None or job.draft.prompt is None:
        return job
    changes = {"full": None, "prompt": job.draft.prompt, "first_frame": job.draft.first_frame}
    return job.model_copy(update={"brief": job.brief.model_copy(update=changes)})


def is_builtin(choice: str | None) -> bool:
    """Whether the choice is the built-in, which is no model."""
    return split(choice or "")[0] == BUILTIN


def name_of(choice: str) -> str:
    """A choice for people: who offers the model, and its name."""
    endpoint, model = split(choice)
    title = known()[endpoint].title if endpoint in known() else endpoint
    return f"{title} · {model}" if model else title


def _content(version: Version) -> tuple[str, tuple[str, ...], str | None]:
    return version.text, version.pictures, version.model


def _fills(version: Version, blank: str | None) -> bool:
    if version.step is Step.FIRST_FRAME:
        return blank in version.pictures
    return blank is not None and version.text == blank


def _is_needless(job: Job, step: Step) -> bool:
    """Nothing is painted from an image prompt where the creator has brought a picture before there was one."""
    return step is Step.IMAGE_PROMPT and job.draft.image_prompt is None and job.draft.first_frame is not None


def _state(job: Job, step: Step, version: Version | None) -> State:
    if job.failure and job.failure.step is step:
        return State.FAILED
    if _is_needless(job, step):
        return State.NEEDLESS
    if job.draft.of(step) is None:
        runs = job.status is Status.RUNNING and job.progress is not None and job.progress.phase == step
        return State.WORKING if runs else State.BLANK
    if step in job.draft.stale:
        return State.STALE
    if step is waits_at(job):
        return State.WAITING
    return State.WRITTEN if version is not None and version.model is None else State.DONE
