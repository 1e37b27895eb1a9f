"""Flow matching with a pair of timesteps, one for video and one for audio.

A sample is x = (1 - sigma) * data + sigma * noise; the model predicts noise - data; a step is
x + prediction * (sigma_to - sigma_from). The schedule is sigma = shift * s / (1 + (shift - 1) * s) over a line s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

Pairs = Callable[[], tuple[Tensor, Tensor]]  # -> timesteps [N, 2], sigmas [N, 2]


class FlowMatchPairScheduler(SchedulerMixin, ConfigMixin):
    """The schedule of a MOVA checkpoint; one line of timesteps for both modalities unless ``dual_sigma_shift`` is set.

    ``step_from_to`` looks sigmas up in the 1000-entry table that the constructor made, as the original does: exact
    when the steps divide 1000, else up to 1.7e-3 off.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_inference_steps: int = 100,
        num_train_timesteps: int = 1000,
        shift: float = 3.0,
        sigma_max: float = 1.0,
        sigma_min: float = 0.003 / 1.002,
        inverse_timesteps: bool = False,
        extra_one_step: bool = False,
        reverse_sigmas: bool = False,
        exponential_shift: bool = False,
        exponential_shift_mu: float | None = None,
        shift_terminal: float | None = None,
    ) -> None:
        self.shift = shift
        self.pairs: Pairs | None = None
        self.linear_timesteps_weights: Tensor | None = None
        self.set_timesteps(num_train_timesteps)
        self.train_timesteps, self.train_sigmas = self.timesteps, self.sigmas
        self.set_timesteps(num_inference_steps)

    def set_timesteps(
        self,
        num_inference_steps: int,
        denoising_strength: float = 1.0,
        *,
        training: bool = False,
        shift: float | None = None,
    ) -> None:
        """Lay out ``timesteps`` [N] and ``sigmas`` [N], float32 on the CPU.

        Args:
            num_inference_steps: N.
            denoising_strength: 1 starts from pure noise; less starts on the way.
            training: also make ``linear_timesteps_weights`` [N], a bell over the timesteps.
            shift: replaces the scheduler's shift from now on.
        """
        if shift is not None:
            self.shift = shift
        self.sigmas = self.schedule(num_inference_steps, denoising_strength, shift=self.shift)
        self.timesteps = self.sigmas * self.config["num_train_timesteps"]
        self.linear_timesteps_weights = _bell(self.timesteps) if training else None

    def schedule(self, steps: int, denoising_strength: float = 1.0, *, shift: float, mu: float | None = None) -> Tensor:
        """Sigmas [steps] of one modality under every option of the configuration; ``mu`` is the exponential shift."""
        config = self.config
        start = config["sigma_min"] + (config["sigma_max"] - config["sigma_min"]) * denoising_strength
        extra = 1 if config["extra_one_step"] else 0
        sigmas = torch.linspace(start, config["sigma_min"], steps + extra)[:steps]
        if config["inverse_timesteps"]:
            sigmas = sigmas.flip(0)
        if config["exponential_shift"]:
            grown = math.exp(_first(mu, config["exponential_shift_mu"], 0.0))
            sigmas = grown / (grown + (1 / sigmas - 1))
        else:
            sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        if config["shift_terminal"] is not None:
            rest = 1 - sigmas
            sigmas = 1 - rest / (rest[-1] / (1 - config["shift_terminal"]))
        return 1 - sigmas if config["reverse_sigmas"] else sigmas

    def get_pairs(self) -> tuple[Tensor, Tensor]:
        """Timesteps [N, 2] and sigmas [N, 2], columns video and audio."""
        if self.pairs is not None:
            return self.pairs()
        return torch.stack((self.timesteps,) * 2, dim=1), torch.stack((self.sigmas,) * 2, dim=1)

    def dual_sigma_shift(
        self,
        visual_shift: float | None = None,
        audio_shift: float | None = None,
        *,
        visual_denoising_strength: float = 1.0,
        audio_denoising_strength: float = 1.0,
        visual_mu: float | None = None,
        audio_mu: float | None = None,
    ) -> None:
        """Give video and audio a schedule each; holds for later ``set_timesteps`` too. None keeps the common shift."""

        def pairs() -> tuple[Tensor, Tensor]:
            steps = len(self.timesteps)
            video = self.schedule(
                steps, visual_denoising_strength, shift=_first(visual_shift, self.shift), mu=visual_mu
            )
            audio = self.schedule(steps, audio_denoising_strength, shift=_first(audio_shift, self.shift), mu=audio_mu)
            sigmas = torch.stack((video, audio), dim=1)
            return sigmas * self.config["num_train_timesteps"], sigmas

        self.pairs = pairs

    def single_sigma_shift(self) -> None:
        """Undo ``dual_sigma_shift``."""
        self.pairs = None

    def timestep_to_sigma(self, timestep: Tensor | float) -> Tensor:
        """Sigma of the nearest entry (the first of equals) in the constructor's table; [] or as ``timestep``."""
        wanted = torch.as_tensor(timestep, dtype=torch.float32, device="cpu")
        return self.train_sigmas[(self.train_timesteps - wanted.unsqueeze(-1)).abs().argmin(-1)]

    def step_from_to(
        self, model_output: Tensor, timestep_from: Tensor | float, timestep_to: Tensor | float | None, sample: Tensor
    ) -> Tensor:
        """``sample`` moved along ``model_output`` from one timestep to another; None is the end of the schedule."""
        sigma_from = self.timestep_to_sigma(timestep_from)
        sigma_to = self._end_sigma() if timestep_to is None else self.timestep_to_sigma(timestep_to)
        return sample + model_output * (sigma_to - sigma_from).item()

    def step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor) -> Tensor:
        """One step along the current schedule."""
        index = self._nearest(timestep)
        last = index + 1 >= len(self.sigmas)
        sigma_to = self._end_sigma() if last else self.sigmas[index + 1]
        return sample + model_output * (sigma_to - self.sigmas[index]).item()

    def add_noise(self, original_samples: Tensor, noise: Tensor, timestep: Tensor | float) -> Tensor:
        """(1 - sigma) * original + sigma * noise, sigma from the current schedule."""
        sigma = self.sigmas[self._nearest(timestep)].item()
        return (1 - sigma) * original_samples + sigma * noise

    def return_to_timestep(self, timestep: Tensor | float, sample: Tensor, sample_stabilised: Tensor) -> Tensor:
        """The prediction that leads from ``sample`` at ``timestep`` to ``sample_stabilised`` at sigma 0."""
        return (sample - sample_stabilised) / self.sigmas[self._nearest(timestep)].item()

    def _nearest(self, timestep: Tensor | float) -> int:
        wanted = torch.as_tensor(timestep, dtype=torch.float32, device="cpu")
        return int((self.timesteps - wanted).abs().argmin())

    def _end_sigma(self) -> Tensor:
        return torch.tensor(1.0 if self.config["inverse_timesteps"] or self.config["reverse_sigmas"] else 0.0)


def _bell(timesteps: Tensor) -> Tensor:
    """exp(-2 ((t - N/2) / N)^2), shifted to start at 0 and scaled to a mean of 1."""
    steps = len(timesteps)
    bell = torch.exp(-2 * ((timesteps - steps / 2) / steps) ** 2)
    shifted = bell - bell.min()
    return shifted * (steps / shifted.sum())


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
