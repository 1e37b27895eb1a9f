"""What a model's folder holds, and what keeps it from being used: read from its small files, without any weights."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.models import Ability

# Model types that take pictures the way Qwen3-VL does: its placeholders, its image processor.
SEEING = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
NOT_FROM_TEXT = re.compile(r"Img2Img|Inpaint|Upscale|ControlNet|Edit|Prior|Video|[TI]2V|Audio|Wan|LTX|MOVA|AnimateDiff")
PACKAGES = {
    Ability.TEXT: ("torch", "transformers", "accelerate"),
    Ability.VISION: ("torch", "transformers", "accelerate"),
    Ability.IMAGE: ("torch", "transformers", "diffusers"),
}
WEIGHTS = ("model", "pytorch_model", "diffusion_pytorch_model")  # how the names of weight files begin
SHARD = re.compile(r"-\d{5}-of-\d{5}")
POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
LONGEST_CLIP = 300  # characters: CLIP reads 77 tokens, of about four characters each in English, and drops the rest


def folder_of(model: str) -> Path:
    """The folder that a choice names."""
    return Path(model).expanduser() if model.startswith("~/") else Path(model)


def name_of(folder: Path) -> str:
    """What its makers call the model: the folder's name, or the repository's in a cache of the Hugging Face Hub."""
    whole = folder.resolve()
    return next((part.split("--")[-1] for part in whole.parts if part.startswith("models--")), whole.name)


def problem(folder: Path, ability: Ability) -> str | None:
    """What keeps the model of that folder from being used for this, in a sentence; None if nothing is seen."""
    try:
        return _problem(folder, ability)
    except OSError as error:
        return f"{folder} can't be read: {error.strerror}."


def is_seeing(folder: Path) -> bool:
    """Whether it holds a model that takes pictures."""
    return (_json(folder / "config.json") or {}).get("model_type") in SEEING


def chat_template(folder: Path) -> str | None:
    """How the model is told who says what; each of the three files has been the place for it."""
    bare = folder / "chat_template.jinja"
    if bare.is_file():
        return bare.read_text(encoding="utf-8", errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if template := (_json(folder / name) or {}).get("chat_template"):
            return _default(template)
    return None


def longest_prompt(folder: Path) -> int | None:
    """The characters that a painter reads, where CLIP is all that it reads with; None: as many as one likes."""
    readers = [kind for name, kind in _parts(folder).items() if name.startswith("text_encoder")]
    return LONGEST_CLIP if readers and all(kind.startswith("CLIPText") for kind in readers) else None


def variant(folder: Path) -> str | None:
    """ "fp16" where a part of a painter is there in half precision alone."""
    parts = [_sets(folder / name) for name in _parts(folder) if (folder / name / "config.json").is_file()]
    halves = [[any(".fp16." in file.name for file in files) for files in sets if not _lacking(files)] for sets in parts]
    return "fp16" if any(half and all(half) for half in halves) else None


def _problem(folder: Path, ability: Ability) -> str | None:
    if not folder.is_dir():
        return f"There is no folder {folder}: a local model is named by its folder, as in local:/models/Qwen3-VL-8B."
    index, config = folder / "model_index.json", folder / "config.json"
    if not index.is_file() and not config.is_file():
        return (
            f"{folder} holds no model: it has neither a config.json (transformers) nor a model_index.json (diffusers)."
        )
    described = index if index.is_file() else config
    found = _json(described)
    if found is None:
        return f"{described} can't be read: it isn't the description of a model."
    unfit = _unfit_painter(folder, found, ability) if described is index else _unfit_writer(folder, found, ability)
    return unfit or _no_packages(ability) or _no_weights(folder, described is index)


def _unfit_painter(folder: Path, index: dict[str, Any], ability: Ability) -> str | None:
    name = index.get("_class_name")
    if ability is not Ability.IMAGE:
        return f"{folder} holds a model that paints ({name}), and this takes one that writes."
    if not isinstance(name, str):
        return f"{folder} needs code of its own, which the studio doesn't run."
    return f"{folder} holds {name}, which paints no pictures from text alone." if NOT_FROM_TEXT.search(name) else None


def _unfit_writer(folder: Path, config: dict[str, Any], ability: Ability) -> str | None:
    kind = str(config.get("model_type", ""))
    name = next(iter(config.get("architectures") or []), kind)
    if ability is Ability.IMAGE:
        return f"{folder} holds {name}, which paints no pictures: choose the folder of a diffusers pipeline."
    if ability is Ability.VISION and kind not in SEEING:
        return f"{folder} holds {name}, which can't be shown pictures here: choose a folder of Qwen3-VL."
    if kind not in SEEING and not name.endswith(("ForCausalLM", "LMHeadModel")):
        return f"{folder} holds {name}, which doesn't write text."
    if chat_template(folder) is None:
        return f"{folder} has no chat template: choose a model that was tuned to follow instructions."
    return None


def _no_packages(ability: Ability) -> str | None:
    absent = [name for name in PACKAGES[ability] if importlib.util.find_spec(name) is None]
    return f"Models in folders need packages that aren't installed: {', '.join(absent)}." if absent else None


def _no_weights(folder: Path, painter: bool) -> str | None:
    names = [name for name in _parts(folder) if (folder / name / "config.json").is_file()] if painter else ["."]
    absent = [name for name in _parts(folder) if not (folder / name).is_dir()] if painter else []
    if absent:
        return f"{folder} is not complete: it has no folder {absent[0]}."
    for part in (folder / name for name in names):
        lacking = [_lacking(files) for files in _sets(part)]
        if not lacking:
            return f"{part} has no weights."
        if all(lacking):
            return f"{part} is not complete: {lacking[0]}."
    return None


def _parts(folder: Path) -> dict[str, str]:
    """The parts of a painter that it has a folder for, each with its class."""
    index = _json(folder / "model_index.json") or {}
    pairs = {name: pair for name, pair in index.items() if isinstance(pair, list) and len(pair) == 2}
    return {name: str(pair[1]) for name, pair in pairs.items() if all(pair) and not name.startswith("_")}


def _sets(folder: Path) -> list[list[Path]]:
    """The files of each set of weights there is: shards with an index, or one file; a folder may have several sets."""
    sets = []
    for file in sorted(folder.glob("*.index*.json"), reverse=True):  # safetensors before bin
        shards = (_json(file) or {}).get("weight_map") or {}
        sets.append([folder / name for name in sorted(set(shards.values()))])
    return [files for files in sets if files] + [[file] for file in _single(folder)]


def _single(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        named = file.name.split(".")[0] in WEIGHTS and not SHARD.search(file.name)
        if named and file.suffix in (".safetensors", ".bin"):
            yield file


def _lacking(files: list[Path]) -> str | None:
    """What is wrong with a set of weights, seen from outside."""
    for file in files:
        if not file.is_file() or file.stat().st_size == 0:
            return f"{file.name} is missing"
        if file.stat().st_size < 1024 and file.read_bytes().startswith(POINTER):
            return f"{file.name} was not fetched yet (git lfs pull)"
    return None


def _default(template: Any) -> str | None:
    """A template, or that named ``default`` of several."""
    if isinstance(template, str):
        return template
    return next((each["template"] for each in template if each.get("name") == "default"), None)


def _json(file: Path) -> dict[str, Any] | None:
    """The object of a JSON file; None where there is no such file or it holds none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
