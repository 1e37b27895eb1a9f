"""LoRA files to test with: random matrices for the playground's layers, in whatever naming is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mova.checkpoint import build_component
from mova.layout import read_json
from mova.lora_files import ADAPTED, base_of
from mova.lora_names import TARGETS, key_of
from mova.lora_tensors import Pair, save_lora

Pairs = dict[str, dict[str, Pair]]


def shapes(checkpoint: Path, component: str) -> dict[str, tuple[int, ...]]:
    """Path -> [out, in] of every layer that is trained."""
    built = build_component(component, read_json(checkpoint / component / "config.json"))
    weights = {key.removesuffix(".weight"): tuple(weight.shape) for key, weight in built.state_dict().items()}
    return {path: shape for path, shape in weights.items() if re.fullmatch(TARGETS[component], path)}


def random_pairs(
    checkpoint: Path,
    *,
    rank: int = 2,
    alpha: float = 3.0,
    seed: int = 0,
    components: Iterable[str] = ADAPTED,
) -> Pairs:
    """A change for every layer, strong enough to be seen."""
    generator = torch.Generator().manual_seed(seed)

    def pair(component: str, path: str, shape: tuple[int, ...]) -> Pair:
        down = torch.randn(rank, shape[1], generator=generator) / shape[1] ** 0.5
        up = torch.randn(shape[0], rank, generator=generator) * 0.3
        return Pair(key_of(component, path, "down"), down, up, alpha)

    return {
        component: {path: pair(component, path, shape) for path, shape in shapes(checkpoint, component).items()}
        for component in components
    }


def write(checkpoint: Path, file: Path, pairs: Pairs | None = None, words: tuple[str, ...] = ()) -> Path:
    """A file in our own format for this checkpoint."""
    save_lora(file, pairs or random_pairs(checkpoint), base_of(checkpoint), words)
    return file


def named(pairs: Pairs, name: Callable[[str, str, str], str], *, alpha: bool = False) -> dict[str, Tensor]:
    """The tensors of ``pairs`` under the names that ``name`` gives (component, path, "down" or "up" or "alpha")."""
    tensors: dict[str, Tensor] = {}
    for component, part in pairs.items():
        for path, pair in part.items():
            tensors[name(component, path, "down")] = pair.down
            tensors[name(component, path, "up")] = pair.up
            if alpha:
                tensors[name(component, path, "alpha")] = torch.tensor(pair.alpha)
    return tensors


def store(file: Path, tensors: dict[str, Tensor]) -> Path:
    """Plain safetensors, as other software writes them."""
    save_file({key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}, file)
    return file
