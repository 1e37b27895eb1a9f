"""Structural figures: a step of the full model on meta tensors, its operations, bytes and copies counted as it runs.

A tower's layers cost the same each, so a few are run and the others added; see ``over_layers``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mova.bench.sizes import META, inputs_for, joint_of, prompt_for, video_vae_of
from mova.costs import shape_of
from mova.joint import JointTransformer, Part, TextContext
from mova.lanes import Event
from mova.meter import ATTENTION, KERNELS, Meter
from mova.model import Model
from mova.spec import ClipSpec
from mova.streaming import LayerStream
from mova.video_vae import encode_condition

EXPERT = "video_dit"
PAGE = 4096
WARM, STEPS = 2, 5  # steps that are passed over, and that are counted


@dataclass(frozen=True)
class Cost:
    """What a computation takes: operations, attention's among them; bytes moved by all but products; live bytes."""

    flops: int
    attention: int
    traffic: int
    peak: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def times(self, count: int) -> Cost:
        """As often as that."""
        return Cost(*(count * figure for figure in astuple(self)))


@dataclass(frozen=True)
class Streamed:
    """A step whose layers are streamed, once it goes on and on; and what is held for it."""

    copies: float
    copied_bytes: float
    syncs: float  # how often the computing thread waited for the device
    device_bytes: int
    pinned_bytes: int
    weight_bytes: int  # of what an expert's steps need, all layers


def over_layers(model: Model, cost: Callable[[tuple[int, int]], Cost]) -> Cost:
    """The cost at the model's own depth, from that at depths of two and three layers.

    ``cost`` takes (video layers, audio layers). The first layer is unlike the others; every further pair adds the same,
    and so does every further video layer that has no partner.
    """
    alone = model.experts[0].layers - model.audio.layers
    if model.audio.layers <= 3 or alone == 0:
        return cost((model.experts[0].layers, model.audio.layers))
    least, pair, lonely = cost((3, 2)), cost((4, 3)), cost((4, 2))
    # (4, 3) has a pair more than (3, 2), which has one video layer alone; (4, 2) has another one alone.
    return least + (pair + least.times(-1)).times(model.audio.layers - 2) + (lonely + least.times(-1)).times(alone - 1)


def step_cost(
    model: Model, spec: ClipSpec, chunk: int | None = None, *, fused: bool = True, whole: bool = False
) -> Cost:
    """A step with two branches as the engine computes it, text read before; ``peak`` with what was read.

    Args:
        model: whose step.
        spec: of what clip.
        chunk: video tokens at a time, all if None.
        fused: see ``Meter``.
        whole: run every layer, instead of a few that stand for them.
    """

    def cost(layers: tuple[int, int]) -> Cost:
        return _evaluated(joint_of(model, layers), model, spec, chunk, fused)

    return cost((model.experts[0].layers, model.audio.layers)) if whole else over_layers(model, cost)


def plain_cost(model: Model, spec: ClipSpec) -> Cost:
    """A step with two branches as the formula has it: one after the other, nothing kept, nothing fused."""

    def cost(layers: tuple[int, int]) -> Cost:
        joint, inputs = joint_of(model, layers), inputs_for(model, spec)
        with torch.no_grad(), Meter(fused=False) as meter:
            joint(*inputs.tensors, prompt_for(model), video_fps=inputs.video_fps)
        once = _cost(meter)
        return replace(once.times(2), peak=once.peak)

    return over_layers(model, cost)


def block_peak(
    model: Model, spec: ClipSpec, chunk: int | None = None, *, plain: bool = False, fused: bool = False
) -> int:
    """The most bytes that live in one video block, its input, tables and texts included."""
    joint = joint_of(model, (1, 1))
    block, tower = joint.video_dit.layer(0), joint.video_dit
    assert block is not None, "it has one layer"
    grid = shape_of(model, spec).grid
    with torch.no_grad(), Meter(fused=fused) as meter:
        x = torch.empty(1, grid[0] * grid[1] * grid[2], tower.dim, device=META, dtype=tower.dtype)
        context = torch.empty(1, 512, tower.dim, device=META, dtype=tower.dtype)
        t_mod = torch.empty(1, 6, tower.dim, device=META, dtype=tower.dtype)
        rope = tower.rope(grid, META)
        text = block.read_text(context)
        meter.forget_peak()  # of making the tables
        if plain:
            block(x, context, t_mod, rope)
        else:
            modulations = block.modulate(t_mod)
            block.attend_(x, modulations, rope, chunk)
            block.respond_(x, modulations, text, chunk)
    return meter.peak


def streamed_step(model: Model, *, slots: int, buffers: int, cached_text: bool) -> Streamed:
    """A step of an expert whose layers are streamed, on average once it goes on; by the engine's stream, counted."""
    joint, lane = joint_of(model), CountingLane()
    packs: dict[Any, list[Tensor]] = joint.packs(EXPERT, cached_text=cached_text)
    step = [key for key in packs if key.what == "block"]
    stream = LayerStream(packs, lane, slots=slots, buffers=buffers)
    try:
        texts = [key for key in packs if key.what == "text"]
        stream.follow(texts + step * (WARM + STEPS + 1))
        _lend(stream, texts + step * WARM)
        before, syncs = stream.stats, lane.syncs
        _lend(stream, step * STEPS)
        after = stream.stats
    finally:
        stream.close()
    return Streamed(
        copies=(after.copies - before.copies) / STEPS,
        copied_bytes=(after.copied_bytes - before.copied_bytes) / STEPS,
        syncs=(lane.syncs - syncs) / STEPS,
        device_bytes=after.device_bytes,
        pinned_bytes=after.pinned_bytes,
        weight_bytes=sum(tensor.nbytes for key in step for tensor in packs[key]),
    )


def encoded_frames(model: Model, num_frames: int) -> int:
    """How many frames of the first-frame condition go through the encoder, whatever their size."""
    vae, seen = video_vae_of(model), [0]

    def count(_module: object, args: tuple[Tensor, ...]) -> None:
        seen[0] += args[0].shape[2]

    handle = vae.encoder.conv_in.register_forward_pre_hook(count)
    encode_condition(vae, torch.empty(1, 3, 64, 64, device=META), num_frames)
    handle.remove()
    return seen[0]


class CountingLane:
    """A lane (see ``mova.lanes``) on the meta device: nothing travels, and what would is counted."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.pinned_bytes = 0
        self.syncs = 0
        self._thread = threading.get_ident()

    def slot(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] of nothing."""
        return torch.empty(nbytes, dtype=torch.uint8, device=META)

    def buffer(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] of nothing, as if pinned to the page."""
        self.pinned_bytes += _paged(nbytes)
        return self.slot(nbytes)

    def release(self, memory: Tensor) -> None:
        """Nothing is given back."""

    def copy(self, slot: Tensor, buffer: Tensor, after: Event | None) -> Event:
        """There at once."""
        return None

    def mark(self) -> Event:
        """Now."""
        return None

    def wait(self, event: Event) -> None:
        """The device would."""

    def finished(self, event: Event) -> None:
        """A host's wait for the device."""
        self.syncs += threading.get_ident() == self._thread


def _lend(stream: LayerStream, order: Sequence[Part]) -> None:
    for key in order:
        with stream.lend(key):
            pass


def _evaluated(joint: JointTransformer, model: Model, spec: ClipSpec, chunk: int | None, fused: bool) -> Cost:
    inputs = inputs_for(model, spec)
    with torch.no_grad(), Meter(fused=fused) as meter:
        texts: list[TextContext] = [joint.read(prompt_for(model), expert=EXPERT) for _ in range(2)]
        meter.flops.clear()
        meter.traffic.clear()
        meter.forget_peak()
        branches = [(text, True) for text in texts]
        joint.evaluate(*inputs.tensors, branches, video_fps=inputs.video_fps, token_chunk=chunk)
    return _cost(meter)


def _cost(meter: Meter) -> Cost:
    attention = meter.flops[KERNELS[ATTENTION]]
    return Cost(sum(meter.flops.values()), attention, sum(meter.traffic.values()), meter.peak)


def _paged(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE
