import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mova import attention
from mova.attention import Attention, choose_attention, chunks_of, set_attention
from mova.audio_dit import WanAudioModel
from mova.bridge import STRATEGIES, DualTowerConditionalBridge, interaction_layers
from mova.joint import JointTransformer
from mova.video_dit import WanModel

COMMON: dict[str, Any] = {"text_dim": 12, "freq_dim": 16, "eps": 1e-6}


def video_tower(**changes: Any) -> WanModel:
    config = {"dim": 48, "in_dim": 36, "out_dim": 16, "ffn_dim": 64, "num_heads": 2, "num_layers": 3}
    return filled(WanModel(**{**COMMON, **config, "patch_size": [1, 2, 2], **changes}))


def audio_tower(**changes: Any) -> WanAudioModel:
    config = {"dim": 24, "in_dim": 6, "out_dim": 6, "ffn_dim": 32, "num_heads": 1, "num_layers": 2, "vae_type": "dac"}
    return filled(WanAudioModel(**{**COMMON, **config, "patch_size": [1], **changes}))


def bridge(**changes: Any) -> DualTowerConditionalBridge:
    config = {
        "visual_layers": 3,
        "audio_layers": 2,
        "visual_hidden_dim": 48,
        "audio_hidden_dim": 24,
        "audio_fps": 50.0,
        "head_dim": 24,
        "interaction_strategy": "full",
    }
    return filled(DualTowerConditionalBridge(**{**config, **changes}))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def filled(module: Any) -> Any:
    """Weights from a formula, not a generator; scaled so that every part (norms, rotations) shows in the output."""
    for number, (name, parameter) in enumerate(module.named_parameters()):
        values = noise(parameter.shape, seed=number + 1)
        if parameter.ndim > 1:
            values *= (3 / parameter[0].numel()) ** 0.5
        elif name.endswith("bias"):
            values *= 0.1
        else:  # norms and the trained scale
            values = 1 + 0.3 * values
        parameter.data = values.float()
    return module.eval()


def noise(shape: torch.Size, seed: int) -> torch.Tensor:
    """Something like uniform noise in -1 to 1 (the fractional part of a fast sine), the same on every machine."""
    count = torch.arange(shape.numel(), dtype=torch.float64)
    return ((count * 12.9898 + seed * 78.233).sin() * 43758.5453).frac().reshape(shape)


def wave(*shape: int) -> torch.Tensor:
    return 1.7 * noise(torch.Size(shape), seed=0).float()


def joint(**changes: Any) -> JointTransformer:
    return JointTransformer(video_tower(), audio_tower(), bridge(**changes))


def joint_inputs(batch: int) -> tuple[torch.Tensor, ...]:
    return (
        wave(batch, 36, 3, 4, 6),
        wave(batch, 6, 9),
        torch.linspace(200, 900, batch),
        torch.linspace(800, 100, batch),
        wave(batch, 7, 12),
    )


# Figures of outputs, taken when every public golden case of the original was within its tolerance (tests/golden.py).
PINNED = json.loads((Path(__file__).parent / "pinned.json").read_text(encoding="utf-8"))


def figures(tensor: torch.Tensor) -> list[float]:
    """Four numbers that move when any element of the tensor does."""
    flat = tensor.double().flatten()
    places = torch.arange(flat.numel(), dtype=torch.float64)
    return [(flat * (places * step).cos()).mean().item() for step in (0.0, 0.37, 1.1, 2.9)]


def pinned_outputs() -> dict[str, torch.Tensor]:
    timestep, context = torch.tensor([700.0]), wave(1, 7, 12)
    outputs = {
        "video": video_tower()(wave(1, 36, 3, 4, 6), timestep, context),
        "audio dac": audio_tower()(wave(1, 6, 9), timestep, context),
        "audio oobleck": audio_tower(vae_type="oobleck")(wave(1, 6, 9), timestep, context),
    }
    for name, changes in BRIDGES.items():
        video, audio = joint(**changes)(*joint_inputs(1), video_fps=24.0)
        outputs |= {f"joint {name} video": video, f"joint {name} audio": audio}
    return outputs


BRIDGES: dict[str, dict[str, Any]] = {
    **{strategy: {"interaction_strategy": strategy} for strategy in STRATEGIES},
    "first-frame bias": {"apply_first_frame_bias_in_rope": True},
    "no rope": {"apply_cross_rope": False},
    "pooled": {"pooled_adaln": True},
    "trained scale": {"trainable_condition_scale": True},
}


def test_pinned_figures_tell_the_variants_apart() -> None:
    audio = [tuple(PINNED[name]) for name in PINNED if "audio" in name]
    same = {"joint progressive audio", "joint custom audio"}  # at two layers: full, and distributed
    assert len(set(audio)) == len(audio) - len(same)


def test_outputs_are_what_they_were_when_they_equalled_the_original() -> None:
    for name, output in pinned_outputs().items():
        assert figures(output) == pytest.approx(PINNED[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("name", BRIDGES)
def test_a_batch_is_its_samples(name: str) -> None:
    model, inputs = joint(**BRIDGES[name]), joint_inputs(3)
    together = model(*inputs, video_fps=24.0)
    for index in range(3):
        alone = model(*(tensor[index : index + 1] for tensor in inputs), video_fps=24.0)
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[index : index + 1], part, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tower", ["video", "audio"])
def test_a_batch_of_a_lone_tower_is_its_samples(tower: str) -> None:
    model, latents = (video_tower(), wave(3, 36, 2, 4, 4)) if tower == "video" else (audio_tower(), wave(3, 6, 5))
    timesteps, context = torch.tensor([100.0, 500.0, 900.0]), wave(3, 7, 12)
    together = model(latents, timesteps, context)
    for index in range(3):
        part = slice(index, index + 1)
        alone = model(latents[part], timesteps[part], context[part])
        torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=1e-5)


def test_without_the_bridge_the_towers_don_t_hear_each_other() -> None:
    model, inputs = joint(), list(joint_inputs(1))
    video, audio = model(*inputs, video_fps=24.0, use_bridge=False)
    torch.testing.assert_close(video, model.video_dit(inputs[0], inputs[2], inputs[4]))
    torch.testing.assert_close(audio, model.audio_dit(inputs[1], inputs[3], inputs[4]))
    assert not torch.allclose(video, model(*inputs, video_fps=24.0)[0])


def test_the_frame_rate_places_video_on_the_audios_time_line() -> None:
    model, inputs = joint(), joint_inputs(1)
    assert not torch.equal(model(*inputs, video_fps=24.0)[1], model(*inputs, video_fps=12.0)[1])
    for fps, step in ((25.0, 8), (20.0, 10)):  # audio latents a video latent: 50 / fps * 4
        video, audio = model.bridge.aligned_rotary(fps, (3, 1, 1), 30, torch.device("cpu"))
        torch.testing.assert_close(video.cos[2], audio.cos[2 * step])


def test_a_trained_scale_is_used() -> None:
    model, inputs = joint(trainable_condition_scale=True), joint_inputs(1)
    model.bridge.condition_scale.data.fill_(0.0)
    silent = model(*inputs, video_fps=24.0)
    apart = model(*inputs, video_fps=24.0, use_bridge=False)
    assert all(torch.equal(one, other) for one, other in zip(silent, apart, strict=True))


def test_scales_of_the_directions() -> None:
    module = bridge()
    visual, audio, grid = wave(1, 4, 48), wave(1, 5, 24), (1, 2, 2)
    rotary = module.aligned_rotary(24.0, grid, 5, torch.device("cpu"))
    v1, a1 = module(0, visual, audio, rotary, grid)
    v2, a2 = module(0, visual, audio, rotary, grid, a2v_condition_scale=0.5, v2a_condition_scale=0.0)
    torch.testing.assert_close(v2 - visual, (v1 - visual) / 2)
    assert torch.equal(a2, audio)
    assert not torch.equal(a1, audio)


@pytest.mark.parametrize(
    ("layers", "strategy", "expected"),
    [
        ((40, 30), "shallow_focus", tuple(range(10))),
        ((40, 30), "progressive", (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 17, 20, 23, 26, 29)),
        ((40, 30), "custom", (0, 2, 4, 6, 8, 12, 16, 20)),
        ((9, 7), "distributed", (0, 3, 6)),
        ((3, 2), "shallow_focus", ()),
        ((9, 7), "full", tuple(range(7))),
    ],
)
def test_interaction_layers(layers: tuple[int, int], strategy: str, expected: tuple[int, ...]) -> None:
    assert interaction_layers(*layers, strategy) == expected


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(ValueError, match=r"'sometimes'.*full"):
        bridge(interaction_strategy="sometimes")


def test_the_audio_tower_can_t_be_deeper() -> None:
    with pytest.raises(ValueError, match="5 layers"):
        JointTransformer(video_tower(), audio_tower(num_layers=5), bridge())


@pytest.mark.parametrize("head_dim", [16, 40, 64])
def test_heads_that_don_t_split_over_three_axes_are_refused(head_dim: int) -> None:
    with pytest.raises(ValueError, match=f"head_dim {head_dim}"):
        video_tower(dim=head_dim, num_heads=1)


def test_what_the_engine_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="has_image_input"):
        video_tower(has_image_input=True)


def test_a_grid_beyond_the_originals_tables_works() -> None:
    assert audio_tower(vae_type="oobleck")(wave(1, 6, 1100), torch.tensor([1.0]), wave(1, 2, 12)).isfinite().all()


def test_bfloat16_stays_bfloat16_and_near() -> None:
    model, inputs = joint(), joint_inputs(1)
    exact = model(*inputs, video_fps=24.0)
    for coarse, fine in zip(model.bfloat16()(*inputs, video_fps=24.0), exact, strict=True):
        assert coarse.dtype is torch.bfloat16
        assert (coarse.float() - fine).square().mean().sqrt() < 0.05 * fine.square().mean().sqrt()


def backends(model: Any) -> dict[str, str | None]:
    modules = model.named_modules()
    return {name: module.processor._attention_backend for name, module in modules if isinstance(module, Attention)}


@pytest.mark.parametrize("name", ["native", "_native_math"])
def test_a_kernel_that_is_set_is_used_by_forward_and_by_evaluate(name: str) -> None:
    model, inputs = joint(), joint_inputs(1)
    expected = model(*inputs, video_fps=24.0)
    set_attention(model, name)
    assert set(backends(model).values()) == {name}
    for result in (
        model(*inputs, video_fps=24.0),
        model.evaluate(*inputs[:4], [(model.read(inputs[4]), True)], video_fps=24.0)[0],
    ):
        for one, other in zip(result, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_kernel_for_self_attention_only() -> None:
    model = joint()
    set_attention(model.video_dit, "_native_math", self_attention_only=True)
    chosen = {name for name, backend in backends(model).items() if backend is not None}
    assert chosen == {f"video_dit.blocks.{layer}.self_attn" for layer in range(3)}


def test_a_kernel_that_nobody_knows_is_named() -> None:
    with pytest.raises(ValueError, match="'fastest'"):
        set_attention(joint(), "fastest")


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ((), "native"),
        (("_flash_3", "_native_cudnn"), "native"),  # neither works here
        (("_flash_3", "_native_math"), "_native_math"),
        (("_native_flash",), "_native_flash"),
    ],
)
def test_a_kernel_is_chosen_only_if_it_works(
    candidates: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_candidates", lambda _device: candidates)
    assert choose_attention(torch.device("cpu")) == chosen


def test_a_kernel_that_gives_other_numbers_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.attend

    def attend(query: Any, heard: Any, backend: str | None = None) -> torch.Tensor:
        return right(query, heard) + (0.1 if backend == "_native_math" else 0)

    monkeypatch.setattr(attention, "_candidates", lambda _device: ("_native_math",))
    monkeypatch.setattr(attention, "attend", attend)
    assert choose_attention(torch.device("cpu")) == "native"


@pytest.mark.parametrize("name", ["_flash_3", "_native_cudnn"])
def test_full_precision_is_left_to_torch_by_kernels_that_know_half_only(name: str) -> None:
    model, inputs = joint(), joint_inputs(1)
    expected = model(*inputs, video_fps=24.0)
    set_attention(model, name)
    assert all(torch.equal(*pair) for pair in zip(model(*inputs, video_fps=24.0), expected, strict=True))


def test_without_a_hopper_nothing_is_tried() -> None:
    assert choose_attention(torch.device("cpu")) == "native"
    assert list(attention._candidates(torch.device("cpu"))) == []


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [
        (10, None, [10]),
        (10, 10, [10]),
        (10, 99, [10]),
        (10, 9, [5, 5]),
        (10, 4, [4, 4, 2]),
        (43_120, 4096, [3920] * 11),
        (7, 1, [1] * 7),
    ],
)
def test_chunks_are_even(length: int, size: int | None, expected: list[int]) -> None:
    chunks = chunks_of(length, size)
    assert [chunk.stop - chunk.start for chunk in chunks] == expected
    assert [chunk.start for chunk in chunks] == [sum(expected[:index]) for index in range(len(expected))]
