"""A checkpoint in numbers, from its headers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from released_shapes import CONFIGS, released_headers

from mova.joint import JointTransformer
from mova.layout import CheckpointError, Tensor, inspect_checkpoint
from mova.model import Model, Weights, model_from, read_model
from mova.pipeline import MovaPipeline
from mova.quantise import ensure_quantised
from mova.released import RELEASED_360P, RELEASED_720P


def test_the_released_model_is_what_its_headers_say() -> None:
    read = model_from("MOVA-360p", CONFIGS, released_headers())
    assert read == RELEASED_360P
    assert replace(RELEASED_720P, name="MOVA-360p") == RELEASED_360P


def test_the_released_sizes() -> None:
    """The figures of the model's card: 14.29 B an expert, 32.66 B to denoise with, 77.7 GB in all."""
    experts = [sum(part.elements for part in tower.all) for tower in RELEASED_360P.experts]
    audio = sum(part.elements for part in RELEASED_360P.audio.all)
    bridge = sum(part.elements for part in RELEASED_360P.bridge.blocks)
    assert experts == [14_288_901_184] * 2
    assert (audio, bridge) == (1_419_193_472, 2_659_737_600)
    assert round(RELEASED_360P.bytes / 1e9, 1) == 77.7


def test_another_checkpoint_is_read_from_its_own_headers(playground: Path, pipeline: MovaPipeline) -> None:
    model = read_model(playground)
    assert model.name == "MOVA-playground"
    weights = {part.name: part.parameters for part in inspect_checkpoint(playground).components if part.parameters}
    assert sum(part.elements for part in model.experts[0].all) == weights["video_dit"]
    assert sum(part.elements for part in model.audio.all) == weights["audio_dit"]
    assert model.text.weights.elements == weights["text_encoder"]
    assert (model.vae.weights.elements, model.sound.weights.elements) == (weights["video_vae"], weights["audio_vae"])
    joint = JointTransformer(
        *(pipeline.placement.get(name) for name in ("video_dit", "audio_dit", "dual_tower_bridge"))
    )
    resident = sum(tensor.numel() for tensor in joint.resident())
    assert model.experts[0].rest.elements + model.audio.rest.elements == resident


def test_eight_bit_weights_that_are_there_are_seen(playground: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(playground, tmp_path / "checkpoint")
    assert read_model(checkpoint).quantised == ()
    ensure_quantised(checkpoint, "int8")
    assert read_model(checkpoint).quantised == ("int8",)


def test_a_missing_file_is_named(playground: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(playground, tmp_path / "checkpoint")
    (checkpoint / "audio_dit" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="audio_dit"):
        read_model(checkpoint)


@pytest.mark.parametrize(
    ("component", "key", "value"),
    [("video_dit_2", "num_layers", 7), ("video_vae", "dim_mult", None), ("audio_vae", "decoder_rates", "fast")],
)
def test_a_configuration_that_does_not_describe_its_weights(
    playground: Path, tmp_path: Path, component: str, key: str, value: object
) -> None:
    checkpoint = shutil.copytree(playground, tmp_path / "checkpoint")
    file = checkpoint / component / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, key: value}))
    with pytest.raises(CheckpointError, match=component):
        read_model(checkpoint)


def test_an_unknown_number_is_refused() -> None:
    headers = {**released_headers(), "video_vae": {"decoder.conv_in.weight": Tensor("Q4", (1,))}}
    with pytest.raises(CheckpointError, match="Q4"):
        model_from("odd", CONFIGS, headers)


def test_weights_add_up() -> None:
    assert Weights(1, 2, 4) + Weights(1, 3, 12, 3, 12, 1) == Weights(2, 5, 16, 3, 12, 1)


def test_a_model_is_a_value() -> None:
    assert isinstance(hash(RELEASED_360P), int)
    assert isinstance(RELEASED_360P, Model)
