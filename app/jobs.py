"""What a job is: what was asked for, what is known so far, how it stands. Values only; `app/store.py` keeps them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from agents.checker import Finding
from agents.sound import Sound
from agents.troubles import Trouble
from mova.spec import ClipSpec

Offload = Literal["auto", "none", "component", "layer"]
Preset = Literal["exact", "light", "fast", "fastest"]  # those of ``mova.presets``
Orientation = Literal["landscape", "portrait"]
Place = Literal["first", "up", "down", "last"]
Position = tuple[float, float]  # of the crop window, across and down: 0 is left or top, 1 is right or bottom

FIRST_FRAME, LAST_FRAME = "first_frame.png", "last_frame.png"
HUNG_SECONDS = 600.0  # without a report, after which a running job is said to hang
CENTRE: Position = (0.5, 0.5)
LOCAL, SGLANG = "local", "sglang"


class Cancelled(Exception):  # noqa: N818  (a wish, not an error)
    """The job that runs is no longer wanted: cancelled, or put back into the queue."""


class Status(StrEnum):
    """Where a job stands. Only a running job has a worker; one in review waits for its creator."""

    QUEUED = "queued"
    RUNNING = "running"
    REVIEW = "review"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def active(self) -> bool:
        """Whether something is still going to happen by itself."""
        return self in (Status.QUEUED, Status.RUNNING)


class Step(StrEnum):
    """A stage of Full Workflow that an agent fills, in the order in which they run."""

    IMAGE_PROMPT = "image_prompt"
    FIRST_FRAME = "first_frame"
    ELEMENTS = "elements"
    VIDEO_PROMPT = "video_prompt"


class Kind(StrEnum):
    """What a failure is about; pages choose words and remedies by it. An agent's are ``Trouble``, all of them."""

    CHECKPOINT = "checkpoint"
    PICTURE = "picture"
    DISK_FULL = "disk_full"
    MEMORY = "memory"
    GPU_MEMORY = "gpu_memory"
    DOES_NOT_FIT = "does_not_fit"
    SETTING = "setting"
    MEDIA = "media"
    INTERRUPTED = "interrupted"
    CLOSED = "closed"
    HUNG = "hung"
    GONE = "gone"
    REMOTE_NONE = "remote_none"
    REMOTE_UNREACHABLE = "remote_unreachable"
    REMOTE_TOO_OLD = "remote_too_old"
    REMOTE_UNHEALTHY = "remote_unhealthy"
    REMOTE_REFUSED = "remote_refused"
    REMOTE_FAILED = "remote_failed"
    REMOTE_MEMORY = "remote_memory"
    REMOTE_LOST = "remote_lost"
    REMOTE_TIMEOUT = "remote_timeout"
    REMOTE_BAD_CLIP = "remote_bad_clip"
    UNKNOWN = "unknown"


class Mode(StrEnum):
    """Whether the worker takes jobs. ``FINISHING``: it pauses after the one that runs."""

    RUNNING = "running"
    FINISHING = "finishing"
    PAUSED = "paused"


class Full(BaseModel, frozen=True):
    """What Full Workflow is asked for, beside the idea: which models, what is heard, where the creator looks on.

    ``models`` are choices such as ``gemini:gemini-3-flash``, by step. ``review``: the steps after which the job waits
    for its creator. Without ``painted`` a job that has no first frame starts from white.
    """

    models: dict[Step, str]
    sound: Sound = Sound()
    review: frozenset[Step] = frozenset()
    painted: bool = True
    candidates: int = Field(1, ge=1, le=4)


class Brief(BaseModel, frozen=True):
    """What the creator asked for. Paths are relative to the data folder; a checkpoint may lie outside of it.

    ``prompt`` is the clip's own words, or the idea where ``full`` asks for agents to make those. ``random_seed`` says
    that the creator left the seed open: ``submit`` draws the one that ``spec`` then names. ``engine`` is ``local``,
    ``sglang`` for the first healthy server that has the model, or ``sglang:name`` for that one. ``offload`` says where
    weights wait, ``preset`` what is given up for speed and memory.
    """

    prompt: str
    full: Full | None = None
    engine: str = LOCAL
    checkpoint: str
    spec: ClipSpec
    random_seed: bool = False
    first_frame: str | None = None
    last_frame: str | None = None
    first_frame_position: Position = CENTRE
    last_frame_position: Position = CENTRE
    offload: Offload = "auto"
    preset: Preset = "exact"
    loudness: float | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """The agents' steps that this clip goes through: none in Simple mode, no painting of a frame that is there."""
        if self.full is None:
            return ()
        if self.first_frame is None:
            return tuple(Step) if self.full.painted else (Step.VIDEO_PROMPT,)
        return Step.ELEMENTS, Step.VIDEO_PROMPT

    def is_reviewed(self, step: Step) -> bool:
        """Whether the creator wants to look before it goes on after this step."""
        return self.full is not None and step in self.full.review and step in self.steps

    @property
    def orientation(self) -> Orientation:
        """A square clip counts as landscape."""
        return "portrait" if self.spec.height > self.spec.width else "landscape"


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


class Version(BaseModel, frozen=True):
    """One thing that a step brought about, by a model or by the creator; earlier ones are kept.

    ``given`` is what the step had to go by, ``pictures`` are paths relative to the data folder, ``model`` is what was
    chosen (``None``: the creator wrote it), ``answered_by`` the model by the name that the server gave it.
    """

    step: Step
    text: str = ""
    pictures: tuple[str, ...] = ()
    given: str = ""
    model: str | None = None
    answered_by: str = ""
    seconds: float = 0.0
    tokens_in: int | None = None
    tokens_out: int | None = None
    findings: tuple[Finding, ...] = ()
    made_at: float = 0.0


class Remote(BaseModel, frozen=True):
    """A clip that another machine was asked for: the server's name in the settings, its address, and its own id.

    An empty ``id`` is noted before the server is asked: until its answer is there, it may or may not have the job.
    """

    server: str
    base_url: str
    id: str
    submitted_at: float  # seconds since the epoch
    device: str | None = None  # as in ``Machine``, by the look before it was handed in


class Draft(BaseModel, frozen=True):
    """What is known so far; each stage of the workflow fills one blank (``None``).

    ``unfinished`` is what the step under way has paid for already, so that a worker that dies doesn't pay twice.
    ``painted`` counts the frames that were kept so far: each has a seed of its own, also where they are painted again.
    ``passed`` are the steps that the creator let pass, ``stale`` those whose input has been changed since they ran.
    ``remote`` is what was asked for and may still be under way, or lie there to be fetched.
    """

    image_prompt: str | None = None
    first_frame: str | None = None
    elements: str | None = None
    prompt: str | None = None
    remote: Remote | None = None
    clip: str | None = None
    rendered: Rendered | None = None
    unfinished: tuple[Version, ...] = ()
    painted: int = 0
    passed: frozenset[Step] = frozenset()
    stale: frozenset[Step] = frozenset()

    def of(self, step: Step) -> str | None:
        """What fills the blank of that step."""
        found: str | None = getattr(self, BLANKS[step])
        return found


class Progress(BaseModel, frozen=True):
    """How far a running job is: step ``step`` of ``total`` in ``phase``, and the seconds spent in each phase so far.

    The seconds are measured by a clock that nobody can set, and stay when the job has ended.
    """

    phase: str
    step: int
    total: int
    seconds: dict[str, float] = {}
    pace: float | None = None  # seconds per finished step of the phase that runs


class Failure(BaseModel, frozen=True):
    """Why a job ended without a clip: one sentence, what to do about it, and the technical details.

    ``step`` is the agents' step that failed, if it was one.
    """

    kind: Kind | Trouble = Kind.UNKNOWN
    sentence: str
    remedy: str
    details: str = ""
    step: Step | None = None


class Machine(BaseModel, frozen=True):
    """What a clip is made on: the engine, its device, the most memory it held (bytes by kind), and which weights.

    ``plan`` is the key of the plan that it is made by, ``mode`` what *auto* came to in it, ``attention`` the kernel;
    ``notes`` are the engine's sentences about them, such as that memory ran out and it went on by another plan.
    """

    engine: str | None = None
    device: str | None = None
    peak_memory: dict[str, int] = {}
    checkpoint_id: str | None = None
    plan: str | None = None
    mode: Offload | None = None
    attention: str | None = None
    notes: tuple[str, ...] = ()


class Job(BaseModel, frozen=True):
    """A brief, a draft and a status. Times are seconds since the epoch, and as good as the machine's clock.

    Jobs are in the order of ``number`` as they were submitted, and of ``position`` as they will run. ``reported_at`` is
    the worker's last sign of life on this job.
    """

    id: str
    number: int = 0
    position: int = 0
    status: Status
    cancel: bool
    starred: bool = False
    brief: Brief
    draft: Draft
    progress: Progress | None = None
    failure: Failure | None = None
    engine: str | None = None
    device: str | None = None
    peak_memory: dict[str, int] = {}
    checkpoint_id: str | None = None
    plan: str | None = None
    mode: Offload | None = None
    attention: str | None = None
    notes: tuple[str, ...] = ()
    created_at: float
    started_at: float | None = None
    reported_at: float | None = None
    finished_at: float | None = None
    deleted_at: float | None = None

    @property
    def folder(self) -> str:
        """The job's own folder, relative to the data folder."""
        return f"jobs/{self.id}"

    @property
    def checkpoint_name(self) -> str:
        """What the checkpoint's folder is called."""
        return Path(self.brief.checkpoint).name

    @property
    def seconds(self) -> float | None:
        """How long the run took so far, measured; None before its first report."""
        return sum(self.progress.seconds.values()) if self.progress else None

    def silent(self, now: float) -> float:
        """Seconds since the worker last reported on this running job; 0 for any other."""
        if self.status is not Status.RUNNING or self.reported_at is None:
            return 0.0
        return max(0.0, now - self.reported_at)


class Wanted(BaseModel, frozen=True):
    """Which jobs to find: those whose prompt has every word of ``text``, in one of ``states`` (any, if empty)."""

    text: str = ""
    states: tuple[Status, ...] = ()
    starred: bool = False
    orientation: Orientation | None = None


class Found(BaseModel, frozen=True):
    """One page of jobs, and how many there are on all pages."""

    jobs: tuple[Job, ...]
    total: int


class Worker(BaseModel, frozen=True):
    """The worker process as it last said of itself: which one it is, the job it is on, whether it holds weights."""

    pid: int
    host: str = ""
    job: str | None = None
    loaded: bool = False
    since: float  # seconds since the epoch


BLANKS = {
    Step.IMAGE_PROMPT: "image_prompt",
    Step.FIRST_FRAME: "first_frame",
    Step.ELEMENTS: "elements",
    Step.VIDEO_PROMPT: "prompt",
}

INTERRUPTED = Failure(
    kind=Kind.INTERRUPTED,
    sentence="The worker ended while this job was running.",
    remedy="Nothing else is lost: start it again.",
)
CLOSED = Failure(
    kind=Kind.CLOSED, sentence="The studio was closed while this job was running.", remedy="Start it again."
)
HUNG = Failure(
    kind=Kind.HUNG,
    sentence="The worker didn't answer any more and was ended.",
    remedy="Start it again; if it hangs again, the logs belong in a bug report.",
)
