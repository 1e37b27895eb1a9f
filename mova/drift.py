"""How far a preset's clip is from the exact one: same prompt, seed and steps, picture and sound compared.

Rounding and skipping don't only blur: they may lead the same seed to another, equally good clip. Small figures say
that this is still the exact clip; large ones say that it is another one, not that it is a bad one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; these and the constants as in Wang et al., 2004
SSIM_CONSTANTS = (0.01**2, 0.03**2)  # for values of 0 to 1
MEL_BANDS, MEL_FFT, MEL_HOP = 80, 2048, 512
MEL_FLOOR = 1e-8  # of power: 80 dB below full scale, where nobody hears a difference


class Made(Protocol):
    """A clip as far as it is compared; ``mova.pipeline.Clip`` is one."""

    sample_rate: int

    @property
    def audio(self) -> np.ndarray:
        """Samples in -1 to 1."""

    def frames(self) -> Iterable[Tensor]:
        """Groups of pictures [n, H, W, 3] in 0 to 1."""


@dataclass(frozen=True)
class Drift:
    """A preset against exact.

    ``psnr`` is in dB, of the whole clip's pixels, infinite where they are equal; ``ssim`` is at most 1, of the
    luminance, the mean of all pictures; ``log_mel`` is in dB, 0 where the sounds are equal. ``seconds`` is what making
    the clip took, without decoding; ``exact_seconds`` is the exact clip's.
    """

    preset: str
    psnr: float
    ssim: float
    log_mel: float
    seconds: float
    exact_seconds: float

    def __str__(self) -> str:
        speed = self.exact_seconds / self.seconds if self.seconds else math.nan
        return (
            f"{self.preset}: PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.3f}, "
            f"log-mel {self.log_mel:.1f} dB, {speed:.2f} times as fast"
        )


def measure(make: Callable[[str], Made], presets: Iterable[str]) -> list[Drift]:
    """A row for each of ``presets``.

    Args:
        make: makes the clip by a preset's name, "exact" first; everything else must stay the same.
        presets: names; "exact" among them is made a second time, so that its row shows whether runs repeat.
    """
    exact, exact_seconds = _timed(make, "exact")
    pictures, sound = [_pixels(group) for group in exact.frames()], exact.audio
    rows = []
    for name in presets:
        clip, seconds = _timed(make, name)
        psnr, ssim = compare_pictures(pictures, clip.frames())
        log_mel = log_mel_distance(sound, clip.audio, exact.sample_rate)
        rows.append(Drift(name, psnr, ssim, log_mel, seconds, exact_seconds))
    return rows


def compare_pictures(exact: Iterable[Tensor], other: Iterable[Tensor]) -> tuple[float, float]:
    """PSNR in dB and mean SSIM of two clips, given as groups of pictures [n, H, W, 3], uint8 or in 0 to 1.

    Both are of 8-bit pixels, as they are encoded. ValueError if one has more pictures.
    """
    squares, pixels, similar, count = 0.0, 0, 0.0, 0
    for one, two in zip(exact, other, strict=True):
        first, second = (_pixels(group).double() / 255 for group in (one, two))
        squares += (first - second).square().sum().item()
        pixels += first.numel()
        similar += ssim(first, second).sum().item()
        count += first.shape[0]
    return (10 * math.log10(pixels / squares) if squares else math.inf), similar / count


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity [n] of pictures [n, H, W, 3] in 0 to 1, of their luminance (BT.601).

    Means and variances are of a Gaussian window; where a picture is smaller than the window, of the whole picture.
    """
    x, y = (_luminance(pictures) for pictures in (one, other))
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = SSIM_CONSTANTS
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similar / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean(dim=(1, 2, 3))


def log_mel_distance(one: np.ndarray, other: np.ndarray, sample_rate: int) -> float:
    """dB: the root mean square over 80 mel bands of the difference of two spectrograms, averaged over time."""
    difference = _log_mel(one, sample_rate) - _log_mel(other, sample_rate)
    return difference.square().mean(dim=0).sqrt().mean().item()


def _timed(make: Callable[[str], Made], preset: str) -> tuple[Made, float]:
    start = time.perf_counter()
    made = make(preset)
    return made, time.perf_counter() - start


def _pixels(pictures: Tensor) -> Tensor:
    return pictures if pictures.dtype is torch.uint8 else (pictures * 255).round().to(torch.uint8)


def _luminance(pictures: Tensor) -> Tensor:
    """[n, H, W, 3] to [n, 1, H, W]."""
    return (pictures @ pictures.new_tensor([0.299, 0.587, 0.114])).unsqueeze(1)


def _windowed(x: Tensor) -> Tensor:
    """Gaussian means of [n, 1, H, W] at each place where the window fits."""
    for axis, length in ((2, x.shape[2]), (3, x.shape[3])):
        offsets = torch.arange(min(SSIM_WINDOW, length), dtype=x.dtype)
        window = torch.exp(-((offsets - offsets.mean()) ** 2) / (2 * SSIM_SIGMA**2))
        shape = [1, 1, -1, 1] if axis == 2 else [1, 1, 1, -1]
        x = F.conv2d(x, (window / window.sum()).view(shape))
    return x


def _log_mel(sound: np.ndarray, sample_rate: int) -> Tensor:
    """[bands, time] in dB below a full-scale sine."""
    wave = torch.from_numpy(np.ascontiguousarray(sound)).double()
    window = torch.hann_window(MEL_FFT, dtype=wave.dtype)
    spectrum = torch.stft(wave, MEL_FFT, MEL_HOP, window=window, pad_mode="constant", return_complex=True)
    power = (spectrum.abs() / (window.sum() / 2)).square()
    return 10 * (_mel_bands(sample_rate) @ power).clamp(min=MEL_FLOOR).log10()


@cache
def _mel_bands(sample_rate: int) -> Tensor:
    """[bands, MEL_FFT // 2 + 1]: triangles, evenly spaced on the mel scale of 2595 log10(1 + f / 700), each up to 1."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, MEL_BANDS + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, sample_rate / 2, MEL_FFT // 2 + 1, dtype=torch.float64)
    low, centre, high = (edges[start : start + MEL_BANDS].unsqueeze(1) for start in range(3))
    return torch.minimum((frequencies - low) / (centre - low), (high - frequencies) / (high - centre)).clamp(min=0)
