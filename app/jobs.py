"""What a job is: what was asked for, what is known so far, how it stands. Values only; `app/store.py` keeps them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel

from mova.spec import ClipSpec

Offload = Literal["none", "component", "layer"]

FIRST_FRAME, LAST_FRAME = "first_frame.png", "last_frame.png"


class Cancelled(Exception):  # noqa: N818  (a wish, not an error)
    """The creator cancelled the job that is running."""


class Status(StrEnum):
    """Where a job stands. Only a running job has a worker."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def active(self) -> bool:
        """Whether something is still going to happen by itself."""
        return self in (Status.QUEUED, Status.RUNNING)


class Brief(BaseModel, frozen=True):
    """What the creator asked for. Paths are relative to the data folder; a checkpoint may lie outside of it.

    ``random_seed`` says that the creator left the seed open: ``submit`` draws the one that ``spec`` then names.
    """

    prompt: str
    checkpoint: str
    spec: ClipSpec
    random_seed: bool = False
    first_frame: str | None = None
    last_frame: str | None = None
    offload: Offload = "none"
    loudness: float | None = None


class Rendered(BaseModel, frozen=True):
    """What a clip turned out to be. Loudness in LUFS, peaks in dBTP, ``None`` for silence.

    ``notes`` are the engine's sentences for the creator.
    """

    width: int
    height: int
    num_frames: int
    fps: float
    duration: float
    sample_rate: int
    loudness: float | None = None
    true_peak: float | None = None
    gain_db: float = 0.0
    notes: tuple[str, ...] = ()


class Draft(BaseModel, frozen=True):
    """What is known so far; each stage of the workflow fills one blank (``None``)."""

    first_frame: str | None = None
    prompt: str | None = None
    clip: str | None = None
    rendered: Rendered | None = None


class Progress(BaseModel, frozen=True):
    """How far a running job is: step ``step`` of ``total`` in ``phase``, and the seconds spent in each phase so far."""

    phase: str
    step: int
    total: int
    seconds: dict[str, float] = {}


class Failure(BaseModel, frozen=True):
    """Why a job ended without a clip: one sentence, what to do about it, and the technical details."""

    sentence: str
    remedy: str
    details: str = ""


class Job(BaseModel, frozen=True):
    """A brief, a draft and a status. Times are seconds since the epoch."""

    id: str
    status: Status
    cancel: bool
    brief: Brief
    draft: Draft
    progress: Progress | None = None
    failure: Failure | None = None
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def folder(self) -> str:
        """The job's own folder, relative to the data folder."""
        return f"jobs/{self.id}"


INTERRUPTED = Failure(
    sentence="The worker ended while this job was running.", remedy="Nothing else is lost: start it again."
)
