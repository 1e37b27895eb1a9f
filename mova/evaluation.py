"""One evaluation of all branches of the guidance: layer by layer, each layer for every branch while it is there.

States are changed in place; what branches share is computed once. ``JointTransformer.evaluate`` is the way in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from mova.attention import KeyValue, Rotary
from mova.tower import DiTBlock, Modulations

if TYPE_CHECKING:
    from mova.joint import JointTransformer

# Makes the weights of a pack usable inside the block.
Lend = Callable[[Hashable], AbstractContextManager[None]]
Heard = tuple[KeyValue, ...]  # a layer's keys and values of the text: the video block's, and the audio block's if any


def keep(_key: Hashable) -> AbstractContextManager[None]:
    """The ``Lend`` of those whose weights are where they are used."""
    return nullcontext()


def no_word(_layer: int) -> None:
    """The ``before_layer`` of those who don't listen."""


class Part(NamedTuple):
    """The key of a pack: weights of a layer that travel together.

    ``what`` is "block" (video block, bridge pair and audio block), "text" (what reading a prompt needs of them) or
    "audio" (the audio block alone, asked for where the video's work is reused).
    """

    expert: str
    layer: int
    what: str


@dataclass(frozen=True, eq=False)
class TextContext:
    """What the towers of an expert know of one prompt: the same at every step.

    ``video`` and ``audio`` are [B, S, dim]. ``heard`` are each layer's keys and values of them, None if not cached.
    """

    expert: str
    video: Tensor
    audio: Tensor
    heard: tuple[Heard, ...] | None = None


Branch = tuple[TextContext, bool]  # the text, and whether the bridge is used


class Reuse(Protocol):
    """May leave out the video's layers after the first where they would add what they added before."""

    def enters(self, video: Tensor, audio: Tensor) -> None:
        """What goes into layer 0, [B, L, dim] each, the same for every branch."""

    def leaves_first(self, videos: Sequence[Tensor]) -> bool:
        """Whether the rest is left out; ``videos`` [B, L, dim] are after layer 0, one a branch."""

    def told(self, branch: int, layer: int, audio_before: Tensor, audio_after: Tensor) -> None:
        """Where nothing is left out: audio [B, N, dim] before and after the bridge of ``layer`` (1 and on)."""

    def tell(self, branch: int, layer: int, audio: Tensor) -> Tensor:
        """Where the video is left out: audio [B, N, dim] after the bridge of ``layer`` (1 and on)."""

    def leaves_last(self, branch: int, video: Tensor) -> Tensor:
        """The video [B, L, dim] after the last layer, from what the last computed layer left."""


class Tables(NamedTuple):
    """Rotary tables of a clip: of each tower, and of both on the bridge's time line."""

    video: Rotary
    audio: Rotary
    bridge: tuple[Rotary, Rotary] | None


class Moment(NamedTuple):
    """What all branches share: the clip's grid and tables, the time (t_mod [B, 6, dim]), video rows at a time."""

    grid: tuple[int, ...]
    tables: Tables
    video_t_mod: Tensor
    audio_t_mod: Tensor
    size: int | None


class Pair(NamedTuple):
    """The states of a branch, [B, L, dim] each; layers change them in place."""

    video: Tensor
    audio: Tensor


class Side(NamedTuple):
    """A tower's block of a layer, how the moment modulates it, and how its rows are turned and taken."""

    block: DiTBlock
    modulations: Modulations
    rope: Rotary
    size: int | None


class Evaluation:
    """All layers for all ``branches`` at one ``moment``; the other arguments as in ``JointTransformer.evaluate``."""

    def __init__(
        self,
        joint: JointTransformer,
        moment: Moment,
        branches: Sequence[Branch],
        *,
        lend: Lend = keep,
        before_layer: Callable[[int], None] = no_word,
        reuse: Reuse | None = None,
    ) -> None:
        self.joint = joint
        self.moment = moment
        self.branches = branches
        self.lend = lend
        self.before_layer = before_layer
        self.reuse = reuse

    def run(self, start: Pair) -> list[Pair]:
        """The states after the last layer, one a branch, from those after the embedding (in their memory)."""
        if self.reuse is None:
            pairs = self._first(start)
            for number in range(1, len(self.joint.video_dit.blocks)):
                self._whole(number, pairs)
            return pairs
        self.reuse.enters(*start)
        return self._reusing(self._first(start), self.reuse)

    def _first(self, start: Pair) -> list[Pair]:
        """Layer 0. What it does before it reads the text is done once for branches that share it."""
        exchanging = [bridged and 0 in self.joint.bridge.layers for _, bridged in self.branches]
        with self._lent(0, "block"):
            sides = self._sides(0)
            opened = dict(zip(dict.fromkeys(exchanging), _copies(start, len(set(exchanging))), strict=True))
            for bridged, pair in opened.items():
                if bridged:
                    self._exchange(0, pair)
                _attend(sides, pair)
            states = {bridged: _copies(pair, exchanging.count(bridged)) for bridged, pair in opened.items()}
            pairs = [states[bridged].pop() for bridged in exchanging]
            for pair, (text, _) in zip(pairs, self.branches, strict=True):
                _respond(0, sides, pair, text)
        return pairs

    def _whole(self, number: int, pairs: Sequence[Pair], reuse: Reuse | None = None) -> None:
        with self._lent(number, "block"):
            sides = self._sides(number)
            for index, (pair, (text, bridged)) in enumerate(zip(pairs, self.branches, strict=True)):
                if bridged and number in self.joint.bridge.layers:
                    before = pair.audio.clone() if reuse else pair.audio
                    self._exchange(number, pair)
                    if reuse:
                        reuse.told(index, number, before, pair.audio)
                _attend(sides, pair)
                _respond(number, sides, pair, text)

    def _reusing(self, pairs: Sequence[Pair], reuse: Reuse) -> list[Pair]:
        if reuse.leaves_first([pair.video for pair in pairs]):
            for number in range(1, len(self.joint.audio_dit.blocks)):
                pairs = self._audio_alone(number, pairs, reuse)
        else:
            for number in range(1, len(self.joint.video_dit.blocks)):
                self._whole(number, pairs, reuse)
        return [Pair(reuse.leaves_last(index, pair.video), pair.audio) for index, pair in enumerate(pairs)]

    def _audio_alone(self, number: int, pairs: Sequence[Pair], reuse: Reuse) -> list[Pair]:
        """The audio block, told what the video told it before."""
        told = [Pair(pair.video, reuse.tell(index, number, pair.audio)) for index, pair in enumerate(pairs)]
        with self._lent(number, "audio"):
            side = self._audio_side(number)
            assert side is not None, "only layers that the audio tower has"
            for pair, (text, _) in zip(told, self.branches, strict=True):
                side.block.attend_(pair.audio, side.modulations, side.rope)
                heard = side.block.read_text(text.audio) if text.heard is None else text.heard[number][1]
                side.block.respond_(pair.audio, side.modulations, heard)
        return told

    def _lent(self, number: int, what: str) -> AbstractContextManager[None]:
        self.before_layer(number)
        return self.lend(Part(self.branches[0][0].expert, number, what))

    def _sides(self, number: int) -> list[Side]:
        """The video block's, then the audio block's if the layer has one; their weights must be lent."""
        block = self.joint.video_dit.layer(number)
        assert block is not None, "the video tower is the deeper one"
        video = Side(block, block.modulate(self.moment.video_t_mod), self.moment.tables.video, self.moment.size)
        audio = self._audio_side(number)
        return [video, audio] if audio else [video]

    def _audio_side(self, number: int) -> Side | None:
        block = self.joint.audio_dit.layer(number)
        if block is None:
            return None
        return Side(block, block.modulate(self.moment.audio_t_mod), self.moment.tables.audio, None)

    def _exchange(self, number: int, pair: Pair) -> None:
        self.joint.bridge.exchange_(number, *pair, self.moment.tables.bridge, self.moment.grid, self.moment.size)


def _attend(sides: Sequence[Side], pair: Pair) -> None:
    for side, x in zip(sides, pair, strict=False):
        side.block.attend_(x, side.modulations, side.rope, side.size)


def _respond(number: int, sides: Sequence[Side], pair: Pair, text: TextContext) -> None:
    for index, (side, x, context) in enumerate(zip(sides, pair, (text.video, text.audio), strict=False)):
        heard = side.block.read_text(context) if text.heard is None else text.heard[number][index]
        side.block.respond_(x, side.modulations, heard, side.size)


def _copies(pair: Pair, count: int) -> list[Pair]:
    """``count`` states with these values; the first is the one given."""
    return [pair, *(Pair(pair.video.clone(), pair.audio.clone()) for _ in range(count - 1))]
