"""The named trades of exactness for memory and speed: what each changes, why that is approximate, what a device lacks.

Without torch: a plan and a page can talk about presets before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

Weights = Literal["stored", "fp8", "int8"]
Matmul = Literal["plain", "w8a8"]
Capability = tuple[int, int]

FP8_CAPABILITY: Capability = (8, 9)  # Ada, Hopper and later multiply float8
INT8_CAPABILITY: Capability = (8, 0)  # Ampere and later multiply int8 fast enough to be worth it
SAGE_CAPABILITY: Capability = (8, 0)
SAGE_VERSION = (2, 1, 1)
CACHE_ROWS = 2048  # video tokens, evenly spread, that tell the step cache how much the first layer changed


@dataclass(frozen=True)
class Note:
    """A sentence, and the code under which translations of it are kept; ``figures`` are what it is told with."""

    code: str
    text: str
    figures: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Preset:
    """What a generation may do approximately; the defaults are exact.

    Args:
        name: what it is chosen by.
        weights: "stored", or the kind that the video experts' and the bridge's matrices are quantised to.
        matmul: "w8a8" multiplies in 8 bits too, "plain" in the activations' own precision.
        sage: SageAttention for the video's self-attention.
        guided_share: the first part of the schedule, 0 to 1, that is guided; after it the prompt alone is evaluated.
        cache: how much the first layer may change, relatively, since the last whole step for the rest to be reused.
    """

    name: str
    weights: Weights = "stored"
    matmul: Matmul = "plain"
    sage: bool = False
    guided_share: float = 1.0
    cache: float | None = None

    def __post_init__(self) -> None:
        if self.matmul == "w8a8" and self.weights == "stored":
            raise ValueError("Multiplying in 8 bits needs weights in 8 bits: set weights to 'fp8' or 'int8'.")
        if not 0 <= self.guided_share <= 1:
            raise ValueError(f"guided_share {self.guided_share} is outside 0 to 1.")
        if self.cache is not None and self.cache < 0:
            raise ValueError(f"cache {self.cache} is negative; None switches the step cache off.")

    @property
    def exact(self) -> bool:
        """Whether a clip made with it is the one that the stored weights give, computed in full."""
        return self == Preset(self.name)

    @property
    def changes(self) -> tuple[Note, ...]:
        """What it changes and why the result differs, a sentence each; empty if nothing."""
        return tuple(_changes(self))


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("exact"),
        # Of the two kinds of 8 bits, int8 keeps a matrix three times as close: 1 % of a row's spread against 3 %.
        Preset("light", weights="int8"),
        # Where activations are rounded too, float8 bears the outliers that they have and weights don't.
        Preset("fast", weights="fp8", matmul="w8a8", sage=True, guided_share=0.5),
        Preset("fastest", weights="fp8", matmul="w8a8", sage=True, guided_share=0.5, cache=0.08),
    )
}


def preset_named(name: str) -> Preset:
    """The preset of that name. ValueError names those that there are."""
    if name not in PRESETS:
        raise ValueError(f"'{name}' is no preset; choose {', '.join(PRESETS)}.")
    return PRESETS[name]


def sage_installed() -> bool:
    """Whether a SageAttention that diffusers knows how to call is installed; nothing is imported."""
    try:
        found = version("sageattention")
    except PackageNotFoundError:
        return False
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    return find_spec("sageattention") is not None and numbers >= SAGE_VERSION


def fitted(preset: Preset, capability: Capability | None, *, sage: bool) -> Preset:
    """``preset`` as a device can run it: float8 becomes int8, and what is missing is left out.

    Args:
        preset: what was chosen.
        capability: of the CUDA device, such as (8, 9); None computes on the CPU.
        sage: whether SageAttention is installed, see ``sage_installed``.
    """
    weights, matmul = preset.weights, preset.matmul
    if matmul == "w8a8" and weights == "fp8" and not _multiplies_fp8(capability):
        weights = "int8"
    if matmul == "w8a8" and weights == "int8" and not _multiplies_int8(capability):
        matmul = "plain"
    return replace(
        preset, weights=weights, matmul=matmul, sage=preset.sage and not _sage_missing(capability, installed=sage)
    )


def missing(preset: Preset, capability: Capability | None, *, sage: bool) -> tuple[Note, ...]:
    """What of ``preset`` this device can't do, and what is done instead; arguments as ``fitted``."""
    notes = []
    able = fitted(preset, capability, sage=sage)
    if able.matmul != preset.matmul:
        notes.append(
            Note(
                "no-8-bit-products",
                f"This card ({_told(capability)}) doesn't multiply 8-bit numbers faster; the weights are kept in "
                "8 bits, which saves memory, and multiplied in full precision. Cards of capability 8.0 or more do.",
                (("capability", _told(capability)),),
            )
        )
    elif able.weights != preset.weights:
        notes.append(
            Note(
                "int8-for-fp8",
                f"float8 products need compute capability 8.9 (Ada, Hopper) and this is {_told(capability)}; "
                "int8 is used instead.",
                (("capability", _told(capability)),),
            )
        )
    if preset.sage and (lack := _sage_missing(capability, installed=sage)):
        notes.append(lack)
    return tuple(notes)


def unavailable(preset: Preset, capability: Capability | None, *, sage: bool) -> Note | None:
    """Why ``preset`` isn't worth choosing on a device, None if it is; arguments as ``fitted``.

    A preset of which nothing is left but what a gentler one gives as well is not offered.
    """
    able = fitted(preset, capability, sage=sage)
    for other in PRESETS.values():
        if other.name == preset.name:
            return None
        if replace(fitted(other, capability, sage=sage), name=preset.name) == able:
            return Note(
                "same-preset",
                f"On this device it would be the same as '{other.name}'; choose that.",
                (("other", other.name),),
            )
    return None


def cache_bytes(
    video_tokens: int, video_dim: int, audio_tokens: int, audio_dim: int, layers: int, itemsize: int
) -> int:
    """Bytes that the step cache keeps on the device for one branch of the guidance.

    What the layers after the first added to the video, whole; some of the video's tokens before and after the first,
    of this step and the last whole one; and what the video told the audio at each of ``layers`` (those with a bridge).
    """
    video = (video_tokens + 4 * min(video_tokens, CACHE_ROWS)) * video_dim
    return itemsize * (video + layers * audio_tokens * audio_dim)


def _changes(preset: Preset) -> Iterator[Note]:
    if preset.weights != "stored":
        kind = "float8" if preset.weights == "fp8" else "int8"
        yield Note(
            f"weights-{preset.weights}",
            f"The matrices of the video experts, and of the bridge towards them, are kept as {kind} with a scale a "
            "row: half the memory of bfloat16, each weight rounded to the nearest of 255 values or fewer. Embeddings, "
            "heads, norms, modulation, the audio tower and all that it hears stay as stored.",
        )
    if preset.matmul == "w8a8":
        yield Note(
            "w8a8",
            "Products of these matrices are computed in 8 bits, so activations are rounded too, with a scale a token: "
            "faster, where the device has units for it.",
        )
    if preset.sage:
        yield Note(
            "sage",
            "The video's self-attention runs on SageAttention, which rounds queries and keys to 8 bits: faster, "
            "where it is installed.",
        )
    if preset.guided_share < 1:
        share = f"{preset.guided_share:.0%}"
        yield Note(
            "guided-share",
            f"Only the first {share} of the steps are guided away from the negative prompt, where the composition is "
            "decided; the others evaluate the prompt alone, at half the work. Contrast and fine detail may be softer.",
            (("share", share),),
        )
    if preset.cache is not None:
        yield Note(
            "cache",
            f"A step whose first layer changed by less than {preset.cache:.0%} since the last whole one reuses that "
            "one's picture update. The audio tower is computed at every step. Fast or sudden motion suffers first.",
            (("threshold", f"{preset.cache:.0%}"),),
        )


def _multiplies_fp8(capability: Capability | None) -> bool:
    return capability is not None and capability >= FP8_CAPABILITY


def _multiplies_int8(capability: Capability | None) -> bool:
    return capability is None or capability >= INT8_CAPABILITY  # CPUs: what is there is tried when weights are loaded


def _sage_missing(capability: Capability | None, *, installed: bool) -> Note | None:
    if capability is None or capability < SAGE_CAPABILITY:
        return Note(
            "sage-needs-card",
            f"SageAttention needs a CUDA card of compute capability 8.0 or more and this is {_told(capability)}; "
            "the exact attention kernel is used.",
            (("capability", _told(capability)),),
        )
    if not installed:
        return Note(
            "sage-not-installed",
            "SageAttention 2.1.1 or later isn't installed (github.com/thu-ml/SageAttention says how); the exact "
            "attention kernel is used.",
        )
    return None


def _told(capability: Capability | None) -> str:
    return "the CPU" if capability is None else f"{capability[0]}.{capability[1]}"
