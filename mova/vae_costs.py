"""What encoding the first frame and decoding pictures and sound cost: operations, memory traffic, live bytes.

Of diffusers' AutoencoderKLWan as ``mova.video_vae`` runs it, a group of four frames at a time, and of
``mova.audio_vae``. A *map* is a level's feature map: its channels x frames x height x width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from mova.model import AudioVae, VideoVae
from mova.spec import FRAME_GROUP

FLOAT32 = 4
CACHED = 2  # frames that a causal convolution remembers
TILED = 2  # changes of resolution next to the picture that tiles are computed through, see ``mova.vae_tiles``
MIDDLE = 12  # maps of the smallest level that live in the middle: a residual block, or queries, keys and values
GIVEN = 2  # times that a group of pictures lives on its way into the encoder
SLACK = 1.04  # of the decoder, for what is small: outputs of tiles, norms, latents
AUDIO_UNITS, AUDIO_KERNEL = 3, 7  # of a block of DAC: residual units, each a wide and a pointwise convolution
SOUND_MAPS = 5  # that live in such a unit
# Maps that a residual block reads and writes, counted with ``mova.meter``: two norms in float32, activations, what
# causal convolutions append and pad, the sum.
BLOCK_TRAFFIC = 66


@dataclass(frozen=True)
class Level:
    """Residual blocks at one resolution: channels, how many, and the picture's height and width there.

    ``frames`` of a later group (the first one has one). ``resampled``: a change of resolution follows; ``in_time``: of
    frames too.
    """

    channels_in: int
    channels: int
    blocks: int
    frames: int
    height: int
    width: int
    resampled: bool
    in_time: bool

    @property
    def pixels(self) -> int:
        """Of a frame there."""
        return self.height * self.width

    @property
    def map(self) -> int:
        """Elements of its feature map."""
        return self.channels * self.frames * self.pixels

    @property
    def widths(self) -> Iterator[tuple[int, int]]:
        """(channels in, channels out) of each residual block."""
        for index in range(self.blocks):
            yield (self.channels_in if index == 0 else self.channels), self.channels


@dataclass(frozen=True)
class Cut:
    """What tiles compute, as a share of the picture: the ``largest`` alone, and all of them (``seen``)."""

    largest: float
    seen: float


def decoder_levels(vae: VideoVae, height: int, width: int) -> list[Level]:
    """The decoder's levels for pictures of ``height`` x ``width``, smallest first."""
    channels = [vae.decoder_base * multiple for multiple in (vae.multiples[-1], *reversed(vae.multiples))]
    grows = [*reversed(vae.halves_time), False]
    levels, frames = [], FRAME_GROUP // 2 ** sum(vae.halves_time)
    for index, (before, after) in enumerate(pairwise(channels)):
        last = index == len(grows) - 1
        scale = vae.scale >> index
        halved = before // 2 if index else before  # the change of resolution before it halved the channels
        size = (height // scale, width // scale)
        levels.append(Level(halved, after, vae.blocks + 1, frames, *size, not last, grows[index]))
        frames *= 2 if grows[index] else 1
    return levels


def encoder_levels(vae: VideoVae, height: int, width: int) -> list[Level]:
    """The encoder's levels, largest first."""
    channels = [vae.encoder_base * multiple for multiple in (1, *vae.multiples)]
    shrinks = [*vae.halves_time, False]
    levels, frames = [], FRAME_GROUP
    for index, (before, after) in enumerate(pairwise(channels)):
        last = index == len(shrinks) - 1
        size = (height >> index, width >> index)
        levels.append(Level(before, after, vae.blocks, frames, *size, not last, shrinks[index]))
        frames //= 2 if shrinks[index] else 1
    return levels


def condition_groups(vae: VideoVae, groups: int) -> int:
    """How many of ``groups`` the encoder is run on: from then on the latent stays (``video_vae.condition_frames``).

    A causal convolution of three frames looks two back; one that halves time settles in half as many.
    """
    settled = 1 + CACHED
    for level in encoder_levels(vae, vae.scale, vae.scale):
        settled += 2 * CACHED * level.blocks
        if level.in_time:
            settled = -(-(settled + CACHED) // 2)
    settled += 2 * 2 * CACHED + CACHED  # the middle's two blocks, the last convolution
    return min(groups, 1 + settled)


def decode_flops(vae: VideoVae, groups: int, height: int, width: int) -> int:
    """Decoding ``groups`` latent frames."""
    levels = decoder_levels(vae, height, width)
    pixels = levels[0].height * levels[0].width
    denormalised = 2 * vae.z_dim**2 * pixels * groups
    return denormalised + _decoder_flops(vae, levels, first=True) + (groups - 1) * _decoder_flops(vae, levels)


def encode_flops(vae: VideoVae, groups: int, height: int, width: int) -> int:
    """Encoding a condition of ``groups`` latent frames."""
    levels = encoder_levels(vae, height, width)
    pixels = levels[-1].height * levels[-1].width
    posterior = 2 * (2 * vae.z_dim) ** 2 * pixels * groups
    later = condition_groups(vae, groups) - 1
    return posterior + _encoder_flops(vae, levels, first=True) + later * _encoder_flops(vae, levels)


def group_traffic(levels: list[Level], size: int) -> int:
    """Bytes that the element-wise work of one group reads and writes."""
    return size * BLOCK_TRAFFIC * sum(level.blocks * level.map for level in levels)


def decode_bytes(
    vae: VideoVae, height: int, width: int, size: int, tile: int | None = None, *, waiting: bool = False
) -> int:
    """The most that lives on the device while a later group is decoded, without the weights.

    Args:
        vae: the VAE.
        height: of the pictures; ``width`` likewise.
        size: bytes a number.
        tile: see ``video_vae.decode_frames``.
        waiting: what tiles remember waits in RAM, all but one's.
    """
    levels = decoder_levels(vae, height, width)
    small, large = levels[:-TILED], levels[-TILED:]
    first, given, last = levels[0], small[-1], levels[-1]
    cut = decoder_cut(vae, height, width, tile)
    remembered = float(_remembered(small, vae.z_dim + 4 * first.channels_in, first))
    remembered += (cut.largest if waiting else cut.seen) * _remembered(large, last.channels, last)
    narrow = max(MIDDLE * first.channels_in * first.pixels, *(_peak(level) for level in small))
    enlarged = max(_doubling(level) for level in (given, *large))
    wide = given.map + cut.largest * max(enlarged, *(_peak(level) for level in large))
    shown = vae.channels * FRAME_GROUP * last.height * last.width
    return math.ceil(SLACK * size * (remembered + max(narrow, wide) + shown)) + 3 * FLOAT32 * shown


def encode_bytes(
    vae: VideoVae, height: int, width: int, size: int, tile: int | None = None, *, waiting: bool = False
) -> int:
    """The most that lives on the device while a group of the condition is encoded; arguments as ``decode_bytes``."""
    levels = encoder_levels(vae, height, width)
    large, small = levels[:TILED], levels[TILED:]
    first, last = levels[0], levels[-1]
    cut = encoder_cut(vae, height, width, tile)
    remembered = float(_remembered(small, 5 * last.channels, last))
    remembered += (cut.largest if waiting else cut.seen) * _remembered(large, vae.channels, first)
    made = small[0].channels_in * small[0].frames * small[0].height * small[0].width
    narrow = max(MIDDLE * last.channels * last.pixels, *(_peak(level) for level in small))
    wide = cut.largest * max(_peak(level) for level in large)
    given = vae.channels * FRAME_GROUP * height * width
    return math.ceil(size * (remembered + made + max(narrow, wide) + GIVEN * given)) + FLOAT32 * given


def waiting_bytes(vae: VideoVae, height: int, width: int, size: int, tile: int | None) -> int:
    """What all tiles of the decoder remember, and the encoder's at most: bytes that wait in RAM if they shall."""
    large = decoder_levels(vae, height, width)[-TILED:]
    seen = decoder_cut(vae, height, width, tile).seen
    return math.ceil(size * seen * _remembered(large, large[-1].channels, large[-1]))


def decoder_cut(vae: VideoVae, height: int, width: int, tile: int | None) -> Cut:
    """How the decoder's large pictures are cut. ValueError if a tile would be all margin."""
    large = decoder_levels(vae, height, width)[-TILED:]
    return _cut(height, width, tile, _Margin(_decoder_reach(large), into=1, out=1 << TILED))


def encoder_cut(vae: VideoVae, height: int, width: int, tile: int | None) -> Cut:
    """How the encoder's are."""
    large = encoder_levels(vae, height, width)[:TILED]
    return _cut(height, width, tile, _Margin(_encoder_reach(large), into=1 << TILED, out=1))


def sound_flops(sound: AudioVae, steps: int) -> int:
    """Decoding ``steps`` audio latents."""
    total = 2 * steps * (sound.latent_dim**2 + AUDIO_KERNEL * sound.latent_dim * sound.dim)
    channels, length = sound.dim, steps
    for rate in sound.rates:
        total += 2 * length * 2 * rate * channels * (channels // 2)
        channels, length = channels // 2, length * rate
        total += AUDIO_UNITS * 2 * length * (AUDIO_KERNEL + 1) * channels**2
    return total + 2 * length * AUDIO_KERNEL * channels


def sound_bytes(sound: AudioVae, steps: int) -> int:
    """The most that lives while sound is decoded, float32: five maps of a residual unit."""
    largest, channels, length = sound.dim * steps, sound.dim, steps
    for rate in sound.rates:
        channels, length = channels // 2, length * rate
        largest = max(largest, channels * length)
    return FLOAT32 * (SOUND_MAPS * largest + 2 * sound.latent_dim * steps + sound.dim)


@dataclass(frozen=True)
class _Margin:
    """How far tiles see beyond what they show, in pixels of the input; pixels of input and result to a small one."""

    reach: int
    into: int
    out: int


def _cut(height: int, width: int, tile: int | None, margin: _Margin) -> Cut:
    """As ``vae_tiles.spans`` cuts."""
    sides = [_cut_side(length, tile, margin) for length in (height, width)]
    return Cut(sides[0].largest * sides[1].largest, sides[0].seen * sides[1].seen)


def _cut_side(length: int, tile: int | None, margin: _Margin) -> Cut:
    scale = margin.into * margin.out
    pixels, beyond = length // scale, -(-margin.reach // margin.into)
    size = pixels if tile is None else tile // scale
    if pixels <= size:
        return Cut(1, 1)
    if size <= 2 * beyond:
        raise ValueError(f"A tile of {tile} pixels is all margin; {scale * (2 * beyond + 1)} is the smallest.")
    count = -(-pixels // (size - 2 * beyond))
    largest = min(pixels, -(-pixels // count) + 2 * beyond)
    return Cut(largest / pixels, 1 + 2 * beyond * (count - 1) / pixels)


def _decoder_reach(levels: list[Level]) -> int:
    """Pixels of the input that a pixel of the result can see: a convolution sees one further, doubling halves it."""
    reach = 1
    for level in reversed(levels):
        reach = -(-(reach + 2 * level.blocks + 1) // 2)
    return reach


def _encoder_reach(levels: list[Level]) -> int:
    reach = 0
    for level in reversed(levels):
        reach = 2 * (reach + 1) + 2 * level.blocks
    return reach + 1


def _peak(level: Level) -> float:
    """Elements that live in a residual block.

    Its input, an activation, the same with the frames before it appended, that padded, and what is remembered anew.
    """
    return level.map * (4 + 6 / level.frames)


def _doubling(level: Level) -> float:
    """Elements that live while a level's pictures are doubled: copied as they lie, and by way of float32."""
    return 9 * level.map * (2 if level.in_time else 1) if level.resampled else 0


def _remembered(levels: list[Level], others: int, at: Level) -> int:
    """Elements that causal convolutions remember: those of residual blocks and of time, ``others`` channels ``at``."""
    total = others * at.pixels
    for level in levels:
        channels = sum(before + after for before, after in level.widths) + level.channels * level.in_time
        total += channels * level.pixels
    return CACHED * total


def _decoder_flops(vae: VideoVae, levels: list[Level], *, first: bool = False) -> int:
    """One group through the decoder; the ``first`` is a single frame all the way."""
    start, end = levels[0], levels[-1]
    frames = 1 if first else start.frames
    total = _convolution(27, vae.z_dim, start.channels_in, frames * start.pixels)
    total += _middle_flops(start.channels_in, start.pixels, frames)
    for level in levels:
        frames = 1 if first else level.frames
        total += _blocks_flops(level, frames)
        if level.in_time and not first:
            total += _convolution(3, level.channels, 2 * level.channels, frames * level.pixels)
            frames *= 2
        if level.resampled:
            total += _convolution(9, level.channels, level.channels // 2, frames * 4 * level.pixels)
    return total + _convolution(27, end.channels, vae.channels, frames * end.pixels)


def _encoder_flops(vae: VideoVae, levels: list[Level], *, first: bool = False) -> int:
    start, end = levels[0], levels[-1]
    total = _convolution(27, vae.channels, start.channels_in, (1 if first else start.frames) * start.pixels)
    for level in levels:
        frames = 1 if first else level.frames
        total += _blocks_flops(level, frames)
        if level.resampled:
            total += _convolution(9, level.channels, level.channels, frames * level.pixels // 4)
        if level.in_time and not first:
            total += _convolution(3, level.channels, level.channels, frames // 2 * level.pixels // 4)
    frames = 1 if first else end.frames
    total += _middle_flops(end.channels, end.pixels, frames)
    return total + _convolution(27, end.channels, 2 * vae.z_dim, frames * end.pixels)


def _blocks_flops(level: Level, frames: int) -> int:
    places = frames * level.pixels
    total = 0
    for before, after in level.widths:
        total += _convolution(27, before, after, places) + _convolution(27, after, after, places)
        total += _convolution(1, before, after, places) if before != after else 0
    return total


def _middle_flops(channels: int, pixels: int, frames: int) -> int:
    """Two residual blocks around attention within each frame."""
    blocks = 4 * _convolution(27, channels, channels, frames * pixels)
    return blocks + _convolution(1, channels, 4 * channels, frames * pixels) + 4 * frames * pixels**2 * channels


def _convolution(kernel: int, before: int, after: int, places: int) -> int:
    return 2 * kernel * before * after * places
