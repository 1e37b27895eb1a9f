"""A finished clip in latent form: pictures and sound are decoded when asked for, straight into the file."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mova.media import ClipReport, write_clip
from mova.planned import Planned
from mova.spec import ClipSpec

if TYPE_CHECKING:
    from mova.pipeline import MovaPipeline

OnStep = Callable[[str, int, int], None]  # (phase, step, total); an exception raised in it leaves the pipeline usable


def no_report(phase: str, step: int, total: int) -> None:
    """The step callback of those who don't listen."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A finished clip in latent form.

    ``video_latents`` [1, 16, T, h, w] and ``audio_latents`` [1, C, N] are float32, as they left the last step.
    ``planned`` has the plan that it was made by.
    """

    spec: ClipSpec
    video_latents: Tensor
    audio_latents: Tensor
    sample_rate: int
    planned: Planned
    _decoder: MovaPipeline = field(repr=False)
    _on_step: OnStep = field(repr=False, default=no_report)
    _notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the creator should read; decoding may add some."""
        return (*self._notes, *self.planned.notes)

    @cached_property
    def audio(self) -> np.ndarray:
        """Samples in -1 to 1, float32, exactly ``spec.audio_samples(sample_rate)`` of them; decoded once."""
        sound = self._decoder.decode_audio(self.audio_latents, self.planned)
        return sound[0, : self.spec.audio_samples(self.sample_rate)]

    def frames(self) -> Generator[Tensor, None, None]:
        """Pictures [n, H, W, 3] in 0 to 1, float32 on the CPU, in groups as the VAE makes them."""
        groups = self.video_latents.shape[2]
        self._on_step("decoding", 0, groups)
        with closing(self._decoder.decode_video(self.video_latents, self.planned)) as decoded:
            for index, frames in enumerate(decoded, start=1):
                self._on_step("decoding", index, groups)
                yield frames[0].permute(1, 2, 3, 0).div(2).add(0.5).clamp(0, 1).cpu()

    def save(
        self,
        target: Path | str,
        loudness: float | None = None,
        *,
        on_frames: Callable[[Tensor], None] | None = None,
    ) -> ClipReport:
        """Decode and encode into an mp4 at ``target``, which appears only when it is whole.

        The step callback hears ("writing", 0, 1) before the file is closed, where it may still raise to cancel, and
        ("writing", 1, 1) once it is there.

        Args:
            target: the file; its folder must exist.
            loudness: level the sound to this many LUFS (true peak at most -1 dBTP); as the model made it if None.
            on_frames: is given each group of pictures (see ``frames``) on its way into the file.

        Raises:
            MediaError: the file can't be written, or ``loudness`` is none.
        """
        with closing(self._pixels(on_frames)) as pixels:
            report = write_clip(
                Path(target),
                pixels,
                self.audio,
                fps=self.spec.fps,
                num_frames=self.spec.num_frames,
                sample_rate=self.sample_rate,
                loudness=loudness,
                on_frame=lambda done, total: self._on_step("writing", 0, 1) if done == total else None,
            )
        self._on_step("writing", 1, 1)
        return report

    def _pixels(self, on_frames: Callable[[Tensor], None] | None) -> Generator[np.ndarray, None, None]:
        with closing(self.frames()) as groups:
            for group in groups:
                if on_frames:
                    on_frames(group)
                yield from to_pixels(group)


def to_pixels(frames: Tensor) -> np.ndarray:
    """uint8 [n, H, W, 3] of pictures in 0 to 1, rounded half to even."""
    return (frames * 255).round().to(torch.uint8).numpy()
