"""What is left out and when: guidance after its share, layers that hardly changed; drift of all levers together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_towers import joint, wave
from torch import Tensor

from mova import approximate
from mova.approximate import SAGE, StepCache, choose_sage, guidance_at, guided
from mova.attention import NATIVE, Attention, KeyValue, attend, set_attention
from mova.checkpoint import load_component, load_scheduler
from mova.drift import measure
from mova.guidance import Branch, guidance
from mova.joint import JointTransformer, Part
from mova.presets import (
    PRESETS,
    Matmul,
    Preset,
    Weights,
    cache_bytes,
)
from mova.quantised import choose_products, load_quantised

ADA, HOPPER, AMPERE, TURING = (8, 9), (9, 0), (8, 6), (7, 5)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


# The guided share


@pytest.mark.parametrize(
    ("total", "share", "count"), [(50, 1.0, 50), (50, 0.5, 25), (25, 0.5, 13), (50, 0.0, 0), (1, 0.5, 1), (3, 0.34, 2)]
)
def test_the_first_share_of_the_steps_is_guided(total: int, share: float, count: int) -> None:
    assert [guided(step, total, share) for step in range(total)] == [True] * count + [False] * (total - count)


def test_after_the_share_the_prompt_alone_is_evaluated() -> None:
    for plan in (guidance(5.0), guidance(5.0, 3.5), guidance(3.5, 3.5)):
        assert guidance_at(plan, 24, 50, 0.5) == plan
        assert guidance_at(plan, 25, 50, 0.5).branches == (Branch(text=True, bridge=True),)
        assert all(guidance_at(plan, step, 50, 1.0) is plan for step in range(50))


# The step cache's decisions: it is fed steps whose layer 0 adds a known residual


def run(cache: StepCache, video: Sequence[float], audio: Sequence[float] | None = None, key: object = "") -> list[bool]:
    """Steps whose first layer adds ``video`` and whose audio enters as ``audio``; which ones were skipped."""
    skipped = []
    for index, (added, sound) in enumerate(zip(video, audio or [1.0] * len(video), strict=True)):
        cache.begin(index, key if isinstance(key, str) else key[index])  # type: ignore[index]
        cache.enters(torch.ones(1, 6, 2), torch.full((1, 3, 2), sound))
        state = torch.ones(1, 6, 2) + added
        skipped.append(cache.leaves_first([state]))
        cache.leaves_last(0, state)
    return skipped


def test_small_changes_are_skipped_until_they_add_up() -> None:
    cache = StepCache(0.1, 8)
    residuals = [1.0, 1.04, 1.08, 1.12, 1.16, 1.20, 1.24, 1.24]
    assert run(cache, residuals) == [False, True, True, False, True, True, False, False]
    assert (cache.skipped, cache.steps) == (4, 8)


def test_first_and_last_are_whole() -> None:
    assert run(StepCache(0.1, 5), [1.0] * 5) == [False, True, True, True, False]
    assert run(StepCache(0.1, 2), [1.0] * 2) == [False, False]
    assert run(StepCache(0.1, 1), [1.0]) == [False]


def test_a_threshold_of_zero_never_skips() -> None:
    assert run(StepCache(0.0, 5), [1.0] * 5) == [False] * 5


def test_the_audio_s_own_change_forbids_skipping() -> None:
    cache = StepCache(0.1, 6, audio_threshold=0.2)
    assert run(cache, [1.0] * 6, [1.0, 1.1, 1.19, 1.21, 1.3, 1.3]) == [False, True, True, False, True, False]


def test_another_expert_or_other_branches_start_anew() -> None:
    keys = ["one"] * 3 + ["two"] * 4
    assert run(StepCache(0.1, 7), [1.0] * 7, key=keys) == [False, True, True, False, True, True, False]


def test_another_generation_starts_anew() -> None:
    cache = StepCache(0.1, 4)
    assert run(cache, [1.0] * 3) == run(cache, [1.0] * 3) == [False, True, True]


def test_numbers_that_aren_t_are_never_near() -> None:
    assert run(StepCache(0.1, 4), [1.0, math.nan, math.nan, 1.0]) == [False] * 4
    assert run(StepCache(0.1, 4), [0.0] * 4) == [False] * 4


def test_every_branch_must_be_near() -> None:
    cache = StepCache(0.1, 5)
    for index, other in enumerate((1.0, 1.05, 1.5)):
        cache.begin(index, "")
        cache.enters(torch.ones(1, 6, 2), torch.ones(1, 3, 2))
        states = [torch.full((1, 6, 2), 2.0), torch.full((1, 6, 2), 1 + other)]
        assert cache.leaves_first(states) == (index == 1)
        for branch, state in enumerate(states):
            cache.leaves_last(branch, state)


def test_what_was_added_is_added_again_for_each_branch() -> None:
    cache = StepCache(0.1, 5)
    cache.begin(0, "")
    cache.enters(torch.zeros(1, 6, 2), torch.ones(1, 3, 2))
    states = [torch.full((1, 6, 2), 1.0), torch.full((1, 6, 2), 2.0)]
    assert not cache.leaves_first(states)
    cache.told(1, 4, torch.ones(1, 3, 2), torch.full((1, 3, 2), 4.0))
    for branch, state in enumerate(states):
        cache.leaves_last(branch, state.add_(10 * (branch + 1)))
    cache.begin(1, "")
    cache.enters(torch.zeros(1, 6, 2), torch.ones(1, 3, 2))
    states = [torch.full((1, 6, 2), 1.01), torch.full((1, 6, 2), 2.01)]
    assert cache.leaves_first(states)
    assert torch.equal(cache.tell(0, 4, torch.ones(1, 3, 2)), torch.ones(1, 3, 2))  # it wasn't told anything
    assert torch.equal(cache.tell(1, 4, torch.ones(1, 3, 2)), torch.full((1, 3, 2), 4.0))
    torch.testing.assert_close(cache.leaves_last(0, states[0]), torch.full((1, 6, 2), 11.01))
    torch.testing.assert_close(cache.leaves_last(1, states[1]), torch.full((1, 6, 2), 22.01))


def test_a_step_that_failed_leaves_nothing_to_reuse() -> None:
    cache = StepCache(0.1, 9)
    assert run(cache, [1.0, 1.0]) == [False, True]
    for index, (added, expected) in enumerate([(2.0, False), (2.0, False), (2.0, True)], start=2):
        cache.begin(index, "")
        cache.enters(torch.ones(1, 6, 2), torch.ones(1, 3, 2))
        state = torch.ones(1, 6, 2) + added
        assert cache.leaves_first([state]) == expected
        if index != 2:  # where something failed halfway
            cache.leaves_last(0, state)


# The step cache in the model


def evaluate(
    model: JointTransformer, step: int, reuse: StepCache | None = None, lend: object = None
) -> list[tuple[Tensor, Tensor]]:
    """Both branches of a step; inputs and times move slowly."""
    video, audio = wave(1, 36, 3, 4, 6) * (1 - 0.01 * step), wave(1, 6, 9) * (1 - 0.01 * step)
    times = torch.tensor([700.0 - 0.2 * step]), torch.tensor([650.0 - 0.2 * step])
    texts = [model.read(wave(1, 7, 12) * sign) for sign in (1.0, -0.5)]
    branches = [(texts[0], True), (texts[1], True)]
    options = {} if lend is None else {"lend": lend}
    return model.evaluate(video, audio, *times, branches, video_fps=24.0, reuse=reuse, **options)  # type: ignore[arg-type]


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return all(
        torch.equal(a, b) for pair, twin in zip(one, other, strict=True) for a, b in zip(pair, twin, strict=True)
    )


def test_without_a_threshold_the_model_computes_what_it_does_without_a_cache() -> None:
    model, cache = joint(), StepCache(0.0, 4)
    for step in range(4):
        cache.begin(step, "")
        assert same(evaluate(model, step, cache), evaluate(model, step))
    assert (cache.skipped, cache.steps) == (0, 4)


def test_a_skipped_step_is_near_the_whole_one_and_whole_steps_are_exact() -> None:
    model, cache = joint(), StepCache(0.2, 5)
    for step in range(5):
        cache.begin(step, "")
        found, exact = evaluate(model, step, cache), evaluate(model, step)
        assert cache.skips == (0 < step < 4)
        assert same(found, exact) != cache.skips
        for pair, twin in zip(found, exact, strict=True):
            for one, other in zip(pair, twin, strict=True):
                assert (one - other).norm() < 0.1 * other.norm()


def test_the_same_step_again_is_reused_as_it_was() -> None:
    model, cache = joint(), StepCache(0.1, 9)
    found = []
    for index in range(2):
        cache.begin(index, "")
        found.append(evaluate(model, 0, cache))
    assert cache.skips
    for pair, twin in zip(*found, strict=True):
        for one, other in zip(pair, twin, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_sound_of_a_skipped_step_is_computed() -> None:
    """With the bridge silent the audio tower is alone, so that even a skipped step's sound is exact."""
    model, cache = joint(trainable_condition_scale=True), StepCache(0.2, 9)
    model.bridge.condition_scale.data.fill_(0.0)
    for step in range(3):
        cache.begin(step, "")
        found, exact = evaluate(model, step, cache), evaluate(model, step)
        assert all(torch.equal(one[1], other[1]) for one, other in zip(found, exact, strict=True))
    assert cache.skipped == 2
    assert not torch.equal(found[0][0], exact[0][0])


def test_a_skipped_step_asks_for_the_first_layer_and_the_sound_alone() -> None:
    model, cache = joint(), StepCache(0.2, 9)
    asked: list[Part] = []

    def lend(key: Part) -> object:
        asked.append(key)
        return nullcontext()

    wanted = []
    for step in range(2):
        asked.clear()
        cache.begin(step, "")
        evaluate(model, step, cache, lend)
        wanted.append([(part.layer, part.what) for part in asked if part.what != "text"])
    assert wanted == [[(0, "block"), (1, "block"), (2, "block")], [(0, "block"), (1, "audio")]]


def test_the_cache_keeps_as_many_bytes_as_is_said() -> None:
    model, cache = joint(), StepCache(0.0, 9)
    for step in range(2):
        cache.begin(step, "")
        evaluate(model, step, cache)
    kept = cache._whole
    tensors = [kept.entered, *kept.first, *kept.rest, *kept.told.values()]
    # Two branches; 18 tokens of 48, 9 of 24; one layer after the first has a bridge. A step in hand has its own tokens.
    said = 2 * cache_bytes(18, 48, 9, 24, layers=1, itemsize=4)
    assert sum(tensor.nbytes for tensor in tensors) <= said
    assert said <= 2 * sum(tensor.nbytes for tensor in tensors)


# SageAttention


def sage_of(monkeypatch: pytest.MonkeyPatch, rough: Callable[[Tensor], Tensor]) -> str | None:
    """What is chosen where SageAttention would give ``rough`` of what is exact."""

    def attended(query: Tensor, heard: KeyValue, backend: str | None = None) -> Tensor:
        exact = attend(query, heard, NATIVE)
        return rough(exact) if backend == SAGE else exact

    monkeypatch.setattr(approximate, "attend", attended)
    return choose_sage(torch.device("cpu"))


def test_sage_is_tried_before_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_sage(torch.device("cpu")) is None  # it has no kernel for this
    assert sage_of(monkeypatch, lambda exact: exact * 1.03) == SAGE
    assert sage_of(monkeypatch, lambda exact: exact * 1.3) is None
    assert sage_of(monkeypatch, lambda exact: exact * math.nan) is None


def test_sage_is_for_the_video_s_self_attention_alone() -> None:
    model = joint()
    set_attention(model, NATIVE)
    set_attention(model.video_dit, SAGE, self_attention_only=True)
    backends = {
        path: module.processor._attention_backend
        for path, module in model.named_modules()
        if isinstance(module, Attention)
    }
    assert {path for path, backend in backends.items() if backend == SAGE} == {
        f"video_dit.blocks.{layer}.self_attn" for layer in range(3)
    }


# All levers on a real, tiny checkpoint: towers alone, whose latents are looked at as if they were picture and sound


class Latents:
    """A clip as latents: three channels of the video as colours, the audio's as samples."""

    sample_rate = 16_000

    def __init__(self, video: Tensor, audio: Tensor) -> None:
        self.video = video
        self.audio = audio.flatten().numpy() / 4

    def frames(self) -> Iterator[Tensor]:
        yield self.video[0, :3].permute(1, 2, 3, 0).div(4).add(0.5).clamp(0, 1)


def make(checkpoint: Path, store: Path, preset: Preset, steps: int = 6) -> tuple[Latents, StepCache | None]:
    """A clip of the playground's towers; both experts lead, guidance is on."""
    scheduler = load_scheduler(checkpoint)
    scheduler.set_timesteps(steps)
    pairs = [*scheduler.get_pairs()[0].tolist(), [None, None]]
    cache = None if preset.cache is None else StepCache(preset.cache, steps, audio_threshold=1.0)
    latents, audio = wave(1, 16, 2, 8, 8), wave(1, 16, 20)
    for index, ((video_from, audio_from), (video_to, audio_to)) in enumerate(pairwise(pairs)):
        expert = "video_dit" if index < steps // 2 else "video_dit_2"
        plan = guidance_at(guidance(5.0), index, steps, preset.guided_share)
        model = towers(checkpoint, store, expert, preset.weights, preset.matmul)
        texts = {text: model.read(wave(1, 7, 64) * (1.0 if text else -0.5)) for text in (True, False)}
        if cache is not None:
            cache.begin(index, (expert, plan.branches))
        found = model.evaluate(
            torch.cat((latents, wave(1, 20, 2, 8, 8)), dim=1),
            audio,
            torch.tensor([video_from]),
            torch.tensor([audio_from]),
            [(texts[branch.text], branch.bridge) for branch in plan.branches],
            video_fps=24.0,
            reuse=cache,
        )
        velocities = [plan.combine([prediction[side] for prediction in found]) for side in range(2)]
        latents = scheduler.step_from_to(velocities[0], video_from, video_to, latents)
        audio = scheduler.step_from_to(velocities[1], audio_from, audio_to, audio)
    return Latents(latents, audio), cache


@cache
def towers(checkpoint: Path, store: Path, expert: str, kind: Weights, matmul: Matmul) -> JointTransformer:
    products = "plain" if kind == "stored" else choose_products(kind, matmul, torch.device("cpu"), torch.float32)

    def load(name: str) -> Any:
        if kind == "stored" or name == "audio_dit":
            return load_component(checkpoint, name)
        return load_quantised(checkpoint, name, kind, store=store, products=products)

    return JointTransformer(load(expert), load("audio_dit"), load("dual_tower_bridge"))


@pytest.fixture
def store(stores: dict[str, Path]) -> Path:
    """Where both kinds of the playground's 8-bit weights lie."""
    return stores["int8"]


def test_levers_that_are_set_to_nothing_change_nothing(playground: Path, store: Path) -> None:
    exact, _ = make(playground, store, PRESETS["exact"])
    idle, cache = make(playground, store, Preset("idle", guided_share=1.0, cache=0.0))
    assert cache is not None and (cache.skipped, cache.steps) == (0, 6)
    assert torch.equal(idle.video, exact.video)
    assert np.array_equal(idle.audio, exact.audio)


def test_drift_on_a_real_checkpoint_is_sane(playground: Path, store: Path) -> None:
    trials = {
        "exact": PRESETS["exact"],
        "int8": Preset("int8", "int8"),
        "fp8": Preset("fp8", "fp8"),
        "int8 w8a8": Preset("int8 w8a8", "int8", "w8a8"),
        "fp8 w8a8": Preset("fp8 w8a8", "fp8", "w8a8"),
        "share": Preset("share", guided_share=0.5),
        "cache": Preset("cache", cache=2.0),
        "all": Preset("all", "int8", "w8a8", guided_share=0.5, cache=2.0),
    }
    rows = {row.preset: row for row in measure(lambda name: make(playground, store, trials[name])[0], trials)}
    assert (rows["exact"].psnr, rows["exact"].log_mel) == (math.inf, 0.0)
    for name in list(trials)[1:]:
        assert 10 < rows[name].psnr < 80, name
        assert 0 < rows[name].log_mel < 20, name
    assert rows["int8"].psnr > 35
    assert rows["int8"].psnr > rows["fp8"].psnr > 25
    assert rows["int8"].log_mel < 1
    assert rows["int8 w8a8"].psnr > 25


def test_the_cache_skips_and_starts_anew_with_the_second_expert(playground: Path, store: Path) -> None:
    _, cache = make(playground, store, Preset("cache", cache=1000.0), steps=8)
    assert cache is not None
    assert (cache.skipped, cache.steps) == (5, 8)  # whole: the first, the second expert's first, the last
