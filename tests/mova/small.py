"""Towers of a few layers on the meta device, and the model in numbers that goes with them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from released_shapes import CONFIGS, header_of

from mova.checkpoint import build_component
from mova.joint import JointTransformer
from mova.model import Model, model_from
from mova.released import RELEASED_360P

TOWER = {"text_dim": 64, "freq_dim": 64, "eps": 1e-6}
SMALL: dict[str, dict[str, Any]] = {
    "video_dit": {
        **TOWER,
        **{"dim": 96, "ffn_dim": 384, "num_heads": 3, "num_layers": 4, "in_dim": 36, "out_dim": 16},
        "patch_size": [1, 2, 2],
    },
    "audio_dit": {
        **TOWER,
        **{"dim": 64, "ffn_dim": 256, "num_heads": 2, "num_layers": 3, "in_dim": 16, "out_dim": 16},
        **{"patch_size": [1], "vae_type": "dac"},
    },
    "dual_tower_bridge": {
        **{"visual_layers": 4, "audio_layers": 3, "visual_hidden_dim": 96, "audio_hidden_dim": 64},
        **{"audio_fps": 50.0, "head_dim": 32, "interaction_strategy": "full"},
    },
}
FEW_LAYERS = {  # of the released widths
    "video_dit": {**CONFIGS["video_dit"], "num_layers": 3},
    "audio_dit": {**CONFIGS["audio_dit"], "num_layers": 2},
    "dual_tower_bridge": {**CONFIGS["dual_tower_bridge"], "visual_layers": 3, "audio_layers": 2},
}


@cache
def small(*bridge: tuple[str, Any]) -> tuple[JointTransformer, Model]:
    """Narrow towers; ``bridge`` are settings of the bridge."""
    return joint_and_model(SMALL, **dict(bridge))


def joint_and_model(configs: dict[str, dict[str, Any]], **bridge: Any) -> tuple[JointTransformer, Model]:
    """The towers in bfloat16, and their model; what else a model has is that of the released one."""
    told = {name: dict(config) for name, config in configs.items()}
    told["dual_tower_bridge"] |= bridge
    parts = [build_component(name, told[name]) for name in ("video_dit", "audio_dit", "dual_tower_bridge")]
    joint = JointTransformer(*parts).to(torch.bfloat16).requires_grad_(False).eval()
    return joint, _model(told)


@cache
def _headers_of_the_rest() -> dict[str, Any]:
    return {name: header_of(name, CONFIGS[name]) for name in ("text_encoder", "video_vae", "audio_vae")}


def _model(told: dict[str, dict[str, Any]]) -> Model:
    configs = {**CONFIGS, **told, "video_dit_2": told["video_dit"]}
    headers = _headers_of_the_rest() | {name: header_of(name, configs[name]) for name in (*told, "video_dit_2")}
    model = model_from("small", configs, headers)
    return replace(model, sound=replace(RELEASED_360P.sound, latent_dim=model.audio.in_dim))
