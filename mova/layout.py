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


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component, in the order of its index; CheckpointError if one is missing."""
    stem = "model" if folder.name == "text_encoder" else "diffusion_pytorch_model"
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        files = [single]
    else:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index} has no 'weight_map'. Download this file again.")
        files = [folder / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing. Download the checkpoint again, or only this file.")
    return files


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> {dtype, shape, data_offsets} of a safetensors file, its length checked against its header."""
    size = file.stat().st_size
    remedy = "Download this file again."
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{file} is cut short: {size} bytes don't hold its header. {remedy}")
        try:
            header = json.loads(stream.read(length))
            end = 8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CheckpointError(f"{file} has no readable safetensors header ({error}). {remedy}") from error
    if size != end:
        raise CheckpointError(f"{file} is cut short or damaged: it has {size} bytes, its header says {end}. {remedy}")
    header.pop("__metadata__", None)
    return dict(header)


def _inspect_component(path: Path, name: str) -> ComponentInfo:
    folder = path / name
    try:
        if name == "tokenizer":
            read_json(folder / "tokenizer.json")
        elif name == "scheduler":
            read_json(folder / "scheduler_config.json")
        else:
            read_json(folder / "config.json")
            return _inspect_weights(name, weight_files(folder))
    except CheckpointError as error:
        return ComponentInfo(name, 0, 0, (), 0, str(error))
    files = [file for file in folder.iterdir() if file.is_file()]
    return ComponentInfo(name, 0, sum(file.stat().st_size for file in files), (), len(files))


def _inspect_weights(name: str, files: list[Path]) -> ComponentInfo:
    tensors = [tensor for file in files for tensor in read_header(file).values()]
    return ComponentInfo(
        name=name,
        parameters=sum(math.prod(tensor["shape"]) for tensor in tensors),
        bytes=sum(file.stat().st_size for file in files),
        dtypes=tuple(sorted({tensor["dtype"] for tensor in tensors})),
        files=len(files),
    )
