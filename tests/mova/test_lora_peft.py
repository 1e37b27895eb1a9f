"""LoRAs for training: which parameters, that they change nothing at first, and that what they learn is what is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TINY
from lora_help import random_pairs, shapes, write
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from mova.checkpoint import load_component
from mova.lora_choice import LoraChoice
from mova.lora_files import ADAPTED, LoraError, base_of
from mova.lora_names import key_of
from mova.lora_peft import add_adapters, go_on_from, learnt, save_learnt
from mova.lora_tensors import load_lora
from mova.pipeline import MovaPipeline


@pytest.fixture
def components(playground: Path) -> dict[str, nn.Module]:
    return {name: load_component(playground, name) for name in ADAPTED}


def test_the_same_layers_as_everywhere(playground: Path, components: dict[str, nn.Module]) -> None:
    trained = add_adapters(components, rank=3, alpha=4.0)
    assert set(trained) == {
        key_of(name, path, part) for name in ADAPTED for path in shapes(playground, name) for part in ("down", "up")
    }
    learning = {id(weight) for part in components.values() for weight in part.parameters() if weight.requires_grad}
    assert learning == set(map(id, trained.values()))
    assert {weight.dtype for weight in trained.values()} == {torch.float32}


def test_adapters_change_nothing_at_first(components: dict[str, nn.Module]) -> None:
    layer = components["audio_dit"].get_submodule("blocks.0.ffn.0")
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    before = layer(x)
    add_adapters(components, rank=3, alpha=4.0)
    assert torch.equal(components["audio_dit"].get_submodule("blocks.0.ffn.0")(x), before)
    assert all(not pair.up.any() and pair.down.any() for part in learnt(components).values() for pair in part.values())


@torch.no_grad()
def test_what_was_learnt_is_what_runs(
    playground: Path, components: dict[str, nn.Module], picture: Image.Image, tmp_path: Path
) -> None:
    """A pipeline with peft's adapters, and one with the file that is saved of them."""
    trained = add_adapters(components, rank=3, alpha=4.5)
    generator = torch.Generator().manual_seed(1)
    for matrix in trained.values():
        matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.1)
    file = tmp_path / "learnt.safetensors"
    save_learnt(file, components, base_of(playground), ("a green star",))
    theirs = MovaPipeline.from_pretrained(playground, device="cpu")
    theirs.placement._modules |= components
    ours = MovaPipeline.from_pretrained(playground, device="cpu")
    bare = ours("A ball.", picture, spec=TINY)
    ours.use_loras([LoraChoice(file)])
    one, other = (pipeline("A ball.", picture, spec=TINY) for pipeline in (theirs, ours))
    torch.testing.assert_close(one.video_latents, other.video_latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.audio_latents, other.audio_latents, rtol=1e-4, atol=1e-4)
    assert (one.video_latents - bare.video_latents).abs().max() > 0.01


def test_going_on_from_a_file(playground: Path, components: dict[str, nn.Module], tmp_path: Path) -> None:
    file = write(playground, tmp_path / "before.safetensors")
    add_adapters(components, rank=2, alpha=3.0)
    go_on_from(components, load_lora(file))
    again = tmp_path / "again.safetensors"
    save_learnt(again, components, base_of(playground))
    assert load_lora(again).header == load_lora(file).header
    before, after = load_file(file), load_file(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], matrix) for key, matrix in before.items())


def test_going_on_from_what_doesnt_fit(playground: Path, components: dict[str, nn.Module], tmp_path: Path) -> None:
    add_adapters(components, rank=2, alpha=3.0)
    part = write(playground, tmp_path / "part.safetensors", random_pairs(playground, components=["audio_dit"]))
    with pytest.raises(LoraError, match="only one of it and the training changes"):
        go_on_from(components, load_lora(part))
    for rank, alpha in ((3, 3.0), (2, 4.0)):
        file = write(playground, tmp_path / "other.safetensors", random_pairs(playground, rank=rank, alpha=alpha))
        with pytest.raises(LoraError, match=f"has rank {rank} and alpha {alpha:g}"):
            go_on_from(components, load_lora(file))


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (4, 0.0), (4, float("nan"))])
def test_ranks_and_alphas_that_cant_be(components: dict[str, nn.Module], rank: int, alpha: float) -> None:
    with pytest.raises(LoraError, match="rank of 1 or more and an alpha above 0"):
        add_adapters(components, rank=rank, alpha=alpha)
