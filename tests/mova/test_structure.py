"""What the engine costs at the released size, counted on meta tensors, against what the original needs.

Every figure is exact and the same everywhere; none is a time.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from mova import fused
from mova.bench import simulated
from mova.bench.counted import (
    Streamed,
    block_peak,
    encoded_frames,
    plain_cost,
    step_cost,
    streamed_step,
)
from mova.bench.simulated import simulate
from mova.bench.sizes import LARGE, SMALL, Size
from mova.bench.structure import CHUNK
from mova.model import Model
from mova.plan import Plan, plan_for
from mova.plan_text import CARDS, GIB, Cell, cells, machine
from mova.plan_text import SIZES as CLIPS
from mova.released import RELEASED_360P as MODEL
from mova.spec import ClipSpec

cost = cache(step_cost)
LAYERS = MODEL.experts[0].layers
TINY = ClipSpec(height=32, width=48, num_frames=5)
BOTH = pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: size.name)


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled functions take blocks of rows one after the other, in place: one lives as another, so two will do."""
    blocks = fused._blocks
    monkeypatch.setattr(fused, "_blocks", lambda x: blocks(x)[:2])


def narrow(model: Model = MODEL) -> Model:
    """Quick to run: 9 + 6 layers of small width."""
    widths = {"text_dim": 16, "freq_dim": 16}
    expert = replace(model.experts[0], dim=48, ffn_dim=64, num_heads=2, blocks=model.experts[0].blocks[:9], **widths)
    audio = replace(model.audio, dim=24, ffn_dim=32, num_heads=1, blocks=model.audio.blocks[:6], **widths)
    bridge, text = replace(model.bridge, head_dim=24), replace(model.text, dim=16)
    return replace(model, experts=(expert, expert), audio=audio, bridge=bridge, text=text)


@BOTH
def test_the_plain_path_is_the_published_work(size: Size) -> None:
    """So the meter counts what was counted elsewhere."""
    assert plain_cost(MODEL, size.spec).flops == pytest.approx(size.original.flops, rel=1e-3)


@BOTH
def test_a_step_takes_no_more_operations_than_the_original(size: Size) -> None:
    assert cost(MODEL, size.spec, None).flops <= size.original.flops


@BOTH
def test_a_block_lives_in_two_fifths_of_the_memory(size: Size) -> None:
    assert block_peak(MODEL, size.spec) <= 0.39 * size.original.block_peak


@BOTH
def test_a_block_in_chunks_lives_in_a_quarter_of_the_memory(size: Size) -> None:
    assert block_peak(MODEL, size.spec, CHUNK) <= 0.27 * size.original.block_peak


def test_a_compiled_block_needs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled functions give new memory where formulas work in place."""
    monkeypatch.setattr(fused, "_compiled", lambda formula, *_variant: formula)
    fused.use(compiled=True, devices=frozenset({"meta"}))
    try:
        peak = block_peak(MODEL, SMALL.spec, CHUNK, fused=True)
    finally:
        fused.use(compiled=False)
    assert peak <= 0.27 * SMALL.original.block_peak


@pytest.mark.parametrize("chunk", [None, CHUNK])
def test_element_wise_work_moves_less_than_half_the_bytes(chunk: int | None) -> None:
    assert SMALL.original.traffic
    assert cost(MODEL, SMALL.spec, chunk).traffic <= 0.45 * SMALL.original.traffic


def test_the_condition_is_encoded_until_it_stays() -> None:
    assert encoded_frames(MODEL, 193) == 117


@pytest.fixture(scope="module")
def pinned() -> Streamed:
    """All layers of an expert in pinned memory, what they hear of the text kept on the device."""
    return streamed_step(MODEL, slots=3, buffers=LAYERS, cached_text=True)


def test_streaming_copies_each_weight_once(pinned: Streamed) -> None:
    assert SMALL.original.streamed_bytes
    read_again = streamed_step(MODEL, slots=3, buffers=LAYERS, cached_text=False)
    assert pinned.copied_bytes <= 0.44 * SMALL.original.streamed_bytes
    assert read_again.copied_bytes <= 0.50 * SMALL.original.streamed_bytes


def test_streaming_takes_one_copy_a_layer_and_no_wait(pinned: Streamed) -> None:
    assert pinned.copies <= LAYERS <= 45
    assert pinned.syncs == 0


def test_pinned_memory_is_as_large_as_the_layers(pinned: Streamed) -> None:
    assert pinned.weight_bytes <= pinned.pinned_bytes <= 1.02 * pinned.weight_bytes


def test_staging_needs_memory_for_the_staged_layers_only() -> None:
    staged = streamed_step(MODEL, slots=3, buffers=3, cached_text=True)
    assert staged.pinned_bytes <= 3.3 / LAYERS * staged.weight_bytes  # layers with sound are larger
    assert staged.copies <= LAYERS


def test_layers_that_have_a_slot_are_not_copied_again(pinned: Streamed) -> None:
    half, all_of_them = (
        streamed_step(MODEL, slots=slots, buffers=3, cached_text=True) for slots in (LAYERS // 2, 2 * LAYERS)
    )
    assert half.copied_bytes < 0.6 * pinned.copied_bytes
    assert all_of_them.copies == 0


def test_layers_cost_the_same_each() -> None:
    """So a few of them tell what all cost."""
    model = narrow()
    assert step_cost(model, TINY) == step_cost(model, TINY, whole=True)


@pytest.mark.parametrize("chunk", [None, 8])
@pytest.mark.parametrize("text_kv", [True, False])
def test_a_few_layers_live_as_all_do(chunk: int | None, text_kv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides the texts that each layer keeps, which are added."""

    def peak(layers: tuple[int, int]) -> int:
        monkeypatch.setattr(simulated, "FEW_LAYERS", layers)
        return int(simulated.step_peak.__wrapped__(narrow(), TINY, "stored", "plain", chunk, text_kv))

    assert peak((2, 2)) == peak((6, 4))


def test_later_pictures_live_as_the_first_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(groups: int) -> int:
        monkeypatch.setattr(simulated, "FEW_GROUPS", groups)
        return int(simulated.decode_peak.__wrapped__(MODEL, ClipSpec(height=64, width=96, num_frames=33), None))

    assert peak(4) == peak(9)


def test_8_bit_products_live_in_no_more_than_8_bit_weights_do() -> None:
    """So plans with them are checked with weights turned back, which is quicker to run."""
    rounded, turned_back = (
        simulated.step_peak(MODEL, SMALL.spec, "fp8", matmul, CHUNK, True) for matmul in ("w8a8", "plain")
    )
    assert rounded <= 1.02 * turned_back


PLANNED = [cell for cell in cells(MODEL) if isinstance(cell.plan, Plan)]


def alike(cell: Cell) -> tuple[object, ...]:
    plan = cell.plan
    assert isinstance(plan, Plan)
    how = (plan.offload, plan.slots, plan.buffers, plan.token_chunk, plan.text_kv, plan.text, plan.vae_tile)
    return cell.size, cell.weights, *how, plan.tiles_wait


DISTINCT = list({alike(cell): cell for cell in reversed(PLANNED)}.values())  # of those alike, the smallest machine


@pytest.mark.parametrize("cell", DISTINCT, ids=lambda cell: f"{cell.vram} GB, {cell.size}, {cell.weights}")
def test_a_plan_holds_what_it_says_and_no_more_than_there_is(cell: Cell) -> None:
    assert isinstance(cell.plan, Plan)
    check(cell.plan, CLIPS[cell.size], cell.vram, cell.ram)


@pytest.mark.parametrize("size", CLIPS)
@pytest.mark.parametrize(("offload", "vram"), [("layer", 24), ("component", 48), ("component", 80), ("none", 141)])
def test_a_mode_that_was_asked_for_holds_what_it_says(offload: str, vram: int, size: str) -> None:
    plan = plan_for(MODEL, CLIPS[size], machine(CARDS[vram], 64), offload=offload)
    assert plan.offload == offload
    check(plan, CLIPS[size], vram, 64)


def test_pictures_in_tiles_hold_what_the_plan_says() -> None:
    clip = CLIPS["720p"].model_copy(update={"num_frames": 81})
    plan = plan_for(MODEL, clip, machine(CARDS[8], 32))
    assert plan.vae_tile
    assert not plan.tiles_wait
    check(plan, clip, 8, 32)


def check(plan: Plan, clip: ClipSpec, vram: int, ram: int) -> None:
    """What is held is within what was planned, and that within what there is."""
    simulable = plan if plan.weights == "stored" else replace(plan, preset="light")
    held = simulate(MODEL, clip, simulable)
    for phase in plan.phases:
        assert held[phase.name].device <= phase.vram <= CARDS[vram].free, phase.name
        assert held[phase.name].host <= phase.ram <= ram * GIB, phase.name
        # And not much less: what is left over could hold layers.
        assert phase.vram <= 1.05 * held[phase.name].device + 1e9, phase.name
