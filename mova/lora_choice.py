"""Which LoRAs a clip is made with, and how strongly: ``FILE``, ``FILE:0.8`` or ``FILE:1/0.5``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Strengths:
    """How much of a LoRA there is in the high-noise expert, the low-noise one, and what both share: sound and bridge.

    1 is as it was trained, 0 is without. ValueError for what is no number.
    """

    high: float = 1.0
    low: float = 1.0
    shared: float = 1.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.high, self.low, self.shared))):
            raise ValueError(f"A LoRA's strength must be a number such as 0.8, not {self}.")

    @classmethod
    def alike(cls, strength: float) -> Strengths:
        """The same everywhere."""
        return cls(strength, strength, strength)

    def of(self, component: str) -> float:
        """The strength in a component."""
        return {"video_dit": self.high, "video_dit_2": self.low}.get(component, self.shared)


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA's file and its strengths."""

    file: Path
    strengths: Strengths = field(default_factory=Strengths)


def parse_choice(text: str) -> LoraChoice:
    """``FILE``, or ``FILE:`` and one strength for all, two for high- and low-noise expert, or three.

    The third is for what both experts share, sound and bridge; without it the stronger of the two holds there.

    >>> parse_choice("rain.safetensors:0.5/0").strengths
    Strengths(high=0.5, low=0.0, shared=0.5)
    """
    name, colon, told = text.rpartition(":")
    try:
        numbers = [float(number) for number in told.split("/")]
    except ValueError:
        return LoraChoice(Path(text))  # a colon of the file's name, or none
    if not colon or not name:
        return LoraChoice(Path(text))
    if len(numbers) == 1:
        return LoraChoice(Path(name), Strengths.alike(*numbers))
    if len(numbers) > 3:
        raise ValueError(f"'{told}' are {len(numbers)} strengths; give one, high/low, or high/low/shared.")
    high, low, shared = numbers if len(numbers) == 3 else (*numbers, max(numbers, key=abs))
    return LoraChoice(Path(name), Strengths(high, low, shared))
