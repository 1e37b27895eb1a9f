"""Estimates: the published figures come out, and what overlaps costs only where it is longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mova.cards import Rates, rates_of
from mova.footprint import Case, Choice
from mova.plan import Card
from mova.presets import PRESETS
from mova.released import RELEASED_360P
from mova.shelves import fit_places, plan_moves
from mova.spec import ClipSpec
from mova.times import attention_for, beside_seconds, carried, estimate, rates_for, step_seconds

ALL_IN_VRAM = Choice(40, 3, False, None, True, "device", None)
STREAMED = Choice(3, 3, False, 4096, True, "device", None)
SIZES = {"360p": ClipSpec(), "720p": ClipSpec(width=1280, height=720)}


def case_of(size: str = "360p", preset: str = "exact", dtype: str = "auto") -> Case:
    return Case(RELEASED_360P, SIZES[size], PRESETS[preset], dtype, "cuda")


def rates(name: str, *, slow_attention: bool = False) -> Rates:
    known = rates_of(name, slow_attention=slow_attention)
    assert known
    return known


@pytest.mark.parametrize(
    ("card", "slow", "size", "seconds"),
    [
        ("RTX 4090", False, "360p", 37.5),  # published, component offload
        ("A100", False, "360p", 31.0),
        ("H200", False, "360p", 8.7),
        ("H200", True, "360p", 13.4),
        ("H200", False, "720p", 96.0),
        ("H200", True, "720p", 164.7),
    ],
)
def test_the_published_seconds_a_step(card: str, slow: bool, size: str, seconds: float) -> None:
    assert step_seconds(case_of(size), ALL_IN_VRAM, rates(card, slow_attention=slow), 3e9) == pytest.approx(
        seconds, rel=0.15
    )


def test_streaming_costs_nothing_while_computing_takes_longer() -> None:
    known = rates("RTX 4090")
    resident = step_seconds(case_of(), ALL_IN_VRAM, known, 3e9)
    assert step_seconds(case_of(), STREAMED, known, 3e9) == resident
    slow_disk = replace(STREAMED, direct=True)
    assert step_seconds(case_of(), slow_disk, known, 0.2e9) == beside_seconds(case_of(), slow_disk, known, 0.2e9)
    assert step_seconds(case_of(), replace(slow_disk, buffers=40), known, 0.2e9) == resident


def test_bus_time_is_a_small_part_of_a_step_at_360p() -> None:
    """The published arithmetic: 4 to 16 % of computing."""
    for card in ("RTX 4090", "H200"):
        copied, _ = carried(case_of(), STREAMED)
        assert 0.03 < copied / rates(card).bus / step_seconds(case_of(), ALL_IN_VRAM, rates(card), 3e9) < 0.16


@pytest.mark.parametrize("slots", [2, 3, 10, 20, 30, 39, 40])
@pytest.mark.parametrize("buffers", [2, 3, 10, 20, 40])
def test_what_is_carried_is_what_the_shelves_move(slots: int, buffers: int) -> None:
    """From above: moves of an order of many steps, once everything is in its place."""
    blocks, _ = case_of().packs[True]
    steps, layers = 12, len(blocks)
    nbytes = dict(enumerate(blocks))
    order = [layer for _ in range(steps) for layer in range(layers)]
    moves = plan_moves(order, nbytes, [(None, size) for size in fit_places(order, nbytes, [(None, 0)] * slots)])
    fetched = [move.key for move in moves]
    places = fit_places(fetched, nbytes, [(None, 0)] * buffers)
    reads = plan_moves(fetched, nbytes, [(None, size) for size in places])
    settled = [move for move in moves if layers <= move.use]
    copied, read = carried(case_of(), replace(STREAMED, slots=slots, buffers=buffers))
    assert sum(nbytes[move.key] for move in settled) <= (steps - 1) * copied * 1.06
    assert len(reads) - layers <= (steps - 1) * (read / copied if copied else 0) * layers + layers


def test_presets_are_faster_where_they_compute_less() -> None:
    known = rates("RTX 4090")
    exact, light, fast, fastest = (
        step_seconds(case_of(preset=name), ALL_IN_VRAM, known, 3e9) for name in ("exact", "light", "fast", "fastest")
    )
    assert exact == light, "weights alone in 8 bits save memory, not time"
    assert exact > 1.8 * fast > 1.8 * fastest
    unguided = replace(case_of(), spec=ClipSpec(guidance_scale=1.0))
    alone = step_seconds(unguided, ALL_IN_VRAM, known, 3e9)
    assert alone == pytest.approx(exact / 2, rel=0.02)


def test_phases_of_a_clip() -> None:
    known = rates("H200")
    seconds = estimate(case_of("720p"), ALL_IN_VRAM, known, 3e9)
    assert seconds.denoising > 50 * seconds.step
    assert seconds.text and 3 < seconds.text < 10, "11.4 GB from a disk of 3 GB/s"
    assert 2 < seconds.decoding < 12
    tiled = estimate(case_of("720p"), replace(ALL_IN_VRAM, vae_tile=256), known, 3e9)
    waiting = estimate(case_of("720p"), replace(ALL_IN_VRAM, vae_tile=256, tiles_wait=True), known, 3e9)
    assert seconds.decoding < tiled.decoding < waiting.decoding
    assert seconds.frame < tiled.frame
    parts = estimate(case_of("720p"), replace(ALL_IN_VRAM, text="parts"), known, None)
    whole = estimate(case_of("720p"), ALL_IN_VRAM, known, None)
    assert parts.text and whole.text and whole.text < parts.text
    assert estimate(case_of(), replace(ALL_IN_VRAM, text="cpu"), known, 3e9).text is None


def test_the_kernel_that_is_expected() -> None:
    hopper, ada = Card("NVIDIA H200", 1, 1, (9, 0)), Card("NVIDIA GeForce RTX 4090", 1, 1, (8, 9))
    assert attention_for(case_of(), hopper) == "_native_cudnn"
    assert attention_for(case_of(), ada) == attention_for(case_of(), None) == "native"
    assert attention_for(case_of(dtype="float32"), hopper) == "native", "cuDNN's kernel knows 16 bits only"
    assert attention_for(case_of(preset="fast"), ada) == "sage"
    assert rates_for(case_of(), Card("a card", 1, 1)) is None
    exact, precise = (rates_for(case_of(dtype=dtype), hopper) for dtype in ("auto", "float32"))
    assert exact and precise and exact.seen.share > precise.seen.share
