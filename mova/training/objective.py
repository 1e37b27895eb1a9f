"""Joint flow matching: what the towers and the bridge are asked, and how far off their answer is.

A noisy sample is x = (1 - sigma) * data + sigma * noise, and the model predicts noise - data, for picture and sound
alike (Lipman et al., "Flow Matching for Generative Modeling"; MOVA's report, section 3). Every random number of a
sample comes from a generator of its own, so a run doesn't depend on how samples are gathered into batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mova.model import EXPERTS
from mova.scheduler import FlowMatchPairScheduler
from mova.training.samples import Batch


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """The table that noise levels are drawn from, columns video and audio.

    ``boundary`` is the share of its rows that belong to the first expert: those whose video timestep is at least
    ``boundary_ratio`` of the whole.
    """

    timesteps: Tensor  # [N, 2], 0 to 1000, falling
    sigmas: Tensor  # [N, 2]
    boundary: float

    @classmethod
    def of(
        cls,
        scheduler: FlowMatchPairScheduler,
        boundary_ratio: float,
        *,
        video_shift: float | None = None,
        audio_shift: float | None = None,
    ) -> NoiseLevels:
        """The levels of a checkpoint's ``scheduler``, which stays as it is; a shift of None is the scheduler's own."""
        table: FlowMatchPairScheduler = FlowMatchPairScheduler.from_config(scheduler.config)
        count = table.config["num_train_timesteps"]
        table.set_timesteps(count)
        if video_shift is not None or audio_shift is not None:
            table.dual_sigma_shift(video_shift, audio_shift)
        timesteps, sigmas = table.get_pairs()
        share = (timesteps[:, 0] >= boundary_ratio * count).double().mean().item()
        return cls(timesteps, sigmas, share)

    def span(self, expert: str) -> tuple[float, float]:
        """Where in the table, as fractions of its length, the rows of ``expert`` lie."""
        return (0.0, self.boundary) if expert == EXPERTS[0] else (self.boundary, 1.0)

    def row(self, span: tuple[float, float], generator: torch.Generator) -> int:
        """A row of ``span``, drawn uniformly."""
        low, high = span
        place = low + (high - low) * torch.rand(1, generator=generator).item()
        return min(int(place * len(self.sigmas)), len(self.sigmas) - 1)


@dataclass(frozen=True, eq=False)
class Question:
    """A batch made noisy, and the right answer."""

    noisy_video: Tensor  # [B, 16, T, h, w]
    noisy_audio: Tensor  # [B, C, N]
    timestep: Tensor  # [B], 0 to 1000, of the video
    audio_timestep: Tensor  # [B]
    prompt_embeds: Tensor  # [B, 512, text_dim], some of them the empty prompt's
    video_target: Tensor  # noise - data, as noisy_video
    audio_target: Tensor


@dataclass(frozen=True, eq=False)
class Losses:
    """Mean squared errors of each sample, [B] float32, of picture and sound apart."""

    video: Tensor
    audio: Tensor
    audio_weight: float = 1.0

    @property
    def total(self) -> Tensor:
        """What is to fall, []."""
        return self.video.mean() + self.audio_weight * self.audio.mean()


class Model(Protocol):
    """What is trained: ``JointExperts``, or the same wrapped for several GPUs."""

    def __call__(
        self,
        expert: str,
        latents: Tensor,
        audio_latents: Tensor,
        timestep: Tensor,
        audio_timestep: Tensor,
        prompt_embeds: Tensor,
        *,
        video_fps: float,
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Objective:
    """Asks the model and measures its answer.

    Args:
        levels: the noise levels of the checkpoint that is trained.
        empty_prompt: [512, text_dim], the embedding of "", which stands for a dropped text.
        text_dropout: share of the samples that lose their text, so that guidance has something to steer away from.
        independent: share of the samples whose sound has a noise level of its own, from the whole table. The others
            have one row of the table for both.
        audio_weight: of the sound's loss; the picture's counts once.
    """

    levels: NoiseLevels
    empty_prompt: Tensor
    text_dropout: float = 0.1
    independent: float = 0.0
    audio_weight: float = 1.0

    def __call__(self, model: Model, batch: Batch, expert: str, generators: Sequence[torch.Generator]) -> Losses:
        """The losses of ``batch`` on ``expert``, with gradients; ``generators`` as ``ask`` takes them."""
        question = self.ask(batch, expert, generators)
        video, audio = model(
            expert,
            torch.cat((question.noisy_video, batch.condition), dim=1),
            question.noisy_audio,
            question.timestep,
            question.audio_timestep,
            question.prompt_embeds,
            video_fps=batch.fps,
        )
        return Losses(
            _squared_error(video, question.video_target, batch.video_weight),
            _squared_error(audio, question.audio_target, batch.audio_weight),
            self.audio_weight,
        )

    def ask(self, batch: Batch, expert: str, generators: Sequence[torch.Generator]) -> Question:
        """``batch`` made noisy at levels of ``expert``.

        Args:
            batch: on the device of the model.
            expert: one of ``mova.model.EXPERTS``.
            generators: one a sample, on the CPU, so that a run is the same on every device. Each gives, in this
                order: the row, whether the sound has its own and which (if ``independent``), the video's noise, the
                audio's, whether the text is dropped (if ``text_dropout``).
        """
        drawn = [self._draw(batch, expert, generator) for generator in generators]
        device = batch.latents.device
        rows = torch.tensor([draw.rows for draw in drawn])  # [B, 2]
        timesteps = self.levels.timesteps.gather(0, rows).to(device)
        sigmas = self.levels.sigmas.gather(0, rows).to(device)
        video_noise = torch.stack([draw.video_noise for draw in drawn]).to(device)
        audio_noise = torch.stack([draw.audio_noise for draw in drawn]).to(device)
        dropped = torch.tensor([draw.dropped for draw in drawn], device=device).view(-1, 1, 1)
        return Question(
            noisy_video=_mixed(batch.latents, video_noise, sigmas[:, 0]),
            noisy_audio=_mixed(batch.audio_latents, audio_noise, sigmas[:, 1]),
            timestep=timesteps[:, 0],
            audio_timestep=timesteps[:, 1],
            prompt_embeds=torch.where(dropped, self.empty_prompt.to(batch.prompt_embeds), batch.prompt_embeds),
            video_target=video_noise - batch.latents,
            audio_target=audio_noise - batch.audio_latents,
        )

    def _draw(self, batch: Batch, expert: str, generator: torch.Generator) -> _Drawn:
        video_row = audio_row = self.levels.row(self.levels.span(expert), generator)
        if self.independent and _happens(self.independent, generator):
            audio_row = self.levels.row((0.0, 1.0), generator)
        video_noise = torch.randn(batch.latents.shape[1:], generator=generator)
        audio_noise = torch.randn(batch.audio_latents.shape[1:], generator=generator)
        dropped = self.text_dropout > 0 and _happens(self.text_dropout, generator)
        return _Drawn((video_row, audio_row), video_noise, audio_noise, dropped)


def sample_generator(seed: int, number: int) -> torch.Generator:
    """The generator of sample ``number``, counted from the beginning, in the run of ``seed``."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True, eq=False)
class _Drawn:
    rows: tuple[int, int]
    video_noise: Tensor
    audio_noise: Tensor
    dropped: bool


def _happens(probability: float, generator: torch.Generator) -> bool:
    return torch.rand(1, generator=generator).item() < probability


def _mixed(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    sigma = sigma.view(-1, *[1] * (data.ndim - 1))
    return (1 - sigma) * data + sigma * noise


def _squared_error(prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """[B]: the mean over everything but the batch, weighted where there are weights."""
    error = (prediction.float() - target).square()
    if weight is None:
        return error.flatten(1).mean(1)
    weight = weight.expand_as(error).flatten(1)
    return (error.flatten(1) * weight).sum(1) / weight.sum(1)
