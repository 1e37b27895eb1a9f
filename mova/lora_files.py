"""LoRA files as names and headers tell: what a file holds, what it was made for, where each tensor belongs.

Reads safetensors headers and config.json only; never a tensor, never torch. ``mova.lora_tensors`` reads the tensors.

Our own format is safetensors: two tensors a layer, ``<component>.<module path>.lora_A.weight`` [rank, in] and
``.lora_B.weight`` [out, rank], for ``W + alpha / rank * B @ A``, and a header that says what ``Header`` says. A layer
with an ``.alpha`` of its own has that instead of the header's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mova.layout import CheckpointError, Tensor, inspect_checkpoint, read_header, read_json
from mova.lora_names import EXPERTS, PARTS, parse_key

FORMAT, VERSION = "mova-lora", "1"
ADAPTED = (*EXPERTS, "audio_dit", "dual_tower_bridge")  # components that a LoRA may change


class LoraError(Exception):
    """A LoRA can't be used; the message names the file, the key where there is one, and what to do."""


@dataclass(frozen=True)
class Base:
    """The model that a LoRA is made for: its name, and its shapes as ``architecture_of`` words them."""

    name: str
    architecture: str


@dataclass(frozen=True)
class Header:
    """What a file in our format says of itself."""

    base: Base
    rank: int
    alpha: float
    trigger_words: tuple[str, ...] = ()

    def misfit(self, file: Path, base: Base) -> str | None:
        """Why ``file`` can't be used with ``base``, as a sentence; None if it can, as far as headers tell."""
        if self.base.architecture == base.architecture:
            return None
        return (
            f"{file} is made for {self.base.name} ({self.base.architecture}), this checkpoint is "
            f"{base.name} ({base.architecture}). Choose a LoRA for this model, or the checkpoint that it is for."
        )

    def note(self, file: Path, base: Base) -> str | None:
        """What the creator should know where ``file`` can be used with ``base``; None if there is nothing."""
        if self.base.name == base.name:
            return None
        return f"{file.name} is made for {self.base.name}, whose shapes {base.name} has; its effect may differ here."

    def metadata(self) -> dict[str, str]:
        """As safetensors stores it."""
        return {
            "format": FORMAT,
            "format_version": VERSION,
            "base_model": self.base.name,
            "base_architecture": self.base.architecture,
            "rank": str(self.rank),
            "alpha": repr(float(self.alpha)),
            "trigger_words": json.dumps(self.trigger_words, ensure_ascii=False),
        }


class Layer(NamedTuple):
    """A layer's tensors in a file, by their keys, and its rank; ``component`` is None for whichever video expert."""

    component: str | None
    path: str
    down: str
    up: str
    alpha: str | None
    rank: int


@dataclass(frozen=True)
class LoraInfo:
    """What a LoRA file holds. ``header`` is None for files of other software: they don't say what they are made for."""

    file: Path
    header: Header | None
    components: tuple[str, ...]
    layers: int
    ranks: tuple[int, ...]
    bytes: int

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """Words that a prompt should have for it to show."""
        return self.header.trigger_words if self.header else ()


def read_lora(file: Path) -> LoraInfo:
    """Describe a safetensors ``file`` from its header alone; every key is checked.

    Raises:
        LoraError: no safetensors, damaged, or something in it is no part of a LoRA.
    """
    if file.suffix != ".safetensors":
        raise LoraError(
            f"{file} is no safetensors file, so its header can't tell what it holds. "
            f"Convert it first: python -m mova lora {file} --checkpoint FOLDER -o NAME.safetensors"
        )
    tensors, header = read_tensors(file), read_own_header(file)
    layers = layers_of(file, {key: tensor.shape for key, tensor in tensors.items()})
    found = {component for layer in layers for component in ([layer.component] if layer.component else EXPERTS)}
    return LoraInfo(
        file=file,
        header=header,
        components=tuple(name for name in ADAPTED if name in found),
        layers=len(layers),
        ranks=tuple(sorted({layer.rank for layer in layers})),
        bytes=file.stat().st_size,
    )


def read_tensors(file: Path) -> dict[str, Tensor]:
    """What the header says of each tensor. LoraError for a file that is absent or damaged."""
    try:
        return read_header(file)
    except CheckpointError as error:
        said = str(error).replace("Download the checkpoint again, or only this file", "Check its name")
        raise LoraError(said) from error


def read_own_header(file: Path) -> Header | None:
    """The header of a file in our format; None for safetensors of other software.

    Raises:
        LoraError: another version of the format, or a field that is missing or wrong.
    """
    told = read_metadata(file)
    if told.get("format") != FORMAT:
        return None
    if told.get("format_version") != VERSION:
        raise LoraError(
            f"{file} is of version {told.get('format_version')} of its format, this engine reads {VERSION}. Update it."
        )
    try:
        words = json.loads(told["trigger_words"])
        base = Base(told["base_model"], told["base_architecture"])
        return Header(base, int(told["rank"]), float(told["alpha"]), tuple(map(str, words)))
    except (LookupError, TypeError, ValueError) as error:
        raise LoraError(f"{file}: its header can't be understood ({error!r}). Get the file again.") from error


def read_metadata(file: Path) -> dict[str, str]:
    """The ``__metadata__`` of a safetensors file whose header is sound."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {str(key): str(value) for key, value in header.get("__metadata__", {}).items()}


def layers_of(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[Layer]:
    """The layers that tensors with these keys and ``shapes`` change.

    Raises:
        LoraError: a key that is no part of a LoRA, half a pair, shapes that don't fit each other, rank 0.
    """
    parts: dict[tuple[str | None, str], dict[str, str]] = {}
    for key in shapes:
        place = parse_key(key)
        if place is None:
            raise LoraError(f"{file}: '{key}' is no part of a LoRA that this engine knows. {_remedy(key)}")
        layer = parts.setdefault((place.component, place.path), {})
        if place.part in layer:
            raise LoraError(f"{file}: '{key}' and '{layer[place.part]}' mean the same tensor. Get the file again.")
        layer[place.part] = key
    if not parts:
        raise LoraError(f"{file} is empty: it changes nothing. Choose another file.")
    return [_layer(file, *place, keys, shapes) for place, keys in parts.items()]


def base_of(checkpoint: Path) -> Base:
    """What LoRAs for the checkpoint in this folder are made for. CheckpointError if a configuration can't be read."""
    return Base(inspect_checkpoint(checkpoint).name, architecture_of(checkpoint))


def architecture_of(checkpoint: Path) -> str:
    """The shapes that a LoRA depends on: layers x width / feed-forward width of the towers, and where the bridge is."""
    configs = {name: read_json(checkpoint / name / "config.json") for name in ("video_dit", "audio_dit")}
    bridge = read_json(checkpoint / "dual_tower_bridge" / "config.json")
    towers = (f"{PARTS[name]} {_tower(config)}" for name, config in configs.items())
    return f"{', '.join(towers)}, bridge {bridge.get('interaction_strategy')}"


def _tower(config: Mapping[str, Any]) -> str:
    return f"{config.get('num_layers')}x{config.get('dim')}/{config.get('ffn_dim')}"


def _layer(
    file: Path, component: str | None, path: str, keys: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Layer:
    if missing := {"down", "up"} - keys.keys():
        (key,) = list(keys.values())[:1]
        raise LoraError(f"{file}: '{key}' has no '{missing.pop()}' matrix beside it. Get the file again.")
    down, up = keys["down"], keys["up"]
    for key in (down, up):
        if len(shapes[key]) != 2 or not math.prod(shapes[key]):
            raise LoraError(
                f"{file}: '{key}' has shape {list(shapes[key])}; it must be a matrix of rank 1 or more. "
                "Get the file again, or train with a rank."
            )
    rank = shapes[down][0]
    if shapes[up][1] != rank:
        raise LoraError(
            f"{file}: '{down}' {list(shapes[down])} and '{up}' {list(shapes[up])} have different ranks. "
            "Get the file again."
        )
    if "alpha" in keys and math.prod(shapes[keys["alpha"]]) != 1:
        raise LoraError(f"{file}: '{keys['alpha']}' must be one number. Get the file again.")
    return Layer(component, path, down, up, keys.get("alpha"), rank)


def _remedy(key: str) -> str:
    told: Iterable[tuple[str, str]] = (
        (r"\.diff(_b)?$", "It replaces weights or biases whole; choose a file without such differences."),
        (r"lokr_|hada_|oft_|dora_scale|magnitude", "It is LoKr, LoHa, OFT or DoRA; choose a plain LoRA."),
        (
            r"k_img|v_img",
            "It is for Wan 2.1 image to video, which reads pictures in another way; choose one for Wan 2.2.",
        ),
        (r"lora_te|text_encoder", "It changes the text encoder, which stays as it is; choose one without."),
    )
    for pattern, sentence in told:
        if re.search(pattern, key):
            return sentence
    return "Choose a LoRA for MOVA or Wan 2.2."
