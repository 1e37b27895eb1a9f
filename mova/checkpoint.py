"""Reads and writes MOVA checkpoints in the official layout, naming file, key and shape of whatever doesn't fit."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from mova.audio_dit import WanAudioModel
from mova.audio_vae import DAC
from mova.bridge import DualTowerConditionalBridge
from mova.layout import COMPONENTS, MODEL_INDEX, CheckpointError, read_header, read_json, weight_files
from mova.scheduler import FlowMatchPairScheduler
from mova.video_dit import WanModel

logger = logging.getLogger(__name__)

CLASSES: dict[str, type] = {
    "video_dit": WanModel,
    "video_dit_2": WanModel,
    "audio_dit": WanAudioModel,
    "dual_tower_bridge": DualTowerConditionalBridge,
    "audio_vae": DAC,
    "video_vae": AutoencoderKLWan,
}
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


def build_component(name: str, config: dict[str, Any], source: Path | str = "config.json") -> nn.Module:
    """Component ``name`` on the meta device: names and shapes, no memory.

    Raises:
        CheckpointError: the configuration describes something that this engine can't build.
    """
    try:
        with torch.device("meta"):
            if name == "text_encoder":
                # Plain attention rounds as the original did; fused kernels differ by an ulp of bf16.
                return _tied(UMT5EncoderModel(UMT5Config.from_dict(config, attn_implementation="eager")))
            kind: Any = CLASSES[name]
            known = inspect.signature(kind.__init__).parameters
            return kind(**{key: value for key, value in config.items() if key in known})
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{source}: {error} Use the config.json that belongs to the weights.") from error


def load_component(checkpoint: Path, name: str, dtype: torch.dtype | None = None) -> nn.Module:
    """Component ``name`` of the folder ``checkpoint`` with its weights, on the CPU.

    Args:
        checkpoint: the checkpoint's folder.
        name: one of ``layout.WEIGHTED``.
        dtype: what the weights are turned into; as stored if None. The audio VAE is float32 whatever is asked, since
            its decoder computes in float32.

    Raises:
        CheckpointError: a file is missing, cut short or has other tensors than the configuration asks for.
    """
    folder = checkpoint / name
    module = build_component(name, read_json(folder / "config.json"), folder / "config.json")
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    if name == "text_encoder":
        expected.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight, never in the file
    wanted = torch.float32 if name == "audio_vae" else dtype
    tensors = dict(_checked_tensors(weight_files(folder), expected, wanted))
    for key, shape in expected.items():
        if key not in tensors:
            raise CheckpointError(
                f"{weight_files(folder)[0]}: tensor '{key}' of shape {shape} is missing. Download {name} again."
            )
    module.load_state_dict(tensors, strict=False, assign=True)
    if isinstance(module, UMT5EncoderModel):
        _tied(module)
    return module.eval().requires_grad_(False)


def load_scheduler(checkpoint: Path) -> FlowMatchPairScheduler:
    """The checkpoint's scheduler."""
    config = read_json(checkpoint / "scheduler" / "scheduler_config.json")
    scheduler: FlowMatchPairScheduler = FlowMatchPairScheduler.from_config(config)
    return scheduler


def load_tokenizer(checkpoint: Path) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, exactly as its tokenizer.json describes it."""
    folder = checkpoint / "tokenizer"
    read_json(folder / "tokenizer.json")
    config = read_json(folder / "tokenizer_config.json")
    names = ("pad_token", "eos_token", "unk_token")
    special = {name: _token(config.get(name)) for name in names if config.get(name)}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)


def save_checkpoint(
    target: Path,
    components: dict[str, Any],
    scheduler: FlowMatchPairScheduler,
    tokenizer_folder: Path,
    *,
    boundary_ratio: float,
    name: str | None = None,
) -> None:
    """Write a whole checkpoint into the folder ``target``; the original software reads it as one of its own.

    Args:
        target: made if absent.
        components: a module for each of ``layout.WEIGHTED``.
        scheduler: written as scheduler_config.json.
        tokenizer_folder: copied as it is.
        boundary_ratio: where the second video expert takes over, as a fraction of the timesteps.
        name: recorded as ``_name_or_path``, the only thing that tells checkpoints of one architecture apart.
    """
    target.mkdir(parents=True, exist_ok=True)
    for component, module in components.items():
        module.save_pretrained(target / component)
    scheduler.save_pretrained(target / "scheduler")
    shutil.copytree(tokenizer_folder, target / "tokenizer", dirs_exist_ok=True)
    index: dict[str, Any] = {
        "_class_name": "MOVA",
        "_diffusers_version": diffusers.__version__,
        **({"_name_or_path": name} if name else {}),
        **{component: list(pair) for component, pair in COMPONENTS.items()},
        "audio_vae_type": "dac",
        "boundary_ratio": boundary_ratio,
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (target / MODEL_INDEX).write_text(text, encoding="utf-8")


def _checked_tensors(
    files: list[Path], expected: dict[str, tuple[int, ...]], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        header = read_header(file)
        for key, entry in header.items():
            shape = tuple(entry["shape"])
            if key not in expected:
                raise CheckpointError(
                    f"{file}: tensor '{key}' has no place in the model of its config.json. Download both files again."
                )
            if shape != expected[key]:
                raise CheckpointError(
                    f"{file}: tensor '{key}' has shape {shape}, its config.json asks for {expected[key]}. "
                    "Download both files again."
                )
        try:
            with safe_open(file, framework="pt") as weights:
                for key in header:
                    tensor = weights.get_tensor(key)
                    yield key, tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} can't be read ({error}). Download this file again.") from error


def _tied(encoder: UMT5EncoderModel) -> UMT5EncoderModel:
    """The encoder reading ``shared.weight``: the released config says not tied, and the file has only this tensor."""
    encoder.encoder.embed_tokens = encoder.shared
    return encoder


def _token(entry: Any) -> str:
    return entry["content"] if isinstance(entry, dict) else str(entry)
