"""LoRAs on the command line: `generate --lora`, `merge`, `lora`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TINY
from lora_help import named, random_pairs, store, write
from safetensors.torch import load_file
from test_cli import arguments

from mova.__main__ import main
from mova.lora_choice import LoraChoice, Strengths
from mova.lora_files import Base, base_of, read_lora
from mova.lora_names import key_of
from mova.lora_tensors import load_lora, save_lora
from mova.pipeline import MovaPipeline

Said = pytest.CaptureFixture[str]


@pytest.fixture
def lora(playground: Path, tmp_path: Path) -> Path:
    return write(playground, tmp_path / "rain.safetensors", words=("pouring rain",))


def test_generating_with_loras(playground: Path, lora: Path, tmp_path: Path, capsys: Said) -> None:
    tensors = tmp_path / "t.safetensors"
    other = write(playground, tmp_path / "other.safetensors", random_pairs(playground, seed=4))
    more = ["--lora", f"{lora}:0.5", "--lora", f"{other}:1/0", "--save-tensors", str(tensors), "--device", "cpu"]
    assert main(arguments(playground, tmp_path / "c.mp4", *more)) == 0
    assert "rain.safetensors listens to 'pouring rain'; the prompt has none" in capsys.readouterr().out
    pipeline = MovaPipeline.from_pretrained(playground, device="cpu")
    pipeline.use_loras([LoraChoice(lora, Strengths.alike(0.5)), LoraChoice(other, Strengths(1, 0, 1))])
    clip = pipeline("The red ball bounces.", None, spec=TINY)
    assert torch.equal(load_file(tensors)["video_latents"], clip.video_latents)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent.safetensors", "absent.safetensors is missing"),
        ("foreign.safetensors", "is made for MOVA-360p"),
        ("rain.safetensors:1/2/3/4", "--lora: invalid"),
    ],
)
def test_a_lora_that_cant_be_used_is_a_sentence(
    playground: Path, lora: Path, tmp_path: Path, capsys: Said, name: str, sentence: str
) -> None:
    save_lora(tmp_path / "foreign.safetensors", load_lora(lora).pairs, Base("MOVA-360p", "video 40x5120/13824"))
    try:
        status = main(arguments(playground, tmp_path / "c.mp4", "--lora", str(tmp_path / name)))
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    assert status == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "c.mp4").exists()


def test_merging(playground: Path, lora: Path, tmp_path: Path, capsys: Said) -> None:
    target = tmp_path / "merged"
    assert main(["merge", str(playground), f"{lora}:0.5", "-o", str(target)]) == 0
    assert f"{target}: video_dit, " in capsys.readouterr().out
    pipeline = MovaPipeline.from_pretrained(playground, device="cpu")
    pipeline.use_loras([LoraChoice(lora, Strengths.alike(0.5))], merge=True)
    made = MovaPipeline.from_pretrained(target, device="cpu")
    for name in ("video_dit", "dual_tower_bridge"):
        expected = pipeline.placement.get(name).state_dict()
        assert all(torch.equal(weight, expected[key]) for key, weight in made.placement.get(name).state_dict().items())
    assert main(["merge", str(playground), str(lora), "-o", str(target)]) == 2
    assert "there already" in capsys.readouterr().err


def test_describing(playground: Path, lora: Path, tmp_path: Path, capsys: Said) -> None:
    assert main(["lora", str(lora), "--checkpoint", str(playground)]) == 0
    said = capsys.readouterr().out
    assert "changes 134 layers of video_dit, video_dit_2, audio_dit, dual_tower_bridge" in said
    assert "rank 2, alpha 3" in said
    assert "made for MOVA-playground (video 4x96/384" in said
    assert "listens to 'pouring rain'" in said
    wan = {key.replace("video_dit.", "diffusion_model."): value for key, value in _tensors(playground).items()}
    assert main(["lora", str(store(tmp_path / "wan.safetensors", wan))]) == 0
    assert "doesn't say for which model" in capsys.readouterr().out


def test_converting(playground: Path, tmp_path: Path, capsys: Said) -> None:
    torch.save(_tensors(playground), tmp_path / "lora_weights.pt")
    target = tmp_path / "ours.safetensors"
    told = ["--checkpoint", str(playground), "--trigger-word", "rain", "-o", str(target)]
    assert main(["lora", str(tmp_path), *told]) == 2
    assert "--alpha" in capsys.readouterr().err
    assert main(["lora", str(tmp_path), *told, "--alpha", "3"]) == 0
    info = read_lora(target)
    assert info.header is not None
    assert (info.header.base, info.header.alpha, info.trigger_words) == (base_of(playground), 3.0, ("rain",))
    assert main(["lora", str(tmp_path), "-o", str(tmp_path / "a.safetensors")]) == 2
    assert "Say what the LoRA is for" in capsys.readouterr().err
    assert main(["lora", str(tmp_path), "-o", str(tmp_path / "a.pt")]) == 2
    assert "doesn't end in .safetensors" in capsys.readouterr().err


def _tensors(playground: Path) -> dict[str, torch.Tensor]:
    return named(random_pairs(playground, components=["video_dit"]), key_of)
