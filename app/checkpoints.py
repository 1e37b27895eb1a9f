"""Which checkpoints the studio can offer: the one it was given, those in the data folder, and the playground last."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mova.layout import MODEL_INDEX, PLAYGROUND_NAME, CheckpointInfo, inspect_checkpoint


def checkpoint_folder(data: Path) -> Path:
    """Where a creator puts checkpoints for the studio to find."""
    return data / "checkpoints"


def playground_path(data: Path) -> Path:
    """Where the playground lies, or will lie once it is first needed."""
    return checkpoint_folder(data) / PLAYGROUND_NAME


def find_checkpoints(data: Path, named: Path | None = None) -> list[CheckpointInfo]:
    """Every checkpoint there is, never none; one that can't be used says why in its ``problems``.

    ``named`` is a checkpoint or a folder of checkpoints; it is listed even if it is neither, so that a page can say so.
    """
    playground = playground_path(data)
    folders = [*_named(named), *_within(checkpoint_folder(data))]
    found = [inspect_checkpoint(folder) for folder in dict.fromkeys(folders) if folder != playground]
    return [*found, _playground(playground)]


def on_servers(model: str) -> CheckpointInfo:
    """A model that servers have, as if it were a checkpoint here: its sizes and its usual settings."""
    return CheckpointInfo(Path(model), model, (), ())


def identify(folder: Path) -> str:
    """A short name for the weights in a folder, from the names and sizes of its files and its model_index.json.

    The same for a copy of them under another name; nothing of the weights is read.
    """
    digest = hashlib.sha256((folder / MODEL_INDEX).read_bytes())
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _named(path: Path | None) -> list[Path]:
    if path is None:
        return []
    return [path] if (path / MODEL_INDEX).exists() else _within(path) or [path]


def _within(folder: Path) -> list[Path]:
    return sorted(index.parent for index in folder.glob(f"*/{MODEL_INDEX}"))


def _playground(path: Path) -> CheckpointInfo:
    if (path / MODEL_INDEX).exists():
        return inspect_checkpoint(path)
    return CheckpointInfo(path, PLAYGROUND_NAME, (), ())  # the engine makes it when it is first used
