"""What a preset may leave out or compute more roughly, but for 8-bit weights (``mova.quantised``).

Guidance late in the schedule, layers whose work hardly changed, the video's self-attention.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Sequence

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor

from mova.attention import NATIVE, KeyValue, attend
from mova.guidance import Guidance
from mova.presets import CACHE_ROWS

logger = logging.getLogger(__name__)

SAGE = "sage"
SAGE_ERROR = 0.1  # of the norm; two 8-bit operands take a few hundredths
AUDIO_THRESHOLD = 0.1  # relative change of the audio tower's input from which on nothing is reused


def guided(step: int, total: int, share: float) -> bool:
    """Whether ``step`` (from 0) of ``total`` lies in the first ``share`` of the schedule, the guided one."""
    return step < math.ceil(share * total)


def guidance_at(guidance: Guidance, step: int, total: int, share: float) -> Guidance:
    """What to evaluate at ``step``: the whole chain while it is guided, afterwards its end alone.

    Composition and motion are decided early; late steps refine what the prompt alone already leads to. The share is
    of the whole schedule, whichever expert leads. Nothing of the guided steps is carried into the others (a kept
    difference between prompt and negative prompt would have to be dropped at the switch of experts).
    """
    return guidance if guided(step, total, share) else guidance.unguided


def choose_sage(device: torch.device) -> str | None:
    """What ``set_attention`` calls SageAttention, None where it isn't installed or doesn't work on ``device``.

    It is for the video's self-attention alone, which is where the time goes: ``set_attention(video_dit, name,
    self_attention_only=True)``. The bridge, the text and the sound stay with the exact kernel.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    example = torch.randn((3, 1, 512, 2, 128), generator=generator).to(device, torch.bfloat16)
    query, heard = example[0], KeyValue(example[1], example[2])
    try:
        rough, exact = (attend(query, heard, AttentionBackendName(name)).float() for name in (SAGE, NATIVE))
    except (ImportError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        logger.info("SageAttention doesn't work here: %s", error)
        return None
    return SAGE if (rough - exact).norm() < SAGE_ERROR * exact.norm() else None


class StepCache:
    """Reuses the video's update of an earlier step where the first layer says that it hardly changed.

    A step computes layer 0. If the video's residual of it differs from that of the last whole step by less than
    ``threshold`` (relative L1 over some tokens, so that small changes add up until they don't pass), layers 1 and on
    are not computed for the video: what they added then is added again. The audio tower is always computed, and hears
    what the video told it in the last whole step. All branches of the guidance skip together, because their
    difference is what guidance magnifies; each has a residual of its own.

    Always whole: the first and the last step; the first after the expert or the branches changed; a step whose audio
    input differs by ``audio_threshold`` or more from that of the last whole one; whatever follows a step that failed.

    Use one for a generation::

        cache.begin(step.index, (step.expert, guidance.branches))
        joint.evaluate(..., reuse=cache)

    Args:
        threshold: 0 never skips, and is exact.
        total: steps of the generation.
        audio_threshold: see above.
    """

    def __init__(self, threshold: float, total: int, *, audio_threshold: float = AUDIO_THRESHOLD) -> None:
        self.threshold = threshold
        self.total = total
        self.audio_threshold = audio_threshold
        self.steps = 0
        self.skipped = 0
        self.skips = False  # the step in hand, once its first layer is computed
        self._key: Hashable = None
        self._kept: Kept | None = None
        self._new: Kept | None = None
        self._keeping = False

    def begin(self, index: int, key: Hashable) -> None:
        """Step ``index`` (from 0) comes; with another ``key`` than the last one (expert, branches) all is forgotten."""
        if index == 0 or key != self._key:
            self._kept = None
        self._key, self._new, self.skips = key, None, False
        self._keeping = index < self.total - 1
        if not self._keeping:
            self._kept = None  # the last step is whole, and nobody comes after it

    def enters(self, video: Tensor, audio: Tensor) -> None:
        """What goes into layer 0: video [B, L, dim] and audio [B, N, dim], the same for every branch."""
        self._new = Kept(_some(video).clone(), audio.clone())

    def leaves_first(self, videos: Sequence[Tensor]) -> bool:
        """Whether the rest is skipped; ``videos`` [B, L, dim] are after layer 0, one a branch."""
        assert self._new is not None, "a step enters before it leaves"
        self._new.first = [_some(video) - self._new.entered for video in videos]
        self.steps += 1
        self.skips = self._kept is not None and self._near(self._kept, self._new)
        self.skipped += self.skips
        if self.skips:
            self._new = None
        else:
            self._start(videos)
        return self.skips

    def told(self, branch: int, layer: int, audio_before: Tensor, audio_after: Tensor) -> None:
        """In a whole step: audio [B, N, dim] before and after the bridge of ``layer`` told it of the video."""
        if self._keeping and self._new is not None:
            self._new.told[branch, layer] = audio_after - audio_before

    def tell(self, branch: int, layer: int, audio: Tensor) -> Tensor:
        """In a skipped step: ``audio`` [B, N, dim] once the bridge of ``layer`` has told it what it told it last."""
        told = self._whole.told.get((branch, layer))
        return audio if told is None else audio + told

    def leaves_last(self, branch: int, video: Tensor) -> Tensor:
        """``video`` [B, L, dim] of a branch, from what the last computed layer left, in its memory."""
        if self.skips:
            return video.add_(self._whole.rest[branch])
        if self._keeping and self._new is not None:
            self._new.rest[branch].add_(video)
            if branch == len(self._new.rest) - 1:
                self._kept, self._new = self._new, None
        return video

    @property
    def _whole(self) -> Kept:
        assert self._kept is not None, "a step is skipped only after a whole one"
        return self._kept

    def _near(self, kept: Kept, new: Kept) -> bool:
        """Whether every branch, and the audio, is near enough; asks the device once."""
        changes = torch.stack([_change(one, other) for one, other in zip(new.first, kept.first, strict=True)])
        audio = _change(new.audio, kept.audio)
        return bool(((changes < self.threshold).all() & (audio < self.audio_threshold)).item())

    def _start(self, videos: Sequence[Tensor]) -> None:
        """A whole step: minus what layer 0 gave, to which ``leaves_last`` adds; in the memory of the last one."""
        assert self._new is not None
        places = self._kept.rest if self._kept is not None else [torch.empty_like(video) for video in videos]
        self._kept = None  # from here on it is half this step's: a failure leaves nothing to reuse
        if self._keeping:
            self._new.rest = [torch.neg(video, out=place) for video, place in zip(videos, places, strict=True)]


class Kept:
    """Of a whole step: some tokens as they entered, the audio's input, layer 0's residual, and what followed."""

    def __init__(self, entered: Tensor, audio: Tensor) -> None:
        self.entered = entered
        self.audio = audio
        self.first: list[Tensor] = []
        self.rest: list[Tensor] = []  # what layers 1 and on added to the video, [B, L, dim], one a branch
        self.told: dict[tuple[int, int], Tensor] = {}  # (branch, layer) -> what the bridge added to the audio


def _some(video: Tensor) -> Tensor:
    return video[:, :: max(1, math.ceil(video.shape[1] / CACHE_ROWS))]


def _change(now: Tensor, before: Tensor) -> Tensor:
    """Relative L1 distance, float32; infinite from nothing, and never small where something isn't a number."""
    before = before.float()
    return (now.float() - before).abs().sum() / before.abs().sum()
