"""Reads and writes MOVA checkpoints in the official layout, naming file, key and shape of whatever doesn't fit."""

from __future__ import annotations

import copy
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
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from mova.audio_dit import WanAudioModel
from mova.audio_vae import DAC
from mova.bridge import DualTowerConditionalBridge
from mova.layout import COMPONENTS, MODEL_INDEX, CheckpointError, Tensor, read_json, read_weights
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
Headers = dict[Path, dict[str, Tensor]]
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SHARD_SIZES = {"text_encoder": "5GB"}  # as the released checkpoints are cut; diffusers' own 10 GB for the others


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
            unknown = [key for key in config if key not in known and not key.startswith("_")]
            if unknown:
                logger.warning("%s: the engine doesn't know %s and goes without.", source, ", ".join(unknown))
            return kind(**{key: value for key, value in config.items() if key in known})
    except (
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        LookupError,
        RuntimeError,
        StrictDataclassError,
    ) as e:
        reason = " ".join(str(e).split())
        raise CheckpointError(f"{source}: {reason} Use the config.json that belongs to the weights.") from e


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
    weights = read_weights(folder)
    if name == "text_encoder":  # the same tensor as shared.weight, rarely in the file
        expected.pop("encoder.embed_tokens.weight", None)
        for header in weights.values():
            header.pop("encoder.embed_tokens.weight", None)
    _check_tensors(weights, expected)
    wanted = torch.float32 if name == "audio_vae" else dtype
    module.load_state_dict(dict(_tensors(weights, wanted)), strict=False, assign=True)
    if isinstance(module, UMT5EncoderModel):
        _tied(module)
    return module.eval().requires_grad_(False)


def as_stored(checkpoint: Path, name: str, module: nn.Module) -> nn.Module:
    """``module``, or a copy of it in the dtype that component ``name`` has on disk if that is another one."""
    (header, *_) = read_weights(checkpoint / name).values()
    dtype = DTYPES.get(next(iter(header.values())).dtype)
    if dtype is None or dtype is next(module.parameters()).dtype:
        return module
    return copy.deepcopy(module).to(dtype)


def load_scheduler(checkpoint: Path) -> FlowMatchPairScheduler:
    """The checkpoint's scheduler."""
    file = checkpoint / "scheduler" / "scheduler_config.json"
    try:
        scheduler: FlowMatchPairScheduler = FlowMatchPairScheduler.from_config(read_json(file))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{file}: {error} Download this file again.") from error
    return scheduler


def load_tokenizer(checkpoint: Path) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, exactly as its tokenizer.json describes it."""
    file, config_file = (checkpoint / "tokenizer" / name for name in ("tokenizer.json", "tokenizer_config.json"))
    read_json(file)
    config = read_json(config_file)
    special = {name: _token(config.get(name)) for name in ("pad_token", "eos_token", "unk_token")}
    if not all(special.values()):
        raise CheckpointError(
            f"{config_file} doesn't name pad_token, eos_token and unk_token. Download this file again."
        )
    try:
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(file)), **special)
    except Exception as error:  # what the tokenizers library raises has no class of its own
        raise CheckpointError(f"{file}: {error}. Download this file again.") from error


def save_checkpoint(
    target: Path,
    components: dict[str, Any],
    scheduler: FlowMatchPairScheduler,
    source: Path,
    *,
    boundary_ratio: float,
    name: str | None = None,
) -> None:
    """Write a whole checkpoint into the folder ``target``; the original software reads it as one of its own.

    Args:
        target: made if absent; what it holds of an earlier checkpoint is replaced.
        components: a module for each of ``layout.WEIGHTED``.
        scheduler: written as scheduler_config.json.
        source: a checkpoint whose tokenizer is copied, and whose text encoder's configuration if it has one (the
            library would write its own idea of it).
        boundary_ratio: where the second video expert takes over, as a fraction of the timesteps.
        name: recorded as ``_name_or_path``, the only thing that tells checkpoints of one architecture apart.

    Raises:
        CheckpointError: ``target`` is ``source``, whose files are in use.
    """
    if target.resolve() == source.resolve():
        raise CheckpointError(f"{target} is the checkpoint that is loaded. Choose another folder to save it into.")
    target.mkdir(parents=True, exist_ok=True)
    for component, module in components.items():
        for old in (target / component).glob("*.safetensors*"):  # shards that would outlive a smaller set
            old.unlink()
        module.save_pretrained(target / component, max_shard_size=SHARD_SIZES.get(component, "10GB"))
    scheduler.save_pretrained(target / "scheduler")
    shutil.copytree(source / "tokenizer", target / "tokenizer", dirs_exist_ok=True)
    _keep_text_config(source / "text_encoder" / "config.json", target / "text_encoder" / "config.json")
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


def _keep_text_config(source: Path, target: Path) -> None:
    """The text encoder's config.json as it was read, but for the dtype that its weights have now."""
    if source.exists():
        config, written = read_json(source), read_json(target)
        kept = {**config, **({"dtype": written["dtype"]} if "dtype" in config else {})}
        target.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_tensors(weights: Headers, expected: dict[str, tuple[int, ...]]) -> None:
    for file, header in weights.items():
        for key, tensor in header.items():
            if key not in expected:
                raise CheckpointError(
                    f"{file}: tensor '{key}' has no place in the model of its config.json. Download both files again."
                )
            if tensor.shape != expected[key]:
                raise CheckpointError(
                    f"{file}: tensor '{key}' has shape {tensor.shape}, its config.json asks for {expected[key]}. "
                    "Download both files again."
                )
    found = {key for header in weights.values() for key in header}
    for key, shape in expected.items():
        if key not in found:
            files = next(iter(weights)) if len(weights) == 1 else next(iter(weights)).parent
            raise CheckpointError(f"{files}: tensor '{key}' of shape {shape} is missing. Download it again.")


def _tensors(weights: Headers, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    for file, header in weights.items():
        try:
            with safe_open(file, framework="pt") as stored:
                for key in header:
                    tensor = stored.get_tensor(key)
                    yield key, tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} can't be read ({error}). Download this file again.") from error


def _tied(encoder: UMT5EncoderModel) -> UMT5EncoderModel:
    """The encoder reading ``shared.weight``: the released config says not tied, and the file has only this tensor."""
    encoder.encoder.embed_tokens = encoder.shared
    return encoder


def _token(entry: Any) -> str:
    return str((entry.get("content") if isinstance(entry, dict) else entry) or "")
