"""A checkpoint with LoRAs in its weights, as a folder of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from mova.checkpoint import SHARD_SIZES, build_component, load_component
from mova.clip import OnStep, no_report
from mova.eightbit import FOLDER
from mova.layout import read_json, read_model_index, read_weights
from mova.lora import Changes, combined, merge, read_parts
from mova.lora_choice import LoraChoice
from mova.lora_files import LoraError, base_of

RECORD = "loras.json"  # what was merged, for people


def merge_checkpoint(
    checkpoint: Path, choices: Sequence[LoraChoice], target: Path, on_step: OnStep = no_report
) -> tuple[str, ...]:
    """Write ``checkpoint`` with LoRAs in its weights into the folder ``target``; the components that changed.

    What no LoRA changes is copied byte by byte, but for 8-bit weights, which are made again when wanted. The folder is
    there whole or not at all. One component is in memory at a time.

    Args:
        checkpoint: a folder in the official layout.
        choices: files and strengths.
        target: absent, or an empty folder.
        on_step: hears ("merging", components written, components).

    Raises:
        LoraError: a LoRA can't be used, ``target`` holds something, the disk has too little room.
        CheckpointError: a file of the checkpoint can't be used.
    """
    read_model_index(checkpoint)
    parts = read_parts(choices, base_of(checkpoint))
    changes = combined(parts, lambda name: shapes_of(checkpoint, name))
    if not changes:
        raise LoraError("These LoRAs change nothing at these strengths: the checkpoint would be the same.")
    _refuse_without_room(checkpoint, target)
    half = target.with_name(f".{target.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    try:
        shutil.copytree(
            checkpoint, half, ignore=lambda folder, names: _left_out(checkpoint, Path(folder), names, changes)
        )
        for done, name in enumerate(changes):
            on_step("merging", done, len(changes))
            _write(checkpoint, name, changes, half)
        record = [{"file": choice.file.name, "strengths": vars(choice.strengths)} for choice in choices]
        (half / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        half.replace(target)
    except OSError as error:
        raise LoraError(f"{target} can't be written ({error}). Give its folder room and the right to write.") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    on_step("merging", len(changes), len(changes))
    return tuple(changes)


def shapes_of(checkpoint: Path, name: str) -> nn.Module:
    """Component ``name`` of ``checkpoint`` without weights: names and shapes, on the meta device."""
    return build_component(name, read_json(checkpoint / name / "config.json"), checkpoint / name / "config.json")


def _refuse_without_room(checkpoint: Path, target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LoraError(f"{target} is there already. Choose another folder, or empty it.")
    if not target.parent.is_dir():
        raise LoraError(f"{target.parent} is no folder. Make it first.")
    needed = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise LoraError(
            f"A merged checkpoint takes {needed / 1e9:.1f} GB, {target.parent} has {free / 1e9:.1f} GB free. "
            "Make room, or choose another folder."
        )


def _left_out(checkpoint: Path, folder: Path, names: list[str], changes: Changes) -> list[str]:
    """What isn't copied of ``folder``: 8-bit weights, and weights that are written anew."""
    if folder == checkpoint:
        return [name for name in names if name in (FOLDER, RECORD)]
    return [name for name in names if folder.name in changes and ".safetensors" in name]


def _write(checkpoint: Path, name: str, changes: Changes, half: Path) -> None:
    module: nn.Module = load_component(checkpoint, name)
    merge(module, changes[name])
    module.save_pretrained(half / name, max_shard_size=SHARD_SIZES.get(name, "10GB"))  # type: ignore[operator]
    read_weights(half / name)  # whole
