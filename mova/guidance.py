"""Guidance: which evaluations of the model a step needs, and how they become one velocity.

Dual guidance (MOVA's technical report, Eq. 6), c_T the text, c_B the bridge, 0 for absent (the negative prompt; the
towers without a word between them):

    v = v(0,0) + s_B [v(0,c_B) - v(0,0)] + s_T [v(c_T,c_B) - v(0,c_B)]

s_B = 1 is plain text guidance; with s_T = s_B the middle term cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a plan asks for the branches, and goes without torch
    from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """One evaluation of the model: with the prompt or the negative prompt, with or without the bridge."""

    text: bool
    bridge: bool


@dataclass(frozen=True)
class Guidance:
    """A chain of evaluations and the scale of each step along it; one scale fewer than branches."""

    branches: tuple[Branch, ...]
    scales: tuple[float, ...]

    @property
    def needs_negative_prompt(self) -> bool:
        """Whether any evaluation reads the negative prompt."""
        return not all(branch.text for branch in self.branches)

    @property
    def unguided(self) -> Guidance:
        """The end of the chain alone, which heard most: one evaluation, no scale."""
        return Guidance(self.branches[-1:], ())

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """The guided velocity, float32, from one prediction a branch (in their order)."""
        chain = [prediction.float() for prediction in predictions]
        guided = chain[0]
        for scale, before, after in zip(self.scales, chain, chain[1:], strict=False):
            guided = guided + scale * (after - before)
        return guided


def guidance(guidance_scale: float, bridge_guidance_scale: float = 1.0) -> Guidance:
    """The shortest chain for these scales: one evaluation for (1, 1), two for (s, 1) and (s, s), else three."""
    branches = [Branch(text=False, bridge=False), Branch(text=False, bridge=True), Branch(text=True, bridge=True)]
    scales = [bridge_guidance_scale, guidance_scale]
    if guidance_scale == bridge_guidance_scale:
        del branches[1], scales[1]
    while scales and scales[0] == 1.0:  # the first two terms telescope into the second
        del branches[0], scales[0]
    while scales and scales[-1] == 0.0:
        del branches[-1], scales[-1]
    return Guidance(tuple(branches), tuple(scales))
