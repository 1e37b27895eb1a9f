"""What a generation holds, against the engine's own code on the meta device: from above, and not far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from released_shapes import CONFIGS
from small import FEW_LAYERS, joint_and_model, small

from mova.carriers import Pack
from mova.checkpoint import build_component
from mova.footprint import (
    Case,
    Choice,
    all_packs,
    denoising_terms,
    own_ram,
    phase_ram,
    phase_terms,
    resident,
    shelf,
    text_working,
    total,
)
from mova.joint import JointTransformer
from mova.meter import Meter
from mova.model import Model
from mova.presets import PRESETS
from mova.released import RELEASED_360P
from mova.shelves import fit_places
from mova.spec import ClipSpec

CLOSE = 1.15
IN_PLACE = Choice(0, 0, False, None, True, "cpu", None)
SPECS = {
    "360p": ClipSpec(),
    "720p": ClipSpec(width=1280, height=720),
    "guidance 1": ClipSpec(guidance_scale=1.0),
    "dual": ClipSpec(bridge_guidance_scale=3.0),
}


def case_of(model: Model = RELEASED_360P, preset: str = "exact", spec: ClipSpec = SPECS["360p"], **how: str) -> Case:
    return Case(model, spec, PRESETS[preset], how.get("dtype", "auto"), how.get("device", "cuda"))


@cache
def few_layers() -> tuple[JointTransformer, Model]:
    return joint_and_model(FEW_LAYERS)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("size", "chunk"), [("360p", None), ("360p", 8192), ("guidance 1", None), ("dual", None)])
def test_a_step_at_the_released_width(size: str, chunk: int | None, fused: bool) -> None:
    joint, model = few_layers()
    case = case_of(model, spec=SPECS[size])
    counted = counted_step(joint, case, chunk, fused=fused)
    told = total(denoising_terms(case, Choice(0, 0, False, chunk, True, "cpu", None)))
    assert counted <= told <= CLOSE * counted


def counted_step(joint: JointTransformer, case: Case, chunk: int | None, *, fused: bool) -> int:
    """The most that lives in a step, as ``mova.denoising`` calls the engine, its tables not yet made."""
    shape = case.shape
    joint._tables = None
    with torch.no_grad(), Meter(fused=fused) as meter:
        noise, condition = (torch.empty(1, channels, *shape.latents, device="meta") for channels in (16, 20))
        sound, time = torch.empty(1, 128, shape.audio, device="meta"), torch.empty(1, device="meta")
        prompts = [torch.empty(1, 512, 4096, dtype=torch.bfloat16, device="meta") for _ in range(shape.texts)]
        texts = [joint.read(prompt, cached=True) for prompt in prompts]
        told = [(texts[index % len(texts)], bridged) for index, bridged in enumerate(shape.branches)]
        latents = torch.cat((noise, condition), dim=1)
        joint.evaluate(latents, sound, time, time, told, video_fps=24.0, token_chunk=chunk)
    return meter.peak


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("text_kv", [True, False])
def test_packs_are_those_of_the_engine(text_kv: bool, apart: bool) -> None:
    joint, model = small()
    preset = replace(PRESETS["exact"], cache=0.1) if apart else PRESETS["exact"]
    case = Case(model, SPECS["360p"], preset, "auto", "cuda")
    mine = case.packs[text_kv]
    theirs = joint.packs("video_dit", cached_text=text_kv, audio_apart=apart)
    for what, sizes in zip(("block", "text"), mine, strict=True):
        engine = [Pack(tensors).nbytes for part, tensors in theirs.items() if part.what == what]
        assert len(engine) == len(sizes)
        assert all(exact <= size <= exact + 256 * 64 for exact, size in zip(engine, sizes, strict=True))
    kept = sum(tensor.numel() * tensor.element_size() for tensor in joint.resident(audio_apart=apart))
    assert resident(case) == kept


@pytest.mark.parametrize("count", [2, 3, 9, 30, 33, 40, 160])
def test_a_shelf_is_as_large_as_the_stream_makes_it(count: int) -> None:
    blocks, texts = case_of().packs[True]
    nbytes: dict[Any, int] = {}
    order: list[Any] = []
    for expert in range(2):
        nbytes |= {(expert, "block", layer): size for layer, size in enumerate(blocks)}
        nbytes |= {(expert, "text", layer): size for layer, size in enumerate(texts)}
        order += [(expert, "text", layer) for layer in range(40)] * 2
        order += [(expert, "block", layer) for layer in range(40)] * 3
    places = fit_places(order, nbytes, [(None, 0)] * count)
    assert sum(places) <= shelf(case_of(), count, text_kv=True) <= 1.001 * sum(places)


def test_everything_pinned_is_no_more_than_the_weights() -> None:
    case = case_of()
    buffers = shelf(case, len(all_packs(case, text_kv=True)), text_kv=True)
    joint = (*RELEASED_360P.experts[0].blocks, *RELEASED_360P.experts[0].texts)
    sound = (*RELEASED_360P.audio.blocks, *RELEASED_360P.audio.texts, *RELEASED_360P.bridge.blocks)
    weights = 2 * sum(part.bytes for part in (*joint, *sound))
    assert weights <= buffers <= 1.02 * weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("width", "heads"), [(256, 16), (512, 8)])
def test_reading_a_prompt(width: int, heads: int, dtype: torch.dtype) -> None:
    """On the CPU, where UMT5 may ask its masks for their values. Far above it only for so few channels."""
    told = {"d_model": width, "d_kv": width // heads, "num_heads": heads, "d_ff": 640, "num_layers": 2}
    config = {**CONFIGS["text_encoder"], **told, "vocab_size": 99}
    encoder = build_component("text_encoder", config).to_empty(device="cpu").to(dtype).eval()
    tokens = torch.ones(1, 512, dtype=torch.int64)
    with torch.no_grad(), Meter() as meter:
        encoder(input_ids=tokens, attention_mask=tokens)
    model = _with_text(width, heads, 640)
    case = case_of(model, dtype="float32" if dtype is torch.float32 else "bfloat16")
    assert meter.peak <= text_working(case) <= 1.6 * meter.peak


def _with_text(width: int, heads: int, ffn_dim: int) -> Model:
    told: dict[str, Any] = {"dim": width, "num_heads": heads, "head_dim": width // heads, "ffn_dim": ffn_dim}
    return replace(RELEASED_360P, text=replace(RELEASED_360P.text, **told))


def test_more_of_anything_never_takes_less() -> None:
    specs = [ClipSpec(num_frames=frames) for frames in (5, 25, 97, 193, 401)]
    sizes = [ClipSpec(width=width, height=height) for width, height in ((256, 144), (640, 352), (1280, 720))]
    for row in (specs, sizes):
        for phase in ("frame", "denoising", "decoding"):
            assert rising(total(phase_terms(case_of(spec=spec), IN_PLACE)[phase]) for spec in row)
    chunks = [Choice(3, 3, False, size, True, "device", None) for size in (512, 4096, 16384, None)]
    assert rising(total(denoising_terms(case_of(), choice)) for choice in chunks)


def rising(values: Iterable[int]) -> bool:
    return all(one <= other for one, other in pairwise(values))


def test_eight_bits_are_half_of_sixteen() -> None:
    exact, light = case_of(), case_of(preset="light")
    share = sum(all_packs(light, text_kv=True)) / sum(all_packs(exact, text_kv=True))
    assert 0.5 < share < 0.57


def test_a_step_cache_remembers_each_branch() -> None:
    terms = dict(denoising_terms(case_of(preset="fastest"), IN_PLACE))
    states = dict(denoising_terms(case_of(), IN_PLACE))["states"]
    assert states < terms["cache"] < 1.5 * states


def test_ram_of_its_own() -> None:
    choice = Choice(3, 3, False, 4096, True, "device", None)
    case = case_of()
    stored = own_ram(case, choice)
    assert 5e9 < stored < 8e9
    assert own_ram(case_of(dtype="bfloat16"), choice) == stored, "nothing is converted into what it is"
    assert own_ram(case_of(dtype="float32"), choice) > stored + 2 * RELEASED_360P.bytes - 5e9
    waiting = phase_ram(case, Choice(3, 3, False, 4096, True, "device", 256, tiles_wait=True))
    assert waiting["decoding"] > phase_ram(case, choice)["decoding"] + 1e9
    on_cpu = phase_ram(case_of(device="cpu"), IN_PLACE)
    assert on_cpu["denoising"] > own_ram(case_of(device="cpu"), IN_PLACE) + 2e9


def test_the_terms_say_what_is_kept() -> None:
    kept = Choice(160, 3, False, None, True, "device", None, kept=True)
    phases = phase_terms(case_of(), kept)
    everything = 72e9 + 13e9
    assert all(total(terms) > everything for terms in phases.values())
    lent = phase_terms(case_of(), Choice(3, 3, False, None, True, "device", None))
    assert total(lent["text"]) == pytest.approx(11.36e9 + text_working(case_of()), rel=1e-2)
    parts = phase_terms(case_of(), Choice(3, 3, False, None, True, "parts", None))
    assert total(parts["text"]) < 0.5e9, "the table of embeddings stays in RAM"
