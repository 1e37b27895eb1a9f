"""The tensors of LoRA files: ours, Wan's, and the original software's pickles, whose code never runs."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mova.lora_files import Base, Header, Layer, LoraError, layers_of, read_metadata, read_own_header, read_tensors
from mova.lora_names import EXPERTS, key_of

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
ORIGINAL_WEIGHTS, ORIGINAL_CONFIG = "lora_weights.pt", "lora_config.pt"
PEFT_METADATA = "lora_adapter_metadata"
ORIGINAL_RANK, ORIGINAL_ALPHA = 16, 16.0  # what the original software takes where nothing is recorded


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer's change, ``alpha / rank * up @ down``: down [rank, in], up [out, rank]. ``key`` names it in errors."""

    key: str
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Columns of ``up``."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA that was read: component -> module path -> pair. One that names no expert is in both."""

    file: Path
    pairs: Mapping[str, Mapping[str, Pair]]
    header: Header | None = None


def load_lora(file: Path, *, alpha: float | None = None) -> Lora:
    """The LoRA in ``file``, in whatever format that is known, its tensors as stored.

    Args:
        file: safetensors; a pickle of the original software (``.pt``), or its folder with lora_weights.pt.
        alpha: instead of what the file says; for files that don't say what they were trained with.

    Raises:
        LoraError: not there, damaged, no LoRA, or a pickle that wants to run code; names key and remedy.
    """
    told: Header | _Told | None
    if file.suffix == ".safetensors":
        read_tensors(file)
        told, source = read_own_header(file) or (_told_by_peft(file) if alpha is None else None), file
        tensors = _safetensors(file)
    else:
        source = _weights_in(file)
        told, tensors = _original(source, recorded=alpha is None)
    header = told if isinstance(told, Header) else None
    pairs: dict[str, dict[str, Pair]] = {}
    for layer in layers_of(source, {key: tuple(tensor.shape) for key, tensor in tensors.items()}):
        pair = Pair(layer.down, tensors[layer.down], tensors[layer.up], _alpha(source, layer, tensors, told, alpha))
        for component in [layer.component] if layer.component else EXPERTS:
            if twin := pairs.setdefault(component, {}).get(layer.path):
                raise LoraError(f"{source}: '{pair.key}' and '{twin.key}' change the same layer. Get the file again.")
            pairs[component][layer.path] = pair
    _refuse_strange(source, pairs)
    return Lora(file, pairs, header)


def save_lora(
    file: Path, pairs: Mapping[str, Mapping[str, Pair]], base: Base, trigger_words: tuple[str, ...] = ()
) -> None:
    """Write ``pairs`` (component -> module path -> pair) in our own format, whole or not at all.

    Raises:
        LoraError: nothing to save, or the file can't be written.
    """
    every = [pair for part in pairs.values() for pair in part.values()]
    if not every:
        raise LoraError(f"There is nothing to save into {file}: no layer is changed.")
    header = Header(base, every[0].rank, every[0].alpha, trigger_words)
    tensors = {}
    for component, part in pairs.items():
        for path, pair in part.items():
            tensors[key_of(component, path, "down")] = (
                pair.down.detach().cpu().clone(memory_format=torch.contiguous_format)
            )
            tensors[key_of(component, path, "up")] = pair.up.detach().cpu().clone(memory_format=torch.contiguous_format)
            if (pair.rank, pair.alpha) != (header.rank, header.alpha):
                tensors[key_of(component, path, "alpha")] = torch.tensor(pair.alpha, dtype=torch.float64)
    half = file.with_name(f"{file.name}.part")
    try:
        save_file(tensors, half, header.metadata())
        half.replace(file)
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{file} can't be written ({error}). Give its folder room and the right to write.") from error
    finally:
        half.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Told:
    """What other software recorded beside the tensors; by default what the original takes if nothing is recorded."""

    rank: int = ORIGINAL_RANK
    alpha: float = ORIGINAL_ALPHA


def _told_by_peft(file: Path) -> _Told | None:
    """Rank and alpha as diffusers stores peft's configuration in a header; None where it didn't."""
    stored = read_metadata(file).get(PEFT_METADATA)
    if stored is None:
        return None
    try:
        config = {str(key).rpartition(".")[2]: value for key, value in json.loads(stored).items()}
    except (ValueError, AttributeError) as error:
        raise LoraError(f"{file}: '{PEFT_METADATA}' of its header can't be understood. Get the file again.") from error
    for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias"):
        if config.get(name):
            raise LoraError(f"{file} was trained with '{name}', which this engine doesn't know. Choose a plain LoRA.")
    return _told(file, {"rank": config.get("r"), "alpha": config.get("lora_alpha")})


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise LoraError(f"{file} can't be read ({error}). Get the file again.") from error


def _weights_in(file: Path) -> Path:
    """The pickle that ``file`` is, or has in it."""
    if file.is_dir() and (file / ORIGINAL_WEIGHTS).is_file():
        return file / ORIGINAL_WEIGHTS
    if file.is_file() and file.suffix in PICKLES:
        return file
    if file.exists():
        raise LoraError(
            f"{file} is no LoRA that this engine knows. Give a .safetensors file, one of the original software's "
            f"({', '.join(PICKLES)}), or its folder with {ORIGINAL_WEIGHTS}."
        )
    raise LoraError(f"{file} is not there. Check its name.")


def _original(file: Path, *, recorded: bool) -> tuple[_Told | None, dict[str, Tensor]]:
    """What is recorded (if asked for), and the tensors, of a pickle: one with both, or weights and config apart."""
    content = _unpickled(file)
    if "lora_state_dict" in content:
        return _told(file, content) if recorded else None, _tensors_in(file, content["lora_state_dict"])
    config = file.with_name(ORIGINAL_CONFIG)
    tensors = _tensors_in(file, content)
    if recorded and file.name == ORIGINAL_WEIGHTS and config.is_file():
        return _told(config, _unpickled(config)), tensors
    return (None if _is_wan(file, tensors) else _Told()), tensors


def _is_wan(file: Path, tensors: Mapping[str, Tensor]) -> bool:
    layers = layers_of(file, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    return all(layer.component is None for layer in layers)


def _unpickled(file: Path) -> dict[str, Any]:
    """What a pickle holds, if that is tensors, numbers, texts, lists and dictionaries: nothing else is made of it."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for '{wanted[1]}'" if wanted else "it isn't plain tensors and numbers"
        raise LoraError(
            f"{file} is refused: {what}, and reading such a pickle could run any code. "
            "Ask its author for a safetensors file."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LoraError(f"{file} can't be read ({first}). Get the file again.") from error
    if not isinstance(content, dict):
        raise LoraError(f"{file} holds no LoRA: its content is a {type(content).__name__}. Choose another file.")
    return content


def _tensors_in(file: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise LoraError(f"{file} holds no dictionary of tensors. Get the file again.")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise LoraError(f"{file}: '{key}' is no tensor. Get the file again.")
    return {str(key): value for key, value in content.items()}


def _told(file: Path, content: Mapping[str, Any]) -> _Told:
    rank, alpha = content.get("rank", ORIGINAL_RANK), content.get("alpha", ORIGINAL_ALPHA)
    for name, value in (("rank", rank), ("alpha", alpha)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LoraError(
                f"{file}: '{name}' is {value!r}, no number, so its strength isn't known. {_ask_for_alpha(file)}"
            )
    return _Told(int(rank), float(alpha))


def _alpha(
    file: Path, layer: Layer, tensors: Mapping[str, Tensor], told: Header | _Told | None, chosen: float | None
) -> float:
    """The layer's alpha: what was chosen, the layer's own, what the file says; where nothing is said, its rank."""
    if chosen is not None:
        return chosen
    if layer.alpha:
        return float(tensors[layer.alpha])
    if told is None:
        return float(layer.rank)
    if told.rank != layer.rank:
        raise LoraError(
            f"{file}: '{layer.down}' has rank {layer.rank}, but {told.rank} is recorded, so the recorded alpha "
            f"({told.alpha:g}) may be wrong too. {_ask_for_alpha(file)}"
        )
    return told.alpha


def _ask_for_alpha(file: Path) -> str:
    return (
        "Convert it with the alpha that it was trained with: "
        f"python -m mova lora {file} --alpha NUMBER --checkpoint FOLDER -o NAME.safetensors"
    )


def _refuse_strange(file: Path, pairs: Mapping[str, Mapping[str, Pair]]) -> None:
    for part in pairs.values():
        for pair in part.values():
            if not (pair.down.is_floating_point() and pair.up.is_floating_point()):
                raise LoraError(f"{file}: '{pair.key}' isn't in floating point. Get the file again.")
            if not (math.isfinite(pair.alpha) and pair.down.isfinite().all() and pair.up.isfinite().all()):
                raise LoraError(
                    f"{file}: '{pair.key}' has values that aren't numbers. Its training failed; choose another."
                )
