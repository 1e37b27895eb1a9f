import itertools
import math

import pytest
import torch

from mova.scheduler import FlowMatchPairScheduler


def released() -> FlowMatchPairScheduler:
    return FlowMatchPairScheduler(shift=5.0, sigma_min=0.0, extra_one_step=True)


@pytest.mark.parametrize("steps", [1, 4, 10, 20, 25, 50])
def test_the_released_schedule_is_its_closed_form(steps: int) -> None:
    scheduler = released()
    scheduler.set_timesteps(steps)
    s = torch.tensor([1 - k / steps for k in range(steps)], dtype=torch.float64)
    torch.testing.assert_close(scheduler.sigmas.double(), 5 * s / (1 + 4 * s), atol=1e-6, rtol=0)
    torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas * 1000)


def test_steps_walk_from_noise_to_data() -> None:
    scheduler, generator = released(), torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator)
    scheduler.set_timesteps(7)
    times = scheduler.get_pairs()[0][:, 0].tolist()
    sample = noise
    for before, after in itertools.pairwise([*times, None]):
        sample = scheduler.step_from_to(noise - data, before, after, sample)
    torch.testing.assert_close(sample, data, atol=1e-6, rtol=0)


def test_each_modality_follows_its_own_shift() -> None:
    scheduler = released()
    scheduler.dual_sigma_shift(5.0, 2.5)
    scheduler.set_timesteps(4)
    timesteps, sigmas = scheduler.get_pairs()
    assert torch.equal(timesteps[:, 0], scheduler.timesteps)
    s = torch.tensor([1, 0.75, 0.5, 0.25])
    torch.testing.assert_close(sigmas[:, 1], 2.5 * s / (1 + 1.5 * s))
    scheduler.single_sigma_shift()
    assert torch.equal(scheduler.get_pairs()[0][:, 1], scheduler.timesteps)


def test_a_shift_left_out_is_the_schedulers() -> None:
    scheduler = released()
    scheduler.set_timesteps(4)
    scheduler.dual_sigma_shift(audio_shift=2.0)
    assert torch.equal(scheduler.get_pairs()[0][:, 0], scheduler.timesteps)


@pytest.mark.parametrize(
    ("option", "check"),
    [
        ({"inverse_timesteps": True}, lambda plain, made: made[0] < made[-1]),
        ({"reverse_sigmas": True}, lambda plain, made: torch.allclose(made, 1 - plain)),
        ({"shift_terminal": 0.02}, lambda plain, made: math.isclose(made[-1], 0.02, abs_tol=1e-6)),
        ({"sigma_max": 0.8}, lambda plain, made: made[0] < plain[0]),
        ({"exponential_shift": True, "exponential_shift_mu": math.log(5)}, lambda plain, made: made.allclose(plain)),
        ({"exponential_shift": True, "exponential_shift_mu": 0.5}, lambda plain, made: (made < plain)[1:].all()),
    ],
)
def test_options(option: dict[str, float], check: object) -> None:
    plain, other = FlowMatchPairScheduler(shift=5.0), FlowMatchPairScheduler(shift=5.0, **option)
    plain.set_timesteps(6)
    other.set_timesteps(6)
    assert check(plain.sigmas, other.sigmas)


def test_sigmas_for_stepping_come_from_the_constructors_table() -> None:
    scheduler = released()
    scheduler.set_timesteps(4, shift=2.0)
    assert scheduler.timestep_to_sigma(scheduler.train_timesteps[17]) == scheduler.train_sigmas[17]
    assert scheduler.timestep_to_sigma(500.04) == scheduler.timestep_to_sigma(500.0)


def test_configuration_survives_a_save(tmp_path: object) -> None:
    scheduler = FlowMatchPairScheduler(shift=4.0, extra_one_step=True, shift_terminal=0.1)
    scheduler.save_pretrained(tmp_path)
    again = FlowMatchPairScheduler.from_pretrained(tmp_path)
    assert torch.equal(scheduler.sigmas, again.sigmas)


def test_training_weights_average_one() -> None:
    scheduler = released()
    scheduler.set_timesteps(1000, training=True)
    assert scheduler.linear_timesteps_weights is not None
    assert scheduler.linear_timesteps_weights.mean().item() == pytest.approx(1.0, abs=1e-5)
