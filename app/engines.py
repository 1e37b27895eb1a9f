"""What turns a brief into a clip: the engine in this process, behind the one method that the workflow knows."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL.Image import Image

from app.checkpoints import playground_path
from app.jobs import Brief, Draft, Rendered
from app.settings import Settings
from mova.picture import fit_picture, open_picture
from mova.spec import ClipSpec

if TYPE_CHECKING:
    from mova.media import ClipReport
    from mova.pipeline import MovaPipeline

log = logging.getLogger(__name__)

OnStep = Callable[[str, int, int], None]  # (phase, step, total); raises to cancel


class Engine(Protocol):
    """Something that renders clips."""

    def render(self, brief: Brief, draft: Draft, target: Path, on_step: OnStep) -> Rendered:
        """Write the clip to ``target``, whole or not at all, telling ``on_step`` of every step; it may raise."""


class LocalEngine:
    """The engine of ``mova/`` in this very process; keeps the pipeline used last loaded."""

    def __init__(
        self, data: Path, *, device: str = "auto", dtype: str = "auto", free_first_expert: bool = False
    ) -> None:
        self._data = data
        self._device = device
        self._dtype = dtype
        self._free_first_expert = free_first_expert
        self._loaded: tuple[tuple[Path, str], MovaPipeline] | None = None

    def render(self, brief: Brief, draft: Draft, target: Path, on_step: OnStep) -> Rendered:
        """As ``Engine.render``. Raises what ``mova`` raises."""
        first, last = (self._picture(path, brief.spec) for path in (draft.first_frame, brief.last_frame))
        try:
            pipeline = self._pipeline(self._data / brief.checkpoint, brief.offload, on_step)
            clip = pipeline(draft.prompt or "", first, spec=brief.spec, last_image=last, on_step=on_step)
            return _rendered(clip.save(target, loudness=brief.loudness), clip.notes)
        except (RuntimeError, MemoryError):
            self._loaded = None  # out of memory or a device fault: the next job loads afresh
            raise

    def _pipeline(self, checkpoint: Path, offload: str, on_step: OnStep) -> MovaPipeline:
        from mova.pipeline import MovaPipeline  # torch: only once a clip is to be made

        wanted = (checkpoint, offload)
        if self._loaded and self._loaded[0] == wanted:
            return self._loaded[1]
        self._loaded = None
        gc.collect()  # the old weights go before the new ones come
        if checkpoint == playground_path(self._data):
            from mova.playground import make_playground

            on_step("loading", 0, 1)
            make_playground(checkpoint)
        log.info("Loading %s, offload %s", checkpoint, offload)
        pipeline = MovaPipeline.from_pretrained(
            checkpoint,
            device=self._device,
            dtype=self._dtype,
            offload=offload,
            free_first_expert=self._free_first_expert,
            on_step=on_step,
        )
        self._loaded = (wanted, pipeline)
        return pipeline

    def _picture(self, path: str | None, spec: ClipSpec) -> Image | None:
        return fit_picture(open_picture(self._data / path), spec.height, spec.width) if path else None


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings ask for."""
    return LocalEngine(
        settings.data,
        device=settings.device,
        dtype=settings.dtype,
        free_first_expert=settings.free_first_expert,
    )


def save_poster(clip: Path, target: Path) -> None:
    """The clip's first frame as a small picture, for lists."""
    from mova.media import read_frame  # PyAV: only where clips are made

    part = target.with_name(target.name + ".part")
    poster = read_frame(clip, 0)
    poster.thumbnail((480, 480))
    poster.save(part, "WEBP", quality=80)
    part.replace(target)


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
