"""How far a clip is from the exact one: the formulas, and rows that say so."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from mova.drift import Drift, compare_pictures, log_mel_distance, measure, ssim


class Film:
    """A clip of noise: the same for everyone but for ``off``."""

    sample_rate = 48_000

    def __init__(self, off: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pictures = torch.rand(5, 24, 32, 3, generator=generator) * (1 - off) + off / 2
        self.audio = (torch.rand(9600, generator=generator).numpy() - 0.5) * (1 - off)

    def frames(self) -> Iterator[Tensor]:
        yield from self.pictures.split((1, 4))


def test_a_clip_doesn_t_drift_from_itself() -> None:
    (row,) = measure(lambda _name: Film(0.0), ["exact"])
    assert (row.preset, row.psnr, row.log_mel) == ("exact", math.inf, 0.0)
    assert row.ssim == pytest.approx(1.0)


def test_drift_grows_with_the_difference() -> None:
    offs = {"exact": 0.0, "light": 0.05, "fast": 0.2, "fastest": 0.5}
    rows = measure(lambda name: Film(offs[name]), ["light", "fast", "fastest"])
    assert [row.preset for row in rows] == ["light", "fast", "fastest"]
    assert [row.psnr for row in rows] == sorted((row.psnr for row in rows), reverse=True)
    assert [row.ssim for row in rows] == sorted((row.ssim for row in rows), reverse=True)
    assert [row.log_mel for row in rows] == sorted(row.log_mel for row in rows)
    assert "fast: PSNR" in str(rows[1])


def test_psnr_is_the_formula_s() -> None:
    one = torch.zeros(2, 16, 16, 3)
    psnr, _ = compare_pictures([one], [one + 0.1])
    assert psnr == pytest.approx(20 * math.log10(255 / round(25.5)), abs=1e-6)


def test_ssim_is_the_formula_s() -> None:
    flat, half = torch.full((1, 16, 16, 3), 0.2), torch.full((1, 16, 16, 3), 0.4)
    c1 = 0.01**2
    assert ssim(flat, half).item() == pytest.approx((2 * 0.2 * 0.4 + c1) / (0.2**2 + 0.4**2 + c1), abs=1e-5)
    noise = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(noise, 1 - noise).item() < -0.5
    assert ssim(noise[:, :5, :7], noise[:, :5, :7]).item() == pytest.approx(1.0)


def test_clips_of_different_length_are_not_compared() -> None:
    with pytest.raises(ValueError, match="argument"):
        compare_pictures([torch.zeros(1, 16, 16, 3)], [torch.zeros(1, 16, 16, 3)] * 2)


def test_half_the_level_is_six_decibels() -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 48_000)
    assert log_mel_distance(sound, sound / 2, 48_000) == pytest.approx(6.02, abs=0.01)
    assert log_mel_distance(sound, -sound, 48_000) == pytest.approx(0.0, abs=1e-9)
    assert log_mel_distance(sound * 1e-6, sound * 0, 48_000) == 0.0  # below what is heard


def test_a_row_says_how_much_faster_it_was() -> None:
    assert "2.00 times as fast" in str(Drift("fast", 30.0, 0.9, 1.5, seconds=2.0, exact_seconds=4.0))
