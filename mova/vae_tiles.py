"""The video VAE's blocks run a group of frames at a time, over the whole picture or tile by tile.

Everything in the VAE but the attention in the middle sees only the pixels near by. So a tile that is computed with as
wide a margin as its blocks can see, and shown without it, is what the whole picture would have there: nothing is
blended, and there are no seams. Only the kernels may round differently, as they do for another size of picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    CACHE_T,
    WanCausalConv3d,
    WanDecoder3d,
    WanEncoder3d,
    WanResample,
    WanResidualUpBlock,
    WanRMS_norm,
    WanUpBlock,
)
from torch import Tensor, nn

History = list[Tensor | str | None]  # what each causal convolution saw last; diffusers notes a first frame as "Rep"
LARGE = 2  # changes of resolution, counted from the clip's pixels, that tiles are computed through: there the bytes are
ACTIVATIONS = (WanRMS_norm, nn.SiLU)


@dataclass(frozen=True)
class Span:
    """One tile along one side: computed from ``start`` to ``stop``, shown from ``first`` to ``last``."""

    start: int
    stop: int
    first: int
    last: int


@dataclass
class Tile:
    """Where a tile is, and what its causal convolutions saw last."""

    rows: Span
    columns: Span
    history: History = field(default_factory=list)

    def move(self, device: torch.device) -> None:
        """Let the history be on ``device``."""
        self.history = [item.to(device) if isinstance(item, Tensor) else item for item in self.history]


def run_blocks(blocks: Sequence[nn.Module], x: Tensor, history: History, first: bool) -> Tensor:
    """One group of frames [B, C, t, h, w] through ``blocks`` of diffusers' encoder or decoder, as they run it.

    ``history`` (see ``new_history``) is read and brought up to date; ``first`` says that nothing came before.
    """
    place = [0]
    for block in blocks:
        if isinstance(block, WanCausalConv3d):
            x = _convolve(block, x, history, place)
        elif isinstance(block, ACTIVATIONS):
            x = block(x)
        elif isinstance(block, WanResidualUpBlock):
            x = block(x, feat_cache=history, feat_idx=place, first_chunk=first)
        else:
            x = block(x, feat_cache=history, feat_idx=place)
    return x


def new_history(blocks: Sequence[nn.Module]) -> History:
    """The history of ``blocks`` before the first frame."""
    return [None] * len(_all_of(blocks, WanCausalConv3d))


def decoder_blocks(decoder: WanDecoder3d) -> tuple[list[nn.Module], list[nn.Module]]:
    """The decoder's blocks in the order they run in: of the small pictures, then of the large ones."""
    up = _opened(decoder.up_blocks)
    cut = min(_resizing(up)[-LARGE:], default=0)
    ending = [decoder.norm_out, decoder.nonlinearity, decoder.conv_out]
    return [decoder.conv_in, decoder.mid_block, *up[:cut]], [*up[cut:], *ending]


def encoder_blocks(encoder: WanEncoder3d) -> tuple[list[nn.Module], list[nn.Module]]:
    """The encoder's blocks in the order they run in: of the large pictures, then of the small ones."""
    down = list(encoder.down_blocks)
    cut = max(_resizing(down)[:LARGE], default=-1) + 1
    ending = [encoder.norm_out, encoder.nonlinearity, encoder.conv_out]
    return [encoder.conv_in, *down[:cut]], [*down[cut:], encoder.mid_block, *ending]


class TiledBlocks:
    """``blocks`` that see only near by, run over tiles of a picture, each with a history of its own.

    Live meanwhile: the input, the result, every tile's history and what one tile computes.

    Args:
        blocks: as ``run_blocks`` takes them.
        patch: pixels of the clip, along each side, to one of the larger picture, be it the input or the result.
        tile: height and width of a tile with its margin, in pixels of the clip; None or no less than the picture's:
            nothing is cut.
        waiting: where the histories of tiles wait for their turn; None: where the picture is.

    Raises:
        ValueError: a tile would be all margin.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], patch: int, tile: int | None, waiting: torch.device | None = None
    ) -> None:
        self.blocks = blocks
        self.waiting = waiting
        reach, *self.scales = _reach(blocks)
        into, out = self.scales  # pixels of the input and of the result to one of the smaller picture
        self.margin = -(-reach // into)
        unit = into * out * patch
        self.tile = None if tile is None else tile // unit
        self.tiles: list[Tile] = []
        if self.tile is not None and self.tile <= 2 * self.margin:
            raise ValueError(f"A tile of {tile} pixels is all margin; take {(2 * self.margin + 1) * unit} or more.")

    def __call__(self, x: Tensor, first: bool) -> Tensor:
        """One group of frames through the blocks; ``first`` says that nothing came before."""
        into, out = self.scales
        height, width = (length // into for length in x.shape[-2:])
        if first:
            rows, columns = (spans(length, self.tile or length, self.margin) for length in (height, width))
            self.tiles = [Tile(row, column, new_history(self.blocks)) for row in rows for column in columns]
        if len(self.tiles) == 1:
            return run_blocks(self.blocks, x, self.tiles[0].history, first)
        whole: Tensor | None = None
        for tile in self.tiles:
            tile.move(x.device)
            seen = x[..., _computed(tile.rows, into), _computed(tile.columns, into)]
            made = run_blocks(self.blocks, seen, tile.history, first)
            if self.waiting is not None:
                tile.move(self.waiting)
            if whole is None:
                whole = made.new_empty(*made.shape[:-2], height * out, width * out)
            own = made[..., _own(tile.rows, out), _own(tile.columns, out)]
            whole[..., _shown(tile.rows, out), _shown(tile.columns, out)] = own
        assert whole is not None, "a picture has a tile"
        return whole


def spans(length: int, size: int, margin: int) -> list[Span]:
    """``length`` cut into tiles of at most ``size``, about alike, each with ``margin`` where it has a neighbour."""
    if length <= size:
        return [Span(0, length, 0, length)]
    count = -(-length // (size - 2 * margin))
    cuts = [index * length // count for index in range(count + 1)]
    return [Span(max(0, a - margin), min(length, b + margin), a, b) for a, b in pairwise(cuts)]


def _opened(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """The blocks with plain up-blocks as their parts: run one after another, none holds what went into the first."""
    opened: list[nn.Module] = []
    for block in blocks:
        opened += [*block.resnets, *(block.upsamplers or ())] if isinstance(block, WanUpBlock) else [block]
    return opened


def _resizing(blocks: Sequence[nn.Module]) -> list[int]:
    """Which of the blocks change the resolution."""
    return [index for index, block in enumerate(blocks) if _all_of([block], WanResample)]


def _convolve(convolution: WanCausalConv3d, x: Tensor, history: History, place: list[int]) -> Tensor:
    """A causal convolution of its own, with the frames that it saw last; diffusers does so inside its blocks."""
    past, latest = history[place[0]], x[:, :, -CACHE_T:].clone()
    if isinstance(past, Tensor) and latest.shape[2] < CACHE_T:
        latest = torch.cat((past[:, :, -1:], latest), dim=2)
    history[place[0]] = latest
    place[0] += 1
    return convolution(x, past)


def _reach(blocks: Sequence[nn.Module]) -> tuple[int, int, int]:
    """How many pixels of the input away a pixel of the result can see, and how much the blocks shrink and enlarge."""
    reach, shrunk, grown = 0, 1, 1
    for part in reversed(_all_of(blocks, nn.Upsample, nn.Conv2d, nn.Conv3d)):
        if isinstance(part, nn.Upsample):
            reach, grown = -(-reach // 2), grown * 2
        else:
            stride, kernel = part.stride[-1], part.kernel_size[-1]
            reach, shrunk = stride * (reach + kernel // 2), shrunk * stride
    return reach, shrunk, grown


def _computed(span: Span, scale: int) -> slice:
    """Of the picture, what a tile is computed from."""
    return slice(span.start * scale, span.stop * scale)


def _shown(span: Span, scale: int) -> slice:
    """Of the picture, what a tile gives."""
    return slice(span.first * scale, span.last * scale)


def _own(span: Span, scale: int) -> slice:
    """Of what a tile computed, what isn't margin."""
    return slice((span.first - span.start) * scale, (span.last - span.start) * scale)


def _all_of(blocks: Sequence[nn.Module], *kinds: type) -> list[Any]:
    return [part for block in blocks for part in block.modules() if isinstance(part, kinds)]
