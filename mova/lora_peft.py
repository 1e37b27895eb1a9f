"""LoRAs for training, through peft: adapters on the one list of layers, and what they learnt as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from mova.lora_files import Base, LoraError
from mova.lora_names import TARGETS, key_of
from mova.lora_tensors import Lora, Pair, save_lora

ADAPTER = "default"


def add_adapters(
    components: Mapping[str, nn.Module], *, rank: int, alpha: float, dropout: float = 0.0
) -> dict[str, nn.Parameter]:
    """Give each of ``components`` (by the checkpoint's names) adapters that change nothing yet.

    Everything else is frozen. A is drawn from torch's own generator, B is 0.

    Returns:
        The parameters to train, by their keys in a LoRA file, float32 whatever the weights are.

    Raises:
        LoraError: rank or alpha can't be.
    """
    if rank < 1 or not alpha > 0:
        raise LoraError(f"A LoRA needs a rank of 1 or more and an alpha above 0, not {rank} and {alpha:g}.")
    for name, module in components.items():
        module.requires_grad_(False)
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS[name], bias="none")  # type: ignore[arg-type]
        inject_adapter_in_model(config, module, ADAPTER)
    trained: dict[str, nn.Parameter] = {}
    for name, path, layer in _adapted(components):
        for part, matrix in zip(("down", "up"), _matrices(layer), strict=True):
            matrix.data = matrix.data.float()
            trained[key_of(name, path, part)] = matrix
    return trained


def learnt(components: Mapping[str, nn.Module]) -> dict[str, dict[str, Pair]]:
    """What the adapters are now, as ``lora_tensors.save_lora`` takes it; copies."""
    found: dict[str, dict[str, Pair]] = {}
    for name, path, layer in _adapted(components):
        down, up = (matrix.detach().clone() for matrix in _matrices(layer))
        found.setdefault(name, {})[path] = Pair(f"{name}.{path}", down, up, float(layer.lora_alpha[ADAPTER]))
    return found


@torch.no_grad()
def go_on_from(components: Mapping[str, nn.Module], lora: Lora) -> None:
    """Let adapters begin with what ``lora`` has.

    Raises:
        LoraError: it has other layers, ranks or strengths than the adapters.
    """
    wanted = {(name, path): layer for name, path, layer in _adapted(components)}
    given = {(name, path): pair for name, part in lora.pairs.items() for path, pair in part.items()}
    if wanted.keys() != given.keys():
        (name, path) = sorted(wanted.keys() ^ given.keys())[0]
        raise LoraError(f"{lora.file}: only one of it and the training changes '{name}.{path}'. Train the same layers.")
    for place, pair in given.items():
        layer = wanted[place]
        matrices = tuple(zip(_matrices(layer), (pair.down, pair.up), strict=True))
        if layer.lora_alpha[ADAPTER] != pair.alpha or any(old.shape != new.shape for old, new in matrices):
            raise LoraError(
                f"{lora.file}: '{pair.key}' has rank {pair.rank} and alpha {pair.alpha:g}, the training "
                f"{layer.r[ADAPTER]} and {layer.lora_alpha[ADAPTER]:g}. Train with the file's."
            )
        for old, new in matrices:
            old.copy_(new)


def save_learnt(
    file: Path, components: Mapping[str, nn.Module], base: Base, trigger_words: tuple[str, ...] = ()
) -> None:
    """Write what the adapters are now, in our own format. LoraError if the file can't be written."""
    save_lora(file, learnt(components), base, trigger_words)


def _adapted(components: Mapping[str, nn.Module]) -> list[tuple[str, str, LoraLayer]]:
    return [
        (name, path, layer)
        for name, module in components.items()
        for path, layer in module.named_modules()
        if isinstance(layer, LoraLayer)
    ]


def _matrices(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """The adapter's A [rank, in] and B [out, rank]."""
    return layer.lora_A[ADAPTER].get_parameter("weight"), layer.lora_B[ADAPTER].get_parameter("weight")
