"""A whole training: a folder of captioned clips to a trained checkpoint, with its losses on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mova.checkpoint import as_stored, load_scheduler, save_checkpoint
from mova.layout import WEIGHTED, read_model_index
from mova.lora_files import base_of
from mova.lora_peft import add_adapters, save_learnt
from mova.model import EXPERTS
from mova.placement import choose_device
from mova.training.clips import find_clips
from mova.training.encode import OnClip, encode_clips, no_report
from mova.training.model import JointExperts, load_model
from mova.training.objective import NoiseLevels, Objective
from mova.training.recipe import Recipe
from mova.training.trainer import OnProgress, Progress, Trainer, no_progress

CACHE, LOSSES, RESULT, LORA = "encoded", "losses.jsonl", "checkpoint", "lora.safetensors"


def train(
    clips: Path,
    checkpoint: Path,
    run: Path,
    recipe: Recipe,
    *,
    device: str = "auto",
    allow_silent: bool = False,
    trigger_words: tuple[str, ...] = (),
    on_clip: OnClip = no_report,
    on_progress: OnProgress = no_progress,
) -> Path:
    """Train ``checkpoint`` on the folder ``clips``.

    Returns:
        The new checkpoint, ``run`` / "checkpoint", or with a rank in the recipe ``run`` / "lora.safetensors", which
        keeps ``trigger_words``.

    Goes on from the last state in ``run``. Losses are in its losses.jsonl, a line a step; encoded clips in "encoded".

    Raises:
        ClipError, TrainingError, CheckpointError: see ``find_clips``, ``encode_clips`` and ``Trainer``.
    """
    where = choose_device(device)
    ratio = read_model_index(checkpoint)["boundary_ratio"]
    found = find_clips(clips)
    samples = encode_clips(found, checkpoint, run / CACHE, device=where, allow_silent=allow_silent, on_clip=on_clip)
    levels = NoiseLevels.of(
        load_scheduler(checkpoint), ratio, video_shift=recipe.video_shift, audio_shift=recipe.audio_shift
    )
    model = learner(checkpoint, recipe)
    trainer = Trainer(model, objective_of(recipe, levels, samples.empty_prompt), samples, recipe, run, device=where)
    log = LossLog(run / LOSSES, trainer.step)

    def told(progress: Progress) -> None:
        log(progress)
        on_progress(progress)

    trainer.run(told)
    adopt(model, trainer.weights())
    if recipe.rank is None:
        return export(model, checkpoint, run / RESULT)
    save_learnt(run / LORA, dict(model.named_children()), base_of(checkpoint), trigger_words)
    return run / LORA


def learner(checkpoint: Path, recipe: Recipe) -> JointExperts:
    """The model of ``checkpoint``, all of it to learn in float32, or as stored with the recipe's adapters."""
    if recipe.rank is None:
        return load_model(checkpoint)
    model = load_model(checkpoint, dtype=None, trainable=False)
    torch.manual_seed(recipe.seed)
    alpha = recipe.rank if recipe.alpha is None else recipe.alpha
    components = {name: part for name, part in model.named_children() if name not in set(EXPERTS) - set(recipe.experts)}
    add_adapters(components, rank=recipe.rank, alpha=alpha, dropout=recipe.dropout)
    return model


@torch.no_grad()
def adopt(model: JointExperts, weights: Mapping[str, Tensor]) -> None:
    """Let ``weights``, by the names of its parameters, be the model's."""
    parameters = dict(model.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)


def objective_of(recipe: Recipe, levels: NoiseLevels, empty_prompt: Tensor) -> Objective:
    """The objective with the recipe's numbers."""
    return Objective(levels, empty_prompt, recipe.text_dropout, recipe.independent, recipe.audio_weight)


def export(model: JointExperts, source: Path, target: Path) -> Path:
    """The checkpoint ``source`` with the weights of ``model`` instead of its own, whole at ``target``.

    Written in the dtypes of ``source``; what stood at ``target`` is replaced once the new one is there.
    """
    trained = {name: as_stored(source, name, part.cpu()) for name, part in model.named_children()}
    index = read_model_index(source)
    unfinished = target.with_name(f"{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in WEIGHTED:
        if name not in trained:
            shutil.copytree(source / name, unfinished / name)
    scheduler, ratio = load_scheduler(source), index["boundary_ratio"]
    save_checkpoint(unfinished, trained, scheduler, source, boundary_ratio=ratio, name=index.get("_name_or_path"))
    shutil.rmtree(target, ignore_errors=True)
    return unfinished.replace(target)


class LossLog:
    """A file with a line of JSON for every step; what lies beyond ``step``, where the run goes on, is dropped."""

    def __init__(self, file: Path, step: int) -> None:
        self._file = file
        kept = [line for line in _lines(file) if line["step"] <= step]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")

    def __call__(self, progress: Progress) -> None:
        """Append the step."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(asdict(progress))}\n")


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    """The whole lines of ``file``; a run that was killed may have left half a one at its end."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
