"""The operations of a denoising step, exactly.

A product of [m, k] and [k, n] is 2 m k n operations; attention of m queries to n keys of width d is 4 m n d (half for
the scores, half for the sum). The rest isn't counted, as ``torch.utils.flop_counter`` doesn't.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mova.guidance import guidance
from mova.model import Bridge, Model, Tower
from mova.spec import FRAME_GROUP, MAX_PROMPT_TOKENS, ClipSpec


@dataclass(frozen=True)
class Shape:
    """A clip as the towers see it: latents, tokens, and the branches of its guidance (True: with the bridge)."""

    latents: tuple[int, int, int]  # frames, height, width
    grid: tuple[int, int, int]  # the same in tokens
    audio: int  # audio latents, which are tokens
    branches: tuple[bool, ...]
    texts: int  # prompts that are read: one, or two with the negative one
    text: int = MAX_PROMPT_TOKENS

    @property
    def video(self) -> int:
        """Video tokens."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class Flops:
    """Operations by what may run faster: ``matrices`` in 8 bits, ``attention`` (the video's to itself) by Sage."""

    matrices: int = 0
    attention: int = 0
    others: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.matrices + other.matrices, self.attention + other.attention, self.others + other.others)

    def times(self, count: int) -> Flops:
        """As often as that."""
        return Flops(self.matrices * count, self.attention * count, self.others * count)

    @property
    def total(self) -> int:
        """All of them."""
        return self.matrices + self.attention + self.others


def shape_of(model: Model, spec: ClipSpec, *, guided: bool = True) -> Shape:
    """The shape of a clip; ``guided`` False for the steps that evaluate the prompt alone."""
    scale, (patch_t, patch_h, patch_w) = model.vae.scale, model.experts[0].patch
    latents = ((spec.num_frames - 1) // FRAME_GROUP + 1, spec.height // scale, spec.width // scale)
    chain = guidance(spec.guidance_scale, spec.bridge_guidance_scale)
    evaluated = chain if guided else chain.unguided
    return Shape(
        latents=latents,
        grid=(latents[0] // patch_t, latents[1] // patch_h, latents[2] // patch_w),
        audio=max(1, (spec.audio_samples(model.sound.sample_rate) - 1) // model.sound.hop + 1),
        branches=tuple(branch.bridge for branch in evaluated.branches),
        texts=2 if chain.needs_negative_prompt else 1,
    )


def evaluation_flops(model: Model, shape: Shape, *, bridged: bool = True) -> Flops:
    """One evaluation as the formula has it: nothing shared, nothing remembered."""
    total = _text_embedding_flops(model, shape)
    for tower, rows in ((model.experts[0], shape.video), (model.audio, shape.audio)):
        total += _time_flops(tower) + _patch_flops(tower, rows) + _head_flops(tower, rows)
    for layer in range(model.experts[0].layers):
        total += _opening_flops(model, shape, layer, bridged=bridged)
        total += _text_flops(model, shape, layer) + _closing_flops(model, shape, layer)
    return total


def step_flops(model: Model, shape: Shape, *, text_kv: bool) -> Flops:
    """A step as ``JointTransformer.evaluate`` computes it.

    What the first layer does before it reads the text is done once for the branches that agree on the bridge, and
    time is embedded once for all. With ``text_kv``, keys and values of the text are those of ``reading_flops``.
    """
    total = Flops()
    for tower, rows in ((model.experts[0], shape.video), (model.audio, shape.audio)):
        total += _time_flops(tower) + _patch_flops(tower, rows) + _head_flops(tower, rows).times(len(shape.branches))
    for bridged in {bridged and 0 in model.bridge.layers for bridged in shape.branches}:
        total += _opening_flops(model, shape, 0, bridged=bridged)
    for layer in range(model.experts[0].layers):
        closing = _closing_flops(model, shape, layer)
        total += (closing if text_kv else closing + _text_flops(model, shape, layer)).times(len(shape.branches))
        for bridged in shape.branches if layer else ():
            total += _opening_flops(model, shape, layer, bridged=bridged)
    return total


def reading_flops(model: Model, shape: Shape) -> Flops:
    """What reading one prompt takes, once for each expert that leads: its embedding, each layer's keys and values."""
    layers = range(model.experts[0].layers)
    return sum((_text_flops(model, shape, layer) for layer in layers), _text_embedding_flops(model, shape))


def _opening_flops(model: Model, shape: Shape, layer: int, *, bridged: bool) -> Flops:
    """Bridge and self-attention: what a layer does before it reads the text."""
    expert, audio = model.experts[0], model.audio
    total = Flops(matrices=8 * shape.video * expert.dim**2, attention=4 * shape.video**2 * expert.dim)
    if layer < audio.layers:
        total += Flops(others=8 * shape.audio * audio.dim**2 + 4 * shape.audio**2 * audio.dim)
    return total + _bridge_flops(model, shape) if bridged and layer in model.bridge.layers else total


def _bridge_flops(model: Model, shape: Shape) -> Flops:
    """Both directions: q and o of who asks, k and v of who is asked, attention. Pooling is in addition where it is."""
    video, audio, d_video, d_audio = shape.video, shape.audio, model.experts[0].dim, model.audio.dim
    to_video = 4 * video * d_video**2 + 4 * audio * d_audio * d_video
    to_audio = 4 * audio * d_audio**2 + 4 * video * d_video * d_audio
    attention = 4 * video * audio * (d_video + d_audio)
    pooling = _pooling_flops(model.bridge, shape, d_video, d_audio) if model.bridge.pooled else 0
    return Flops(matrices=to_video, others=to_audio + attention + pooling)


def _pooling_flops(bridge: Bridge, shape: Shape, d_video: int, d_audio: int) -> int:
    """A probe asks the tokens of each frame (q, o a frame; k, v a token), and modulates the audio."""
    frames = shape.grid[0]
    probe = 4 * frames * d_video**2 + 4 * shape.video * d_video**2 + 4 * shape.video * d_video
    return probe + 4 * shape.audio * d_video * d_audio


def _closing_flops(model: Model, shape: Shape, layer: int) -> Flops:
    """What follows once the text is there: cross-attention to its keys and values, and the feed-forward."""
    expert, audio = model.experts[0], model.audio
    linears, attention = _response(expert, shape.video, shape.text)
    sound = sum(_response(audio, shape.audio, shape.text)) if layer < audio.layers else 0
    return Flops(matrices=linears, others=attention + sound)


def _response(tower: Tower, rows: int, text: int) -> tuple[int, int]:
    return 4 * rows * tower.dim * (tower.dim + tower.ffn_dim), 4 * rows * text * tower.dim


def _text_flops(model: Model, shape: Shape, layer: int) -> Flops:
    """A layer's keys and values of one text."""
    audio = 4 * shape.text * model.audio.dim**2 if layer < model.audio.layers else 0
    return Flops(matrices=4 * shape.text * model.experts[0].dim ** 2, others=audio)


def _text_embedding_flops(model: Model, shape: Shape) -> Flops:
    towers = (model.experts[0], model.audio)
    return Flops(others=sum(2 * shape.text * (tower.text_dim + tower.dim) * tower.dim for tower in towers))


def _time_flops(tower: Tower) -> Flops:
    return Flops(others=2 * tower.dim * (tower.freq_dim + 7 * tower.dim))


def _patch_flops(tower: Tower, rows: int) -> Flops:
    return Flops(others=2 * rows * tower.dim * tower.in_dim * math.prod(tower.patch))


def _head_flops(tower: Tower, rows: int) -> Flops:
    return Flops(others=2 * rows * tower.dim * tower.out_dim * math.prod(tower.patch))
