"""How long a generation takes, from operations and bytes and a card's published rates. Estimates; none is measured.

Whatever runs beside the computing counts only where it takes longer: copies to the device, reading files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mova.cards import GEFORCE, HOPPER, Rates, rates_of
from mova.costs import Flops, reading_flops, shape_of, step_flops
from mova.footprint import FLOAT32, Case, Choice, all_packs, resident
from mova.resources import Card
from mova.vae_costs import (
    condition_groups,
    decode_flops,
    decoder_cut,
    decoder_levels,
    encode_flops,
    encoder_cut,
    encoder_levels,
    group_traffic,
    sound_flops,
    waiting_bytes,
)

# One core copying pages of a file into a pinned buffer, and the driver copying memory that isn't pinned.
STAGING, UNPINNED = 8e9, 6e9
# As the published figures of an RTX 4090 imply: self-attention by SageAttention 2++ (a step of 35 s falls to 23 s), and
# products in 8 bits (23 s to 17 s).
SAGE, EIGHT_BIT = 2.6, 1.7
CACHE = 1.4  # what published step caches gain at this threshold


@dataclass(frozen=True)
class Seconds:
    """Seconds of each phase; ``step`` is a denoising step's mean, ``denoising`` includes reading the weights once.

    ``text`` is None where the text encoder computes on the CPU, whose rate isn't known.
    """

    text: float | None
    frame: float
    step: float
    denoising: float
    decoding: float


def attention_for(case: Case, card: Card | None) -> str:
    """The kernel that the engine is expected to choose on ``card``, by its name there (``mova.attention``)."""
    if case.preset.sage:
        return "sage"
    return "_native_cudnn" if card and card.capability == HOPPER and case.itemsize < FLOAT32 else "native"


def rates_for(case: Case, card: Card | None) -> Rates | None:
    """The rates of ``card`` with that kernel; None if they aren't known."""
    return None if card is None else rates_of(card.name, slow_attention=attention_for(case, card) == "native")


def estimate(case: Case, choice: Choice, rates: Rates, disk_speed: float | None) -> Seconds:
    """How long the phases take on a card with ``rates``, whose checkpoint isn't in memory yet."""
    step = step_seconds(case, choice, rates, disk_speed)
    steps = case.spec.num_inference_steps
    reading = case.shape.texts * _compute(case, reading_flops(case.model, case.shape), rates)
    stored = sum(all_packs(case, text_kv=choice.text_kv)) // 2 + resident(case)
    experts = min(2, steps)
    first = experts * (_from_disk(stored, disk_speed) + reading)
    return Seconds(
        text=_text(case, choice, rates, disk_speed),
        frame=_frame(case, choice, rates, disk_speed),
        step=step,
        denoising=first + steps * step,
        decoding=_decoding(case, choice, rates, disk_speed),
    )


def step_seconds(case: Case, choice: Choice, rates: Rates, disk_speed: float | None) -> float:
    """The mean over the schedule: computing, or what runs beside it where that takes longer."""
    steps = case.spec.num_inference_steps
    guided = math.ceil(case.preset.guided_share * steps)
    whole = compute_seconds(case, choice, rates, guided=True)
    alone = compute_seconds(case, choice, rates, guided=False) if guided < steps else 0.0
    beside = beside_seconds(case, choice, rates, disk_speed)
    mean = (guided * max(whole, beside) + (steps - guided) * max(alone, beside)) / steps
    return mean / (CACHE if case.preset.cache else 1.0)


def compute_seconds(case: Case, choice: Choice, rates: Rates, *, guided: bool = True) -> float:
    """A step's operations at the share of the card's peak that was seen."""
    shape = case.shape if guided else shape_of(case.model, case.spec, guided=False)
    return _compute(case, step_flops(case.model, shape, text_kv=choice.text_kv), rates)


def beside_seconds(case: Case, choice: Choice, rates: Rates, disk_speed: float | None) -> float:
    """What a step carries to the device: by the bus, out of files that are in memory, from the disk."""
    copied, read = carried(case, choice)
    source = _from_disk(read, disk_speed) if choice.direct else read / STAGING
    return max(copied / rates.bus, source)


def carried(case: Case, choice: Choice) -> tuple[int, int]:
    """(bytes copied to the device a step, bytes of them that are read from files), once everything is in its place.

    Of k places two are on the move and the others keep what they hold (``mova.shelves``).
    """
    blocks, _ = case.packs[choice.text_kv]
    layers, mean = len(blocks), sum(blocks) / len(blocks)
    missed = 0 if choice.slots >= layers else layers - choice.slots + 2
    absent = 0 if choice.buffers >= layers or not missed else max(1, missed - choice.buffers + 2)
    return math.ceil(min(missed, layers) * mean), math.ceil(min(absent, missed, layers) * mean)


def _compute(case: Case, flops: Flops, rates: Rates) -> float:
    geforce = rates.seen is GEFORCE
    attention = SAGE if case.preset.sage and geforce else 1.0
    matrices = EIGHT_BIT if case.preset.matmul == "w8a8" else 1.0
    rate = _bf16(case, rates)
    return flops.attention / attention / rate + flops.matrices / matrices / rate + flops.others / rate


def _bf16(case: Case, rates: Rates) -> float:
    """Operations a second in the model's dtype."""
    return rates.bf16 * rates.seen.share / (1 if case.itemsize < FLOAT32 else _times_slower(rates))


def _times_slower(rates: Rates) -> int:
    """float32 outside of the tensor cores against bf16 in them; both from the same sources as the rates."""
    return 2 if rates.seen is GEFORCE else 16


def _text(case: Case, choice: Choice, rates: Rates, disk_speed: float | None) -> float | None:
    """Weights from the disk to the device, once, or for each prompt where parts are lent."""
    if choice.text == "cpu":
        return None
    encoder, texts, rows = case.model.text, case.shape.texts, case.shape.text
    whole, table = case.held(encoder.weights), case.held(encoder.table)
    weights, copies = (whole - table, texts) if choice.text == "parts" else (whole, 1)
    inner = encoder.num_heads * encoder.head_dim
    products = 2 * rows * (encoder.weights.elements - encoder.table.elements)
    flops = texts * (products + 4 * rows**2 * inner * encoder.layers)
    return max(_from_disk(weights, disk_speed), copies * weights / UNPINNED) + flops / _bf16(case, rates)


def _frame(case: Case, choice: Choice, rates: Rates, disk_speed: float | None) -> float:
    vae, spec, groups = case.model.vae, case.spec, case.shape.latents[0]
    seen = encoder_cut(vae, spec.height, spec.width, choice.vae_tile).seen
    flops = seen * encode_flops(vae, groups, spec.height, spec.width)
    levels = encoder_levels(vae, spec.height, spec.width)
    moved = seen * condition_groups(vae, groups) * group_traffic(levels, case.itemsize)
    return _from_disk(case.held(vae.weights), disk_speed) + flops / _bf16(case, rates) + moved / rates.memory


def _decoding(case: Case, choice: Choice, rates: Rates, disk_speed: float | None) -> float:
    vae, sound, spec, groups = case.model.vae, case.model.sound, case.spec, case.shape.latents[0]
    seen = decoder_cut(vae, spec.height, spec.width, choice.vae_tile).seen
    flops = seen * decode_flops(vae, groups, spec.height, spec.width)
    moved = seen * groups * group_traffic(decoder_levels(vae, spec.height, spec.width), case.itemsize)
    waited = 0.0
    if choice.tiles_wait:
        one_way = waiting_bytes(vae, spec.height, spec.width, case.itemsize, choice.vae_tile)
        waited = 2 * groups * one_way / UNPINNED
    loaded = _from_disk(case.held(vae.weights) + sound.weights.bytes, disk_speed)
    heard = sound_flops(sound, case.shape.audio) * _times_slower(rates) / (rates.bf16 * rates.seen.share)
    return loaded + flops / _bf16(case, rates) + moved / rates.memory + waited + heard


def _from_disk(size: float, disk_speed: float | None) -> float:
    """Nothing is said of a disk that wasn't tried."""
    return size / disk_speed if disk_speed else 0.0
