"""The official checkpoint layout as files: which components there are, what their headers say, what is missing.

Reads JSON and safetensors headers only; never a weight, never torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mova.spec import ClipSpec

MODEL_INDEX = "model_index.json"
PLAYGROUND_NAME = "MOVA-playground"

# Component -> the pair [module, class] that model_index.json names. The modules of the first seven belong to the
# original software; only their class names matter to us, and they are written back unchanged.
COMPONENTS: dict[str, tuple[str, str]] = {
    "video_dit": ("mova.diffusion.models.wan_video_dit", "WanModel"),
    "video_dit_2": ("mova.diffusion.models.wan_video_dit", "WanModel"),
    "audio_dit": ("mova.diffusion.models.wan_audio_dit", "WanAudioModel"),
    "dual_tower_bridge": ("mova.diffusion.models.interactionv2", "DualTowerConditionalBridge"),
    "audio_vae": ("mova.diffusion.models.dac_vae", "DAC"),
    "scheduler": ("mova.diffusion.schedulers.flow_match_pair", "FlowMatchPairScheduler"),
    "video_vae": ("diffusers", "AutoencoderKLWan"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "tokenizer": ("transformers", "T5TokenizerFast"),
}
WEIGHTED = tuple(name for name in COMPONENTS if name not in ("scheduler", "tokenizer"))

# (width, height) that a checkpoint was trained for, landscape first.
SIZES_360P = ((640, 352), (352, 640))
SIZES_720P = ((1280, 720), (720, 1280))
SIZES_PLAYGROUND = ((256, 144), (144, 256))


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the file, the key where there is one, and the remedy."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as a safetensors header describes it; ``dtype`` in its words, such as BF16."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ComponentInfo:
    """One component on disk. ``parameters`` counts elements, ``bytes`` the weight files whole."""

    name: str
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    files: int
    problem: str | None = None


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint folder as its headers describe it. ``problems`` is empty when it can be loaded."""

    path: Path
    name: str
    components: tuple[ComponentInfo, ...]
    problems: tuple[str, ...]

    @property
    def playground(self) -> bool:
        """Whether this is the bundled playground, whose weights are random: its clips are noise."""
        return self.name == PLAYGROUND_NAME

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The (width, height) pairs this checkpoint was made for, landscape first."""
        if self.playground:
            return SIZES_PLAYGROUND
        return SIZES_720P if "720p" in self.name.lower() else SIZES_360P

    @property
    def default_spec(self) -> ClipSpec:
        """The settings that suit this checkpoint, landscape."""
        width, height = self.sizes[0]
        if self.playground:
            return ClipSpec(width=width, height=height, num_frames=25, fps=12, num_inference_steps=10)
        return ClipSpec(width=width, height=height)


def inspect_checkpoint(path: Path | str) -> CheckpointInfo:
    """Describe the checkpoint in folder ``path`` from its headers; whatever is wrong becomes a sentence in it."""
    path = Path(path)
    try:
        index = read_model_index(path)
    except CheckpointError as error:
        return CheckpointInfo(path, path.name, (), (str(error),))
    components = tuple(_inspect_component(path, name) for name in COMPONENTS)
    recorded = str(index.get("_name_or_path", ""))
    name = PLAYGROUND_NAME if recorded == PLAYGROUND_NAME else Path(recorded.replace("\\", "/")).name or path.name
    return CheckpointInfo(path, name, components, tuple(c.problem for c in components if c.problem))


def read_model_index(path: Path) -> dict[str, Any]:
    """``model_index.json`` of a checkpoint folder, checked against ``COMPONENTS``.

    Raises:
        CheckpointError: no folder, no index, a component without entry, or a class that this engine doesn't know.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder. Give the folder of a MOVA checkpoint (with {MODEL_INDEX}).")
    index = read_json(path / MODEL_INDEX)
    for name, (_, expected) in COMPONENTS.items():
        entry = index.get(name)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        if found != expected:
            raise CheckpointError(
                f"{path / MODEL_INDEX}: '{name}' names the class {found!r}, this engine knows {expected!r}. "
                "Download the checkpoint's model_index.json again, or use a MOVA checkpoint."
            )
    boundary = index.setdefault("boundary_ratio", 0.9)
    if isinstance(boundary, bool) or not isinstance(boundary, int | float) or not 0 <= boundary <= 1:
        raise CheckpointError(
            f"{path / MODEL_INDEX}: 'boundary_ratio' is {boundary!r}, it must be a number from 0 to 1. "
            "Download this file again."
        )
    return index


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from ``file``; CheckpointError if it is absent, broken or no object."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing. Download the checkpoint again, or only this file.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} can't be read as JSON ({error}). Download this file again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no JSON object. Download this file again.")
    return value


def read_weights(folder: Path) -> dict[Path, dict[str, Tensor]]:
    """File -> tensor name -> what its header says, of every safetensors file of a component.

    Raises:
        CheckpointError: a file is missing or damaged, or lacks a tensor that the component's index places in it.
    """
    stem = "model" if folder.name == "text_encoder" else "diffusion_pytorch_model"
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        return {file: read_header(file) for file in (folder / f"{stem}.safetensors",)}
    weight_map = read_json(index).get("weight_map")
    if not (isinstance(weight_map, dict) and weight_map and all(isinstance(name, str) for name in weight_map.values())):
        raise CheckpointError(f"{index} has no 'weight_map' from tensors to files. Download this file again.")
    weights = {folder / name: read_header(folder / name) for name in sorted(set(weight_map.values()))}
    for key, name in weight_map.items():
        if key not in weights[folder / name]:
            raise CheckpointError(
                f"{folder / name}: tensor '{key}' is missing, {index.name} places it there. Download both files again."
            )
    return weights


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as its header has them, the file's length checked against it."""
    return {name: tensor for name, (tensor, _) in read_offsets(file).items()}


def read_offsets(file: Path) -> dict[str, tuple[Tensor, int]]:
    """The same with where each tensor's first byte lies in the file."""
    remedy = "Download this file again."
    if not file.is_file():
        raise CheckpointError(f"{file} is missing. Download the checkpoint again, or only this file.")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{file} is cut short: {size} bytes don't hold its header. {remedy}")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            tensors = {
                name: (Tensor(str(e["dtype"]), tuple(map(int, e["shape"]))), 8 + length + int(e["data_offsets"][0]))
                for name, e in header.items()
            }
            end = 8 + length + max(int(entry["data_offsets"][1]) for entry in header.values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} has no readable safetensors header ({error!r}). {remedy}") from error
    if size != end:
        raise CheckpointError(f"{file} is cut short or damaged: it has {size} bytes, its header says {end}. {remedy}")
    return tensors


def _inspect_component(path: Path, name: str) -> ComponentInfo:
    folder = path / name
    try:
        if name == "tokenizer":
            read_json(folder / "tokenizer.json")
            read_json(folder / "tokenizer_config.json")
        elif name == "scheduler":
            read_json(folder / "scheduler_config.json")
        else:
            read_json(folder / "config.json")
            return _inspect_weights(name, read_weights(folder))
    except CheckpointError as error:
        return ComponentInfo(name, 0, 0, (), 0, str(error))
    files = [file for file in folder.iterdir() if file.is_file()]
    return ComponentInfo(name, 0, sum(file.stat().st_size for file in files), (), len(files))


def _inspect_weights(name: str, weights: dict[Path, dict[str, Tensor]]) -> ComponentInfo:
    tensors = [tensor for file in weights.values() for tensor in file.values()]
    return ComponentInfo(
        name=name,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        bytes=sum(file.stat().st_size for file in weights),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors})),
        files=len(weights),
    )
