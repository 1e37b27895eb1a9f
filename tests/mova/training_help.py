"""What the tests of training share: samples of random latents, and a run over them that another process can start."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mova.checkpoint import load_scheduler
from mova.training.model import JointExperts, load_model
from mova.training.objective import NoiseLevels, Objective
from mova.training.recipe import Recipe
from mova.training.samples import Sample, Shape
from mova.training.trainer import Progress, Trainer

BOUNDARY_RATIO = 0.9
QUICK = Recipe(steps=6, learning_rate=1e-3, save_every=2, seed=3)


def sample(number: int, frames: int = 2) -> Sample:
    """A clip of 16 x 24 pixels that nobody ever saw."""
    generator = torch.Generator().manual_seed(number)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    text = torch.zeros(512, 64)
    text[:4] = random(4, 64)
    return Sample(
        f"clip{number}.mp4", random(16, frames, 2, 2), random(16, 12), random(20, frames, 2, 2), text, fps=12.0
    )


@dataclass(frozen=True)
class Few:
    """Some samples in memory."""

    samples: tuple[Sample, ...]
    identity: str = "few"

    @property
    def shapes(self) -> list[Shape]:
        return [tuple(sample.latents.shape) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def few(count: int = 3) -> Few:
    return Few(tuple(sample(number) for number in range(count)))


def levels(playground: Path, **shifts: float) -> NoiseLevels:
    return NoiseLevels.of(load_scheduler(playground), BOUNDARY_RATIO, **shifts)


def objective(playground: Path, recipe: Recipe = QUICK) -> Objective:
    chosen = {name: getattr(recipe, name) for name in ("text_dropout", "independent", "audio_weight")}
    return Objective(levels(playground), torch.zeros(512, 64), **chosen)


def with_dropout(model: JointExperts) -> JointExperts:
    """The model with what draws random numbers while it learns, as an adapter's dropout does."""
    for tower in (model.video_dit, model.video_dit_2):
        tower.text_embedding = nn.Sequential(*tower.text_embedding, nn.Dropout(0.1))
    return model


def trainer(playground: Path, run: Path, recipe: Recipe = QUICK, samples: Any = None, **more: Any) -> Trainer:
    model = more.pop("model", None) or with_dropout(load_model(playground))
    return Trainer(model, objective(playground, recipe), few() if samples is None else samples, recipe, run, **more)


def killed_after(step: int) -> Any:
    def told(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer(Path(sys.argv[1]), Path(sys.argv[2])).run(killed_after(5))
