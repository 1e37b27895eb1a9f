"""Layers over 8-bit weights: which matrices they are, how far off they are, and products in 8 bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mova import quantised as layers
from mova.checkpoint import build_component, load_component
from mova.eightbit import KINDS, QuantiseError, is_matrix, reduced_bytes
from mova.layout import Tensor as Header
from mova.layout import read_weights
from mova.quantise import dequantise, quantise
from mova.quantised import QuantisedLinear, choose_products, load_quantised

CPU = torch.device("cpu")
KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Which layers


RELEASED = json.loads((Path(__file__).parent / "released.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "share"), [("video_dit", 0.983), ("dual_tower_bridge", 0.769)])
def test_most_of_the_released_weights_are_matrices_that_8_bit_kernels_take(name: str, share: float) -> None:
    tensors = build_component(name, RELEASED[name]["config"]).state_dict()
    matrices = [tensor for key, tensor in tensors.items() if is_matrix(name, key)]
    assert all(side % layers.EDGE == 0 for matrix in matrices for side in matrix.shape)
    elements = sum(matrix.numel() for matrix in matrices)
    assert elements / RELEASED[name]["parameters"] == pytest.approx(share, abs=1e-3)
    header = {key: Header("BF16", tuple(tensor.shape)) for key, tensor in tensors.items()}
    assert elements < reduced_bytes(name, header) < 1.002 * elements


@pytest.mark.parametrize("name", ["video_dit", "dual_tower_bridge"])
@KIND
def test_only_the_matrices_are_in_8_bits(playground: Path, stores: dict[str, Path], name: str, kind: str) -> None:
    module = load_quantised(playground, name, kind, store=stores[kind])
    stored = load_component(playground, name)
    reduced = {path for path, layer in module.named_modules() if isinstance(layer, QuantisedLinear)}
    assert reduced == {
        path
        for path, layer in stored.named_modules()
        if isinstance(layer, nn.Linear) and is_matrix(name, f"{path}.weight")
    }
    assert not [path for path in reduced if "text_embedding" in path or "time_" in path or "head" in path]
    assert not [path for path in reduced if path.startswith("video_to_audio")]
    for key, tensor in module.state_dict().items():
        path, _, leaf = key.rpartition(".")
        if path in reduced and leaf != "bias":
            continue
        assert torch.equal(tensor, stored.state_dict()[key]), key
    assert module.dtype is torch.float32


def test_the_audio_tower_the_vaes_and_the_text_stay_as_stored(playground: Path) -> None:
    for name in ("audio_dit", "audio_vae", "video_vae", "text_encoder"):
        assert not [
            key for header in read_weights(playground / name).values() for key in header if is_matrix(name, key)
        ]


def test_other_tensors_follow_the_dtype_and_scales_don_t(playground: Path, stores: dict[str, Path]) -> None:
    module = load_quantised(playground, "video_dit", "fp8", torch.bfloat16, store=stores["fp8"])
    dtypes = {key.rpartition(".")[2]: tensor.dtype for key, tensor in module.blocks.named_parameters() if "ffn" in key}
    assert dtypes == {"weight": torch.float8_e4m3fn, "weight_scale": torch.float32, "bias": torch.bfloat16}
    assert module.dtype is torch.bfloat16
    assert not any(parameter.requires_grad for parameter in module.parameters())


@KIND
def test_a_loaded_tower_computes_what_its_rounded_weights_say(
    playground: Path, stores: dict[str, Path], kind: str
) -> None:
    reduced = load_quantised(playground, "video_dit", kind, store=stores[kind])
    plain = load_component(playground, "video_dit")
    for path, layer in reduced.named_modules():
        if isinstance(layer, QuantisedLinear):
            weight = dequantise(layer.weight, layer.weight_scale, torch.float32)
            plain.get_submodule(path).weight = nn.Parameter(weight, requires_grad=False)
    inputs: tuple[Any, ...] = (random(1, 36, 2, 4, 6), torch.tensor([700.0]), random(1, 7, 64))
    torch.testing.assert_close(reduced(*inputs), plain(*inputs))
    exact = load_component(playground, "video_dit")(*inputs)
    assert 0 < (reduced(*inputs) - exact).norm() < 0.1 * exact.norm()


def test_weights_that_were_never_made_are_asked_for(playground: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantiseError, match="missing or out of date"):
        load_quantised(playground, "video_dit", "int8", store=tmp_path)


# Layers


def layer(kind: str, out: int = 48, width: int = 64, **options: Any) -> tuple[nn.Linear, QuantisedLinear]:
    linear = nn.Linear(width, out, **options)
    linear.weight.data = random(out, width)
    return linear, QuantisedLinear.of(linear, kind)


@KIND
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_parts_is_the_layer_in_one(kind: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, reduced = layer(kind, bias=bias)
    x = random(2, 5, 64, seed=1)
    whole = reduced(x)
    monkeypatch.setattr(layers, "DEQUANTISED", 64 * 7)
    seen: list[int] = []
    monkeypatch.setattr(layers, "dequantise", lambda part, *rest: seen.append(part.shape[0]) or dequantise(part, *rest))
    torch.testing.assert_close(reduced(x), whole)
    assert seen == [7] * 6 + [6]


@KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_8_bits_are_those_of_the_rounded_numbers(kind: str, dtype: torch.dtype) -> None:
    if choose_products(kind, "w8a8", CPU, dtype) == "plain":
        pytest.skip("this CPU doesn't multiply 8 bits")
    linear, reduced = layer(kind)
    reduced.bias = nn.Parameter(linear.bias.to(dtype), requires_grad=False)
    reduced.products = kind
    x = (random(3, 100, 64, seed=1) * torch.logspace(-3, 3, 100).unsqueeze(1)).to(dtype)
    found = reduced(x)
    tokens, scales = quantise(x.flatten(0, 1), kind)  # near enough: that scale is rounded up to a bfloat16
    rounded = dequantise(tokens, scales, torch.float32)
    expected = rounded @ dequantise(reduced.weight, reduced.weight_scale, torch.float32).t()
    expected = expected.unflatten(0, (3, 100)) + linear.bias
    off = (found.float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert found.dtype is dtype
    assert found.shape == (3, 100, 48)
    assert off.max() < {"int8": 0.02, "fp8": 0.06}[kind]


@KIND
@pytest.mark.parametrize("tokens", [1, 7, 31, 32, 33, 80])
def test_any_number_of_tokens_is_multiplied(kind: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if choose_products(kind, "w8a8", CPU, torch.float32) == "plain":
        pytest.skip("this CPU doesn't multiply 8 bits")
    _, reduced = layer(kind)
    reduced.products = kind
    x = random(80, 64, seed=1)
    whole = reduced(x)
    monkeypatch.setattr(layers, "TOKENS", 33)
    assert torch.equal(reduced(x[:tokens]), whole[:tokens])


def test_a_matrix_that_8_bit_kernels_don_t_take_is_multiplied_in_full() -> None:
    _, reduced = layer("int8", out=47, width=50)
    x = random(40, 50, seed=1)
    whole = reduced(x)
    reduced.products = "int8"
    assert torch.equal(reduced(x), whole)


@KIND
def test_products_are_plain_where_the_kernel_is_missing_or_wrong(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_products(kind, "plain", CPU, torch.float32) == "plain"

    def refuse(*_: object) -> Tensor:
        raise NotImplementedError("no such kernel")

    def wrong(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return (x @ (weight.float() * scale.unsqueeze(1)).t()) * 1.02

    for product in (refuse, wrong):
        layers._works.cache_clear()
        monkeypatch.setitem(layers._PRODUCTS, kind, product)
        assert choose_products(kind, "w8a8", CPU, torch.float32) == "plain"
    layers._works.cache_clear()


def test_a_layer_still_teaches_what_comes_before_it() -> None:
    _, reduced = layer("int8")
    x = random(4, 64).requires_grad_()
    with torch.enable_grad():
        reduced(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
