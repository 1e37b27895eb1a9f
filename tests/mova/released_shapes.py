"""The released checkpoints' configurations, and headers as their files have them: names and shapes in BF16."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mova.checkpoint import build_component
from mova.layout import Tensor

CONFIGS: dict[str, dict[str, Any]] = {
    name: entry["config"] for name, entry in json.loads(Path(__file__).with_name("released.json").read_text()).items()
}


@cache
def released_headers() -> dict[str, dict[str, Tensor]]:
    """Component -> tensor name -> what a safetensors header says of it."""
    return {name: header_of(name, config) for name, config in CONFIGS.items()}


def header_of(name: str, config: dict[str, Any], dtype: str = "BF16") -> dict[str, Tensor]:
    """The header of a component that is built from ``config``."""
    module = build_component(name, config)
    return {key: Tensor(dtype, tuple(tensor.shape)) for key, tensor in module.state_dict().items()}
