"""The learning rate over a run: warm-up, a stretch at full rate, then down to a floor, or none of these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """Shares of the full learning rate.

    Args:
        shape: how it falls after warm-up and hold; "constant" doesn't.
        steps: optimizer steps of the run.
        warmup_steps: it rises from ``floor`` to 1 over so many steps.
        hold_steps: it stays at 1 for so many more before it falls.
        floor: the share that it starts from and ends at.
    """

    shape: Shape
    steps: int
    warmup_steps: int = 0
    hold_steps: int = 0
    floor: float = 0.01

    def share(self, step: int) -> float:
        """The share at ``step``, counted from 0; after the last step it stays as it is."""
        if step < self.warmup_steps:
            return self.floor + (1 - self.floor) * step / self.warmup_steps
        begin = self.warmup_steps + self.hold_steps
        if self.shape == "constant" or step <= begin:
            return 1.0
        gone = min(1.0, (step - begin) / max(1, self.steps - begin))
        fallen = gone if self.shape == "linear" else (1 - math.cos(math.pi * gone)) / 2
        return 1 - (1 - self.floor) * fallen
