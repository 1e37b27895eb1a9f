"""Plans: every peak within its budget, every remedy tried, more never worse, and a ladder down that ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mova.choosing import FEWEST, SLOTS, budget_of, vram_reserve
from mova.footprint import all_packs
from mova.model import read_model
from mova.plan import (
    PHASES,
    Card,
    DoesNotFit,
    Plan,
    Reason,
    Resources,
    case_for,
    notch_down,
    plan_for,
)
from mova.plan_text import CARDS, RAMS, SIZES, Cell, cells, machine
from mova.presets import PRESETS
from mova.reasons import SENTENCES, reason
from mova.released import RELEASED_360P as MODEL
from mova.spec import ClipSpec

GIB = 1 << 30
GB = 10**9
LAYERS = 40
PICTURES = {"vae_tile", "tiles_wait"}
# Phase -> what a plan may give up where it runs out of memory; everywhere, what stays from phase to phase.
MAY_CHANGE = {
    "text": {"text"},
    "frame": PICTURES,
    "denoising": {"text_kv", "token_chunk"},
    "decoding": PICTURES,
}


def on(vram: float, ram: float = 64, *, name: str = "NVIDIA GeForce RTX 4090", **how: Any) -> Resources:
    card = Card(name, int(vram * GIB), int(vram * GIB), how.get("capability", (8, 9))) if vram else None
    return Resources(card, int(ram * GIB), int(ram * GIB), 500 * GB, how.get("disk_speed", 3e9))


@cache
def table() -> tuple[Cell, ...]:
    return tuple(cells(MODEL))


def resources_of(cell: Cell) -> Resources:
    return machine(CARDS[cell.vram], cell.ram)


def within(plan: Plan, resources: Resources) -> bool:
    budget = budget_of(resources)
    return plan.vram <= budget.vram and plan.ram <= budget.ram


def applied(remedy: Reason, spec: ClipSpec, asked: dict[str, Any]) -> tuple[ClipSpec, dict[str, Any]]:
    """The clip and the settings once a remedy was followed."""
    figures = dict(remedy.figures)
    changes = {name: figures[name] for name in ("num_frames", "width", "height") if name in figures}
    how = {name: figures[name] for name in ("offload", "preset", "dtype") if name in figures}
    how |= {"device": "cpu", "offload": "auto"} if remedy.code == "cpu-device" else {}
    return spec.model_copy(update=changes), {**asked, **how}


def remedied(error: DoesNotFit, spec: ClipSpec, resources: Resources, **asked: Any) -> None:
    """Each remedy fits indeed; a server elsewhere is always the last."""
    assert error.missing > 0
    assert error.remedies[-1] == reason("remote")
    for remedy in error.remedies[:-1]:
        changed, how = applied(remedy, spec, asked)
        assert within(plan_for(MODEL, changed, resources, **how), resources), remedy
        if "num_frames" in dict(remedy.figures):
            with pytest.raises(DoesNotFit):  # it is the most
                plan_for(MODEL, changed.model_copy(update={"num_frames": changed.num_frames + 4}), resources, **how)


# The table


def test_the_table_has_every_machine() -> None:
    assert len(table()) == len(CARDS) * len(RAMS) * len(SIZES) * 2
    assert {cell.vram for cell in table()} == {8, 12, 16, 24, 32, 48, 80, 141}


@pytest.mark.parametrize("cell", table(), ids=lambda cell: f"{cell.vram}-{cell.ram}-{cell.size}-{cell.weights}")
def test_a_cell_fits_or_says_what_would(cell: Cell) -> None:
    preset = {"bf16": "exact", "fp8": "fast"}[cell.weights]
    if isinstance(cell.plan, DoesNotFit):
        remedied(cell.plan, SIZES[cell.size], resources_of(cell), preset=preset)
        return
    assert within(cell.plan, resources_of(cell))
    assert [phase.name for phase in cell.plan.phases] == list(PHASES)
    assert all(sum(size for _, size in phase.terms) == phase.vram for phase in cell.plan.phases)
    assert cell.plan.step_seconds
    assert cell.plan.seconds


def test_eight_seconds_at_360p_fit_eight_gigabytes_of_each() -> None:
    """The target: at most 8 GB of VRAM and 8 GB of its own RAM, at the speed of a card that holds everything."""
    small = plan_for(MODEL, ClipSpec(), on(8))
    large = plan_for(MODEL, ClipSpec(), on(48))
    assert small.vram < 8 * GB
    assert small.ram < 8 * GB
    assert small.step_seconds == pytest.approx(large.step_seconds)
    assert large.offload == "component"


def test_more_of_a_machine_is_never_worse() -> None:
    columns: dict[tuple[int, str, str], list[Cell]] = {}
    for cell in table():
        columns.setdefault((cell.ram, cell.size, cell.weights), []).append(cell)
    for column in columns.values():
        slots = [cell.plan.slots if isinstance(cell.plan, Plan) else 0 for cell in column]
        assert slots == sorted(slots)


@pytest.mark.parametrize("preset", ["exact", "light"])
@pytest.mark.parametrize("size", SIZES)
def test_more_vram_is_never_slower(size: str, preset: str) -> None:
    plans = list(_growing(SIZES[size], preset))
    assert len(plans) > 30
    for one, other in pairwise(plans):
        assert one.slots <= other.slots
        assert (one.step_seconds or 0) >= (other.step_seconds or 0)
        assert one.vram <= other.vram or other.vram <= budget_of(on(8)).vram
    assert plans[-1].offload == "none"


def _growing(spec: ClipSpec, preset: str) -> Iterator[Plan]:
    for vram in range(6, 160, 3):
        try:
            yield plan_for(MODEL, spec, on(vram), preset=preset)
        except DoesNotFit:
            assert vram < 16


def test_more_ram_is_never_slower() -> None:
    seconds = [
        plan_for(MODEL, ClipSpec(), on(24, ram, disk_speed=0.2e9)).step_seconds or 0 for ram in range(10, 130, 6)
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > 1.3 * seconds[-1], "a slow disk sets the pace until RAM holds the layers"


def test_what_fits_also_fits_with_fewer_frames() -> None:
    fits = []
    for frames in range(5, 800, 120):
        try:
            plan_for(MODEL, ClipSpec(num_frames=frames - frames % 4 + 1), on(8))
            fits.append(True)
        except DoesNotFit:
            fits.append(False)
    assert fits == sorted(fits, reverse=True)
    assert True in fits and False in fits


@settings(max_examples=60, deadline=None)
@given(
    vram=st.floats(3, 200),
    ram=st.floats(6, 200),
    groups=st.integers(0, 100),
    size=st.sampled_from([(640, 352), (352, 640), (1280, 720), (256, 144), (1920, 1088)]),
    guidance=st.sampled_from([(1.0, 1.0), (5.0, 1.0), (5.0, 3.0)]),
    offload=st.sampled_from(["auto", "layer", "component", "none"]),
    preset=st.sampled_from(list(PRESETS)),
    disk_speed=st.sampled_from([None, 0.1e9, 7e9]),
)
def test_any_machine_and_any_clip(
    vram: float,
    ram: float,
    groups: int,
    size: tuple[int, int],
    guidance: tuple[float, float],
    offload: str,
    preset: str,
    disk_speed: float | None,
) -> None:
    resources = on(vram, ram, disk_speed=disk_speed)
    spec = ClipSpec(
        width=size[0],
        height=size[1],
        num_frames=4 * groups + 1,
        guidance_scale=guidance[0],
        bridge_guidance_scale=guidance[1],
    )
    try:
        plan = plan_for(MODEL, spec, resources, offload=offload, preset=preset)
    except DoesNotFit as error:
        remedied(error, spec, resources, offload=offload, preset=preset)
        assert str(error)
        return
    assert within(plan, resources)
    assert plan.buffers >= FEWEST
    assert plan.slots >= FEWEST
    assert all(str(reason) for reason in plan.reasons)


# Modes


@pytest.mark.parametrize(
    ("offload", "vram", "slots"),
    [("none", 141, None), ("component", 48, LAYERS), ("layer", 12, SLOTS), ("layer", 141, SLOTS)],
)
def test_named_modes_are_taken_at_their_word(offload: str, vram: float, slots: int | None) -> None:
    plan = plan_for(MODEL, ClipSpec(), on(vram), offload=offload)
    case = case_for(MODEL, ClipSpec(), on(vram))
    assert plan.offload == offload
    assert plan.slots == (len(all_packs(case, text_kv=True)) if slots is None else slots)


@pytest.mark.parametrize(("offload", "vram"), [("none", 80), ("component", 24)])
def test_a_mode_that_does_not_fit_says_so_and_by_how_much(offload: str, vram: float) -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan_for(MODEL, ClipSpec(), on(vram), offload=offload)
    error = caught.value
    assert (error.phase, error.memory, error.available) == ("denoising", "vram", budget_of(on(vram)).vram)
    assert "It doesn't fit by" in str(error)
    assert reason("other-mode", offload="auto") in error.remedies
    enough = (error.needed + 2 * GB) / 0.95 / GIB
    assert plan_for(MODEL, ClipSpec(), on(enough), offload=offload).offload == offload


def test_auto_comes_to_a_mode() -> None:
    modes = {vram: plan_for(MODEL, ClipSpec(), on(vram)).offload for vram in (8, 24, 48, 80, 141)}
    assert modes == {8: "layer", 24: "layer", 48: "component", 80: "component", 141: "none"}


def test_two_experts_are_never_pinned() -> None:
    for cell in table():
        assert isinstance(cell.plan, DoesNotFit) or cell.plan.buffers <= LAYERS


def test_files_are_read_past_a_memory_that_cannot_hold_them() -> None:
    assert plan_for(MODEL, ClipSpec(), on(24, 32)).direct
    assert not plan_for(MODEL, ClipSpec(), on(24, 64)).direct
    slow = plan_for(MODEL, ClipSpec(), on(24, 24, disk_speed=0.2e9))
    assert slow.direct and slow.buffers > 10, "what RAM there is spares the disk"


def test_on_the_cpu_weights_are_used_where_they_are() -> None:
    plan = plan_for(MODEL, ClipSpec(), on(0, 32))
    assert (plan.device, plan.offload, plan.slots, plan.buffers, plan.vram) == ("cpu", "none", 0, 0, 0)
    assert plan.ram < 10 * GB, "pages of files are the system's"
    assert plan.seconds is None
    assert {"cpu", "cpu-disk", "cpu-unknown"} <= {reason.code for reason in plan.reasons}
    assert plan_for(MODEL, ClipSpec(), on(24, 32), device="cpu").device == "cpu"
    with pytest.raises(DoesNotFit) as caught:
        plan_for(MODEL, SIZES["720p"], on(0, 8))
    assert caught.value.memory == "ram"
    remedied(caught.value, SIZES["720p"], on(0, 8))


def test_a_system_that_does_not_say_what_it_has_is_trusted() -> None:
    silent = replace(on(12), ram_free=0, ram_total=0)
    assert plan_for(MODEL, ClipSpec(), silent).slots == plan_for(MODEL, ClipSpec(), on(12)).slots


def test_a_dtype_that_is_not_stored_takes_ram() -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan_for(MODEL, ClipSpec(), on(24, 64), dtype="float32")
    assert caught.value.memory == "ram"
    assert reason("stored-dtype", dtype="auto") in caught.value.remedies
    plan = plan_for(MODEL, ClipSpec(), on(48, 300), dtype="float32")
    assert "converted" in {reason.code for reason in plan.reasons}
    assert not plan.direct


def test_weights_in_eight_bits_need_the_disk_once() -> None:
    full = replace(on(12), disk_free=10 * GB)
    with pytest.raises(DoesNotFit) as caught:
        plan_for(MODEL, ClipSpec(), full, preset="light")
    assert (caught.value.memory, caught.value.needed) == ("disk", 30_168_186_880)
    made = replace(MODEL, quantised=("int8",))
    plan = plan_for(made, ClipSpec(), full, preset="light")
    assert plan.weights == "int8"
    assert "make-weights" not in {reason.code for reason in plan.reasons}
    assert "make-weights" in {reason.code for reason in plan_for(MODEL, ClipSpec(), on(12), preset="light").reasons}


def test_a_preset_is_what_the_card_can_do_of_it() -> None:
    ampere = on(24, capability=(8, 6), name="NVIDIA GeForce RTX 3090")
    assert plan_for(MODEL, ClipSpec(), ampere, preset="fast").weights == "int8"
    assert plan_for(MODEL, ClipSpec(), on(24), preset="fast").weights == "fp8"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"offload": "sometimes"}, "sometimes"),
        ({"preset": "magic"}, "magic"),
        ({"device": "tpu"}, "tpu"),
        ({"dtype": "float16"}, "float16"),
    ],
)
def test_what_there_is_not_is_refused(asked: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        plan_for(MODEL, ClipSpec(), on(24), **asked)
    with pytest.raises(ValueError, match="cuda"):
        plan_for(MODEL, ClipSpec(), on(0), device="cuda")


def test_another_checkpoint_has_another_plan(playground: Path) -> None:
    model = read_model(playground)
    spec = ClipSpec(width=256, height=144, num_frames=25)
    plan = plan_for(model, spec, on(4))
    assert plan.offload == "none"
    assert plan.vram < GB
    assert plan_for(model, spec, on(0, 8)).ram < 2 * GB


# Times


def test_measured_seconds_replace_estimates() -> None:
    estimated = plan_for(MODEL, ClipSpec(), on(24))
    assert not any(phase.measured for phase in estimated.phases)
    seconds = {"text": 3.0, "frame": 2.0, "step": 30.0, "decoding": 20.0}
    plan = plan_for(MODEL, ClipSpec(), on(24), measured={estimated.key: seconds})
    assert plan.key == estimated.key
    assert plan.step_seconds == 30.0
    assert plan.seconds == 3.0 + 2.0 + 50 * 30.0 + 20.0
    assert all(phase.measured for phase in plan.phases)
    assert "measured" in {reason.code for reason in plan.reasons}
    partly = plan_for(MODEL, ClipSpec(), on(24), measured={estimated.key: {"text": 3.0}})
    assert [phase.measured for phase in partly.phases] == [True, False, False, False]
    assert partly.step_seconds == estimated.step_seconds
    assert plan_for(MODEL, ClipSpec(), on(24), measured={"other": seconds}) == estimated


def test_a_key_is_of_what_takes_the_time() -> None:
    plan = plan_for(MODEL, ClipSpec(), on(24))
    same = [plan_for(MODEL, spec, on(23)) for spec in (ClipSpec(), ClipSpec(seed=9, num_inference_steps=20))]
    assert {other.key for other in same} == {plan.key}
    others = [
        plan_for(MODEL, ClipSpec(num_frames=97), on(24)),
        plan_for(MODEL, ClipSpec(guidance_scale=1), on(24)),
        plan_for(MODEL, ClipSpec(), on(24), preset="fast"),
        plan_for(MODEL, ClipSpec(), on(24, name="NVIDIA GeForce RTX 3090")),
        plan_for(replace(MODEL, name="another"), ClipSpec(), on(24)),
    ]
    assert plan.key not in {other.key for other in others}


def test_a_card_that_nobody_knows_has_no_times() -> None:
    plan = plan_for(MODEL, ClipSpec(), on(24, name="A card of my own"))
    assert plan.seconds is None
    assert plan.step_seconds is None
    assert reason("card-unknown", card="A card of my own") in plan.reasons


# Down the ladder


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("vram", [0, 12, 24, 48, 141])
def test_down_the_ladder_every_rung_is_lower(vram: float, phase: str) -> None:
    resources = on(vram)
    plan = plan_for(MODEL, SIZES["720p"], resources)
    rungs = [plan]
    while lower := notch_down(rungs[-1], phase, MODEL, SIZES["720p"], resources):
        rungs.append(lower)
        assert len(rungs) < 30
    assert len(rungs) > 1 or (phase == "text" and vram == 0)
    for one, other in pairwise(rungs):
        assert _held(other, phase) < _held(one, phase)
        changed = {field.name for field in fields(Plan) if getattr(one, field.name) != getattr(other, field.name)}
        ways = MAY_CHANGE[phase] | {"slots", "offload", "reasons", "phases", "step_seconds"}
        assert changed <= ways


def _held(plan: Plan, phase: str) -> int:
    return plan.phase(phase).ram if plan.device == "cpu" else plan.phase(phase).vram


def test_what_stayed_from_phase_to_phase_goes_first() -> None:
    plan = plan_for(MODEL, ClipSpec(), on(141))
    lower = notch_down(plan, "decoding", MODEL, ClipSpec(), on(141))
    assert plan.offload == "none"
    assert lower
    assert (lower.offload, lower.slots, lower.vae_tile) == ("component", LAYERS, None)


def test_the_order_of_giving_up() -> None:
    """Slots, then the text's keys and values, then tokens at a time."""
    plan = plan_for(MODEL, ClipSpec(), on(24))
    rungs = [plan]
    while lower := notch_down(rungs[-1], "denoising", MODEL, ClipSpec(), on(24)):
        rungs.append(lower)
    told = [(rung.slots, rung.text_kv, rung.token_chunk) for rung in rungs]
    assert [slots for slots, _, _ in told] == sorted((slots for slots, _, _ in told), reverse=True)
    assert all(slots == FEWEST for slots, text_kv, _ in told if not text_kv)
    assert all(not text_kv for _, text_kv, chunk in told if chunk != plan.token_chunk)
    assert told[-1] == (FEWEST, False, 256)


# Words


@pytest.mark.parametrize("code", SENTENCES)
def test_every_sentence_is_one(code: str) -> None:
    assert SENTENCES[code].endswith(".")


def test_reasons_have_figures_and_sentences() -> None:
    plan = plan_for(MODEL, ClipSpec(), on(8, 16))
    said = {reason.code: reason for reason in plan.reasons}
    assert said["reserve"].figure("reserve") == vram_reserve(8 * GIB)
    assert "1.03 GB of VRAM are left alone" in str(said["reserve"])
    assert {"layers-kept", "copies-hidden", "direct", "chunked", "text-parts", "estimated"} <= set(said)
    assert "89%" in str(said["estimated"])


def test_importing_costs_no_torch() -> None:
    code = (
        "import sys, mova.plan, mova.plan_text; print([n for n in ('torch', 'diffusers', 'numpy') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
