"""LoRAs in the engine: applied, merged, several at once, per expert, streamed, in 8 bits, and taken off bit for bit."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from lora_help import Pairs, named, random_pairs, store, write
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from test_plans import same, streaming
from torch import Tensor, nn

from mova.checkpoint import load_component
from mova.clip import Clip
from mova.lora import Change, apply, combined, merged
from mova.lora_choice import LoraChoice, Strengths, parse_choice
from mova.lora_files import ADAPTED, Base, LoraError, architecture_of
from mova.lora_merge import merge_checkpoint
from mova.lora_names import EXPERTS, TARGETS
from mova.lora_tensors import Lora, save_lora
from mova.pipeline import MovaPipeline
from mova.quantised import QuantisedLinear
from mova.tower import Float32Linear
from tests.standin import StandIn

PROMPT = "The red ball bounces."


@pytest.fixture
def lora(playground: Path, tmp_path: Path) -> Path:
    return write(playground, tmp_path / "one.safetensors")


@pytest.fixture
def mova(pipeline: MovaPipeline) -> Iterator[MovaPipeline]:
    """The session's pipeline, without LoRAs again afterwards."""
    yield pipeline
    pipeline.use_loras()


@pytest.fixture
def make(mova: MovaPipeline, picture: Image.Image) -> Callable[..., Clip]:
    def clip(*choices: LoraChoice, merge: bool = False) -> Clip:
        mova.use_loras(choices, merge=merge)
        return mova(PROMPT, picture, spec=TINY)

    return clip


@pytest.fixture(scope="module")
def plain(pipeline: MovaPipeline, picture: Image.Image) -> Clip:
    pipeline.use_loras()
    return pipeline(PROMPT, picture, spec=TINY)


def choice(file: Path, *strengths: float) -> LoraChoice:
    return LoraChoice(file, Strengths(*strengths) if len(strengths) > 1 else Strengths.alike(*(strengths or (1.0,))))


def close(one: Clip, other: Clip) -> None:
    torch.testing.assert_close(one.video_latents, other.video_latents, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(one.audio_latents, other.audio_latents, rtol=2e-4, atol=2e-4)


def weights(pipeline: MovaPipeline) -> dict[str, Tensor]:
    parts = {name: pipeline.placement.get(name).state_dict() for name in ADAPTED}
    return {f"{name}.{key}": weight.clone() for name, part in parts.items() for key, weight in part.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# What it computes


@torch.no_grad()
@pytest.mark.parametrize("name", ADAPTED)
def test_applied_computes_what_peft_computes(playground: Path, name: str) -> None:
    """Ours runs and peft trains: both must mean the same by a LoRA."""
    pairs = random_pairs(playground, rank=3, alpha=4.5)[name]
    theirs = load_component(playground, name)
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=4.5, target_modules=TARGETS[name]), theirs)
    ours = load_component(playground, name)
    apply(ours, combined([(Lora(Path("x"), {name: pairs}), Strengths())], lambda _: ours)[name], torch.float32)
    for path, pair in pairs.items():
        layer: Any = theirs.get_submodule(path)
        layer.lora_A["default"].weight.copy_(pair.down)
        layer.lora_B["default"].weight.copy_(pair.up)
        x = torch.randn(2, 5, pair.down.shape[1], generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(ours.get_submodule(path)(x), layer(x), rtol=1e-5, atol=1e-5)
    assert {path for path, layer in theirs.named_modules() if hasattr(layer, "lora_A")} == pairs.keys()


def test_a_lora_changes_picture_and_sound(make: Callable[..., Clip], plain: Clip, lora: Path) -> None:
    changed = make(choice(lora))
    assert (changed.video_latents - plain.video_latents).abs().mean() > 0.01
    assert (changed.audio_latents - plain.audio_latents).abs().mean() > 0.01


def test_strength_0_changes_no_bit(make: Callable[..., Clip], plain: Clip, lora: Path) -> None:
    assert same(make(choice(lora, 0.0)), plain)


def test_two_are_their_sum(make: Callable[..., Clip], playground: Path, lora: Path, tmp_path: Path) -> None:
    """At strengths 0.5 and -0.25, as one LoRA that has both side by side."""
    second = random_pairs(playground, rank=3, alpha=1.0, seed=5)
    first = random_pairs(playground)
    other = write(playground, tmp_path / "two.safetensors", second)

    def together(component: str, path: str) -> Any:
        one, two = first[component][path], second[component][path]
        up = torch.cat((one.up * one.scale * 0.5, two.up * two.scale * -0.25), dim=1)
        return replace(one, down=torch.cat((one.down, two.down)), up=up, alpha=5.0)

    both = {name: {path: together(name, path) for path in part} for name, part in first.items()}
    summed = write(playground, tmp_path / "both.safetensors", both)
    close(make(choice(lora, 0.5), choice(other, -0.25)), make(choice(summed)))


def test_each_expert_has_its_own_strength(make: Callable[..., Clip], playground: Path, tmp_path: Path) -> None:
    pairs = random_pairs(playground)
    whole = write(playground, tmp_path / "whole.safetensors", pairs)
    parts: dict[str, Pairs] = {
        "high": {"video_dit": pairs["video_dit"]},
        "low": {"video_dit_2": pairs["video_dit_2"]},
        "shared": {name: pairs[name] for name in ("audio_dit", "dual_tower_bridge")},
    }
    files = {name: write(playground, tmp_path / f"{name}.safetensors", part) for name, part in parts.items()}
    told = {"high": 0.5, "low": 0.25, "shared": 0.75}
    assert same(make(choice(whole, *told.values())), make(*(choice(files[name], told[name]) for name in told)))
    for name, file in files.items():
        alone = [1.0 if part == name else 0.0 for part in told]
        assert same(make(choice(whole, *alone)), make(choice(file)))


def test_half_precision_towers_take_full_precision_loras(playground: Path, lora: Path, picture: Image.Image) -> None:
    half = MovaPipeline.from_pretrained(playground, device="cpu", dtype="bfloat16")
    without = half(PROMPT, picture, spec=TINY)
    half.use_loras([choice(lora)])
    changed = half(PROMPT, picture, spec=TINY)
    assert changed.video_latents.isfinite().all() and not same(changed, without)
    assert half.placement.get("video_dit").get_parameter("blocks.0.ffn.0.lora_A").dtype is torch.bfloat16


# Merged, and taken off


def test_merged_is_applied(make: Callable[..., Clip], mova: MovaPipeline, plain: Clip, lora: Path) -> None:
    applied = make(choice(lora, 0.7))
    merged_ = make(choice(lora, 0.7), merge=True)
    close(merged_, applied)
    assert not same(merged_, plain)
    assert not [name for name, _ in mova.placement.get("video_dit").named_parameters() if "lora" in name]


@pytest.mark.parametrize("merge", [False, True], ids=["applied", "merged"])
def test_unloading_restores_every_bit(
    make: Callable[..., Clip], mova: MovaPipeline, plain: Clip, lora: Path, merge: bool
) -> None:
    before = weights(mova)
    homes = [weight.data_ptr() for name in ADAPTED for weight in mova.placement.get(name).parameters()]
    make(choice(lora), merge=merge)
    assert not equal(weights(mova), before)
    again = make()
    assert equal(weights(mova), before)
    assert [weight.data_ptr() for name in ADAPTED for weight in mova.placement.get(name).parameters()] == homes
    assert not any(module._forward_hooks for name in ADAPTED for module in mova.placement.get(name).modules())
    assert same(again, plain)


def test_another_choice_replaces_the_first(
    make: Callable[..., Clip], playground: Path, lora: Path, tmp_path: Path
) -> None:
    other = write(playground, tmp_path / "other.safetensors", random_pairs(playground, seed=9))
    alone = make(choice(other))
    make(choice(lora), merge=True)
    make(choice(lora))
    assert same(make(choice(other)), alone)


def test_what_is_refused_changes_nothing(
    make: Callable[..., Clip], mova: MovaPipeline, lora: Path, tmp_path: Path
) -> None:
    clip, before = make(choice(lora)), weights(mova)
    with pytest.raises(LoraError, match=r"not there|missing"):
        mova.use_loras([choice(tmp_path / "absent.safetensors")])
    assert equal(weights(mova), before)
    assert same(make(choice(lora)), clip)


@torch.no_grad()
def test_merging_rounds_once() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(6, 4, generator=generator).bfloat16()
    change = Change(torch.randn(2, 4, generator=generator), torch.randn(6, 2, generator=generator))
    exact = weight.double() + change.up.double() @ change.down.double()
    assert torch.equal(merged(weight, change), exact.float().bfloat16())


# However weights are held


def test_streamed_is_in_place(playground: Path, picture: Image.Image, make: Callable[..., Clip], lora: Path) -> None:
    lane = StandIn(seed=3)
    streamed = streaming(playground, lane)
    plan = replace(streamed.plan(TINY), offload="layer", slots=2, buffers=2)
    bare = streamed(PROMPT, picture, spec=TINY, plan=plan)
    for merge in (False, True):
        streamed.use_loras([choice(lora)], merge=merge)
        assert same(streamed(PROMPT, picture, spec=TINY, plan=plan), make(choice(lora), merge=merge))
    streamed.use_loras()
    assert same(streamed(PROMPT, picture, spec=TINY, plan=plan), bare)
    streamed.close()
    lane.check()
    assert (lane.held_bytes, lane.pinned_bytes) == (0, 0)


def test_an_expert_that_is_loaded_again_has_its_loras(
    playground: Path, picture: Image.Image, make: Callable[..., Clip], lora: Path
) -> None:
    frugal = MovaPipeline.from_pretrained(playground, device="cpu", free_first_expert=True)
    frugal.use_loras([choice(lora)])
    first = weakref.ref(frugal.placement.get("video_dit"))
    clips = [frugal(PROMPT, picture, spec=TINY) for _ in range(2)]
    gc.collect()
    assert first() is None, "what undoes a LoRA doesn't keep the expert"
    assert all(same(clip, make(choice(lora))) for clip in clips)


@pytest.fixture
def own(playground: Path, tmp_path: Path) -> Path:
    """A checkpoint to make 8-bit weights in."""
    return Path(shutil.copytree(playground, tmp_path / "MOVA-playground"))


def test_beside_8_bit_weights(own: Path, picture: Image.Image, lora: Path) -> None:
    light = MovaPipeline.from_pretrained(own, device="cpu")
    plan = replace(light.plan(TINY), weights="int8")
    without = light(PROMPT, picture, spec=TINY, plan=plan)
    light.use_loras([choice(lora)])
    layer = light.placement.get("video_dit").get_submodule("blocks.1.self_attn.q")
    assert isinstance(layer, QuantisedLinear) and layer.weight.dtype is torch.int8
    applied = light(PROMPT, picture, spec=TINY, plan=plan)
    exact = light(PROMPT, picture, spec=TINY, plan=replace(plan, weights="stored"))
    error, effect = ((applied.video_latents - other.video_latents).square().mean().sqrt() for other in (exact, without))
    assert error < 0.2 * effect
    light.use_loras()
    assert same(light(PROMPT, picture, spec=TINY, plan=plan), without)


def test_merging_into_8_bit_weights_is_refused(own: Path, picture: Image.Image, lora: Path) -> None:
    light = MovaPipeline.from_pretrained(own, device="cpu")
    plan = replace(light.plan(TINY), weights="int8")
    light.use_loras([choice(lora)], merge=True)
    with pytest.raises(LoraError, match=r"8 bits.*without merging"):
        light(PROMPT, picture, spec=TINY, plan=plan)
    light.use_loras([choice(lora)])
    light(PROMPT, picture, spec=TINY, plan=plan)
    with pytest.raises(LoraError, match=r"8 bits.*without merging"):
        light.use_loras([choice(lora)], merge=True)


@torch.no_grad()
def test_a_change_of_another_precision_than_the_layers_result() -> None:
    """Wan LoRAs may change the time embedding, which computes in float32 whatever is stored."""
    holder = nn.Sequential(Float32Linear(4, 6).bfloat16())
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(3))
    change = Change(torch.ones(1, 4), torch.ones(6, 1))
    expected = holder(x) + x.bfloat16().sum(1, keepdim=True)
    with apply(holder, {"0": change}, torch.bfloat16):
        out = holder(x)
    assert out.dtype is torch.float32
    torch.testing.assert_close(out, expected.float(), rtol=1e-2, atol=1e-2)


# Which checkpoint


def test_another_model_is_refused(mova: MovaPipeline, playground: Path, tmp_path: Path) -> None:
    file = tmp_path / "real.safetensors"
    save_lora(file, random_pairs(playground), Base("MOVA-360p", "video 40x5120/13824, audio 30x1536/8960, bridge full"))
    with pytest.raises(LoraError, match=r"real.safetensors is made for MOVA-360p .*MOVA-playground.*Choose"):
        mova.use_loras([choice(file)])


def test_another_checkpoint_of_the_same_shapes_is_told(
    mova: MovaPipeline, playground: Path, picture: Image.Image, tmp_path: Path
) -> None:
    file = tmp_path / "sister.safetensors"
    save_lora(file, random_pairs(playground), Base("MOVA-sister", architecture_of(playground)))
    mova.use_loras([choice(file)])
    assert any("MOVA-sister" in note for note in mova(PROMPT, picture, spec=TINY).notes)


def test_a_layer_that_isnt_there_and_a_wrong_shape_are_named(
    mova: MovaPipeline, playground: Path, tmp_path: Path
) -> None:
    pairs = random_pairs(playground, components=["video_dit"])["video_dit"]
    deep = {"video_dit": {"blocks.9.ffn.0": pairs["blocks.0.ffn.0"]}}
    file = write(playground, tmp_path / "deep.safetensors", deep)
    with pytest.raises(LoraError, match=r"deep.*video_dit.blocks.9.ffn.0.lora_A.weight.*no such layer.*Choose"):
        mova.use_loras([choice(file)])
    swapped = {"video_dit": {"blocks.0.ffn.2": pairs["blocks.0.ffn.0"]}}
    file = write(playground, tmp_path / "swapped.safetensors", swapped)
    with pytest.raises(LoraError, match=r"swapped.*blocks.0.ffn.2.lora_A.weight.*\[384, 96\].*\[96, 384\]"):
        mova.use_loras([choice(file)])


def test_a_wan_lora_is_on_the_video_experts(make: Callable[..., Clip], playground: Path, tmp_path: Path) -> None:
    """On both, or on the one it is for: high- and low-noise files are two files."""
    experts = random_pairs(playground, components=EXPERTS)
    high, low = experts.values()
    one, two = (
        store(tmp_path / f"{name}.safetensors", named({"wan": part}, wan_key, alpha=True))
        for name, part in {"high": high, "low": low}.items()
    )
    both = write(playground, tmp_path / "both.safetensors", {"video_dit": high, "video_dit_2": high})
    each = write(playground, tmp_path / "each.safetensors", experts)
    assert same(make(choice(one)), make(choice(both)))
    assert same(make(choice(one, 1.0, 0.0), choice(two, 0.0, 1.0)), make(choice(each)))


def wan_key(_component: str, path: str, part: str) -> str:
    return f"diffusion_model.{path}." + {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}[part]


# A checkpoint of its own


def test_a_merged_checkpoint_is_the_merged_pipeline(
    make: Callable[..., Clip], mova: MovaPipeline, playground: Path, picture: Image.Image, lora: Path, tmp_path: Path
) -> None:
    target = tmp_path / "merged"
    heard: list[tuple[str, int, int]] = []
    changed = merge_checkpoint(playground, [choice(lora, 0.5)], target, lambda *word: heard.append(word))
    assert set(changed) == set(ADAPTED)
    assert heard[-1] == ("merging", 4, 4)
    made = MovaPipeline.from_pretrained(target, device="cpu")
    assert same(made(PROMPT, picture, spec=TINY), make(choice(lora, 0.5), merge=True))
    mova.save_pretrained(tmp_path / "saved")
    saved = MovaPipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert equal(weights(saved), weights(made))
    told = json.loads((target / "loras.json").read_text(encoding="utf-8"))
    assert told == [{"file": "one.safetensors", "strengths": {"high": 0.5, "low": 0.5, "shared": 0.5}}]
    for name in ("text_encoder", "tokenizer", "audio_vae", "model_index.json"):
        files = [playground / name] if name.endswith("json") else sorted((playground / name).iterdir())
        assert all(file.read_bytes() == (target / file.relative_to(playground)).read_bytes() for file in files)
    assert not (target / "quantised").exists()


def test_merging_goes_whole_or_not_at_all(
    playground: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "merged"
    with pytest.raises(LoraError, match="change nothing"):
        merge_checkpoint(playground, [choice(lora, 0.0)], target)
    with pytest.raises(LoraError, match="there already"):
        merge_checkpoint(playground, [choice(lora)], playground)
    with monkeypatch.context() as patch:
        patch.setattr("mova.lora_merge.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
        with pytest.raises(LoraError, match="Make room"):
            merge_checkpoint(playground, [choice(lora)], target)

    def stop(_phase: str, done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_checkpoint(playground, [choice(lora)], target, stop)
    assert [file.name for file in tmp_path.iterdir()] == ["one.safetensors"]


def test_a_checkpoint_isnt_saved_with_loras_beside_its_weights(
    make: Callable[..., Clip], mova: MovaPipeline, lora: Path, tmp_path: Path
) -> None:
    make(choice(lora))
    with pytest.raises(LoraError, match="Merge them"):
        mova.save_pretrained(tmp_path / "saved")


# As they are asked for


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", choice(Path("a.safetensors"))),
        ("a.safetensors:0.8", choice(Path("a.safetensors"), 0.8)),
        ("a:b.safetensors", choice(Path("a:b.safetensors"))),
        ("C:\\x.safetensors:1/0", choice(Path("C:\\x.safetensors"), 1.0, 0.0, 1.0)),
        ("x.pt:0.5/-1", choice(Path("x.pt"), 0.5, -1.0, -1.0)),
        ("x.pt:1/0.5/0", choice(Path("x.pt"), 1.0, 0.5, 0.0)),
    ],
)
def test_choices(text: str, expected: LoraChoice) -> None:
    assert parse_choice(text) == expected


@pytest.mark.parametrize("text", ["x.pt:1/2/3/4", "x.pt:nan", "x.pt:inf"])
def test_strengths_that_arent_any(text: str) -> None:
    with pytest.raises(ValueError, match="strength"):
        parse_choice(text)
