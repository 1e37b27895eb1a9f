"""What turns a brief into a clip: the engine in this process, behind the one method that the workflow knows."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from PIL.Image import Image

from app.checkpoints import identify, playground_path
from app.jobs import LOCAL, Brief, Draft, Machine, Remote, Rendered
from app.settings import Settings
from app.sglang import Limits, SGLangEngine
from mova.picture import fit_picture, open_picture
from mova.spec import ClipSpec

if TYPE_CHECKING:
    from mova.media import ClipReport
    from mova.pipeline import MovaPipeline
    from mova.plan import Plan

log = logging.getLogger(__name__)

OnStep = Callable[[str, int, int], None]  # (phase, step, total); raises to cancel
Keep = Callable[[Remote | None], None]  # notes what a server was asked for; None: that came to nothing


class Engine(Protocol):
    """Something that renders clips."""

    def render(self, brief: Brief, draft: Draft, target: Path, on_step: OnStep, keep: Keep) -> Rendered:
        """Write the clip to ``target``, whole or not at all, telling ``on_step`` of every step; it may raise.

        ``keep`` notes what another machine was asked for before it is waited for; ``draft.remote`` has it after that.
        """

    def free(self) -> None:
        """Give back the memory that the weights take; the next ``render`` loads them again."""

    @property
    def loaded(self) -> bool:
        """Whether it holds weights."""

    def machine(self) -> Machine:
        """What the last clip was made on, as far as known."""


class LocalEngine:
    """The engine of ``mova/`` in this very process; keeps the pipeline used last loaded."""

    def __init__(
        self, data: Path, *, device: str = "auto", dtype: str = "auto", free_first_expert: bool = False
    ) -> None:
        self._data = data
        self._device = device
        self._dtype = dtype
        self._free_first_expert = free_first_expert
        self._loaded: tuple[Path, MovaPipeline] | None = None
        self._on = Machine(engine="mova")

    def render(self, brief: Brief, draft: Draft, target: Path, on_step: OnStep, keep: Keep) -> Rendered:
        """As ``Engine.render``. Raises what ``mova`` raises."""
        if self._loaded is None:
            on_step("loading", 0, 1)  # which begins with torch itself
        first = self._picture(draft.first_frame, brief.spec, brief.first_frame_position)
        last = self._picture(brief.last_frame, brief.spec, brief.last_frame_position)
        from mova.memory import forget_peaks  # torch: only once a clip is to be made

        forget_peaks()
        try:
            pipeline = self._pipeline(self._data / brief.checkpoint, on_step)
            plan = pipeline.plan(brief.spec, offload=brief.offload, preset=brief.preset)
            self._note(plan)
            clip = pipeline(draft.prompt or "", first, spec=brief.spec, last_image=last, plan=plan, on_step=on_step)
            report = clip.save(target, loudness=brief.loudness)
            self._note(clip.planned.plan, tuple(clip.planned.notes), lowered=clip.planned.plan is not plan)
            return _rendered(report, clip.notes)
        except (RuntimeError, MemoryError):
            self.free()  # a device fault, or more memory than there is: the next job loads afresh
            raise

    def free(self) -> None:
        """As ``Engine.free``."""
        if self._loaded is not None:
            _, pipeline = self._loaded
            self._loaded = None
            pipeline.close()
            del pipeline
        if "torch" in sys.modules:  # also after an error, whose frames held tensors when this was called first
            from mova.memory import release_memory

            release_memory()

    @property
    def loaded(self) -> bool:
        """As ``Engine.loaded``."""
        return self._loaded is not None

    def machine(self) -> Machine:
        """As ``Engine.machine``."""
        from mova.memory import peak_memory

        return self._on.model_copy(update={"peak_memory": peak_memory()})

    def _pipeline(self, checkpoint: Path, on_step: OnStep) -> MovaPipeline:
        from mova.memory import device_name
        from mova.pipeline import MovaPipeline

        if self._loaded and self._loaded[0] == checkpoint:
            return self._loaded[1]
        self.free()  # the old weights go before the new ones come
        if checkpoint == playground_path(self._data):
            from mova.playground import make_playground

            on_step("loading", 0, 1)
            make_playground(checkpoint)
        log.info("Loading %s", checkpoint)
        pipeline = MovaPipeline.from_pretrained(
            checkpoint,
            device=self._device,
            dtype=self._dtype,
            free_first_expert=self._free_first_expert,
            text_cache=self._data / "cache" / "prompts",
            on_step=on_step,
        )
        self._loaded = (checkpoint, pipeline)
        device = device_name(pipeline.placement.device)
        self._on = Machine(
            engine="mova", device=device, checkpoint_id=identify(checkpoint), attention=pipeline.attention
        )
        return pipeline

    def _note(self, plan: Plan, notes: tuple[str, ...] = (), *, lowered: bool = False) -> None:
        """The plan in force, for the job's record; the times of one that was lowered on the way are no other clip's."""
        key = f"{plan.key}|lowered" if lowered else plan.key
        self._on = self._on.model_copy(update={"plan": key, "mode": plan.offload, "notes": notes})

    def _picture(self, path: str | None, spec: ClipSpec, position: tuple[float, float]) -> Image | None:
        if path is None:
            return None
        return fit_picture(open_picture(self._data / path), spec.height, spec.width, position=position)


class Engines:
    """The engine of each brief: this machine's, or the servers'."""

    def __init__(self, local: Engine, remote: Engine) -> None:
        self._local, self._remote = local, remote
        self._last = local

    def render(self, brief: Brief, draft: Draft, target: Path, on_step: OnStep, keep: Keep) -> Rendered:
        """As ``Engine.render``."""
        self._last = self._local if brief.engine == LOCAL else self._remote
        return self._last.render(brief, draft, target, on_step, keep)

    def free(self) -> None:
        """As ``Engine.free``."""
        self._local.free()
        self._remote.free()

    @property
    def loaded(self) -> bool:
        """As ``Engine.loaded``."""
        return self._local.loaded

    def machine(self) -> Machine:
        """As ``Engine.machine``."""
        return self._last.machine()


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings ask for."""
    local = LocalEngine(
        settings.data,
        device=settings.device,
        dtype=settings.dtype,
        free_first_expert=settings.free_first_expert,
    )
    limits = Limits(late=settings.sglang_minutes * 60)
    return Engines(local, SGLangEngine(settings.data, settings.sglang, receive, limits=limits))


def receive(clip: Path, brief: Brief) -> Rendered:
    """A clip that was made elsewhere, seen to be whole, its sound levelled if the brief asks for it.

    Raises:
        mova.media.MediaError: it can't be used.
    """
    from mova.received import receive_clip  # PyAV: only where clips are made

    report = receive_clip(clip, num_frames=brief.spec.num_frames, loudness=brief.loudness)
    notes = []
    if report.num_frames != brief.spec.num_frames:
        notes.append(f"The server made {report.num_frames} frames instead of {brief.spec.num_frames}.")
    if (report.width, report.height) != (brief.spec.width, brief.spec.height):
        notes.append(f"The server made {report.width} × {report.height} pixels.")
    return _rendered(report, tuple(notes))


def save_poster(clip: Path, target: Path) -> None:
    """The clip's first frame as a small picture, for lists."""
    from mova.media import read_frame  # PyAV: only where clips are made

    part = target.with_name(target.name + ".part")
    poster = read_frame(clip, 0)
    poster.thumbnail((480, 480))
    try:
        poster.save(part, "WEBP", quality=80)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def clip_frame(clip: Path, which: Literal["first", "last"]) -> bytes:
    """The first or the last frame of a clip, as PNG. Raises what ``mova`` raises."""
    from mova.media import read_frame  # PyAV: only where a frame is asked for

    buffer = io.BytesIO()
    read_frame(clip, 0 if which == "first" else -1).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _rendered(report: ClipReport, notes: tuple[str, ...]) -> Rendered:
    return Rendered(
        width=report.width,
        height=report.height,
        num_frames=report.num_frames,
        fps=report.fps,
        duration=report.duration,
        sample_rate=report.sample_rate,
        loudness=report.delivered.integrated,
        true_peak=report.delivered.true_peak,
        gain_db=report.gain_db,
        notes=notes,
    )
