"""The operations of a step: the published figures, and exactly what the engine is counted to compute."""

from __future__ import annotations

import pytest
import torch
from small import small

from mova.costs import Shape, evaluation_flops, reading_flops, shape_of, step_flops
from mova.meter import Meter
from mova.released import RELEASED_360P, RELEASED_720P
from mova.spec import ClipSpec

SIZES = {"360p": ClipSpec(), "720p": ClipSpec(width=1280, height=720)}
GRID = Shape(latents=(5, 8, 12), grid=(5, 4, 6), audio=21, branches=(True,), texts=2)


@pytest.mark.parametrize(
    ("size", "flops", "said"), [("360p", 5_532_748_741_386_240, 5.532e15), ("720p", 61_129_489_860_567_040, 61.13e15)]
)
def test_two_evaluations_are_what_was_counted_of_the_original(size: str, flops: int, said: float) -> None:
    """5.532 and 61.13 PFLOP; to the last operation, as ``torch.utils.flop_counter`` counts two plain passes."""
    shape = shape_of(RELEASED_360P, SIZES[size])
    original = 2 * evaluation_flops(RELEASED_360P, shape).total
    assert original == flops
    assert original == pytest.approx(said, rel=2e-4)


@pytest.mark.parametrize("size", SIZES)
def test_a_step_shares_and_remembers(size: str) -> None:
    shape = shape_of(RELEASED_720P, SIZES[size])
    original = 2 * evaluation_flops(RELEASED_720P, shape).total
    shared = step_flops(RELEASED_720P, shape, text_kv=False).total
    cached = step_flops(RELEASED_720P, shape, text_kv=True).total
    assert cached < shared < 0.9905 * original
    assert shared - cached == len(shape.branches) * (reading_flops(RELEASED_720P, shape).total - _embedding(shape))


def _embedding(shape: Shape) -> int:
    """Of the text, once for each tower."""
    towers = (RELEASED_720P.experts[0], RELEASED_720P.audio)
    return sum(2 * shape.text * (tower.text_dim + tower.dim) * tower.dim for tower in towers)


@pytest.mark.parametrize(
    ("bridge", "branches", "text_kv"),
    [
        ({}, (True,), True),
        ({}, (True, True), True),
        ({}, (True, True), False),
        ({}, (False, True, True), False),
        ({"interaction_strategy": "shallow_focus"}, (False, True, True), True),
        ({"interaction_strategy": "distributed"}, (True, True), True),
        ({"pooled_adaln": True}, (False, True), True),
    ],
    ids=str,
)
def test_the_engine_computes_exactly_that(bridge: dict[str, object], branches: tuple[bool, ...], text_kv: bool) -> None:
    joint, model = small(*bridge.items())
    shape = Shape(GRID.latents, GRID.grid, GRID.audio, branches, texts=2)
    latents, sound = torch.empty(1, 36, *shape.latents, device="meta"), torch.empty(1, 16, shape.audio, device="meta")
    time, text = torch.empty(1, device="meta"), torch.empty(1, shape.text, 64, device="meta", dtype=torch.bfloat16)
    with torch.no_grad(), Meter() as read:
        context = joint.read(text, cached=text_kv)
    with torch.no_grad(), Meter() as step:
        told = [(context, bridged) for bridged in branches]
        joint.evaluate(latents, sound, time, time, told, video_fps=24.0, token_chunk=60)
    with torch.no_grad(), Meter() as plain:
        joint(latents, sound, time, time, text, video_fps=24.0, use_bridge=branches[0])
    assert step.flops.total() == step_flops(model, shape, text_kv=text_kv).total
    assert plain.flops.total() == evaluation_flops(model, shape, bridged=branches[0]).total
    assert not text_kv or read.flops.total() == reading_flops(model, shape).total


def test_the_shape_of_a_clip() -> None:
    shape = shape_of(RELEASED_360P, ClipSpec())
    assert (shape.latents, shape.grid, shape.video, shape.audio) == ((49, 44, 80), (49, 22, 40), 43_120, 403)
    assert shape_of(RELEASED_360P, SIZES["720p"]).video == 176_400


@pytest.mark.parametrize(
    ("settings", "branches", "texts"),
    [
        ({}, (True, True), 2),
        ({"guidance_scale": 1.0}, (True,), 1),
        ({"bridge_guidance_scale": 3.0}, (False, True, True), 2),
        ({"bridge_guidance_scale": 5.0}, (False, True), 2),
    ],
)
def test_guidance_decides_what_is_evaluated(settings: dict[str, float], branches: tuple[bool, ...], texts: int) -> None:
    shape = shape_of(RELEASED_360P, ClipSpec(**settings))
    assert (shape.branches, shape.texts) == (branches, texts)
    alone = shape_of(RELEASED_360P, ClipSpec(**settings), guided=False)
    assert alone.branches == (True,)


def test_operations_are_told_apart_by_what_may_run_faster() -> None:
    """At 360p, of 5.532 PFLOP: 3.046 the video's self-attention, 2.066 its matrices and most of the bridge's."""
    flops = evaluation_flops(RELEASED_360P, shape_of(RELEASED_360P, ClipSpec())).times(2)
    assert flops.attention == pytest.approx(3.046e15, rel=1e-3)
    assert 2.066e15 < flops.matrices < 2.066e15 + 0.381e15
    assert flops.others < 0.05 * flops.total
