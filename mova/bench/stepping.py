"""A step of random weights on random inputs, and what decides whether two ways to compute it agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mova.bench.counted import EXPERT
from mova.bench.sizes import Inputs
from mova.joint import JointTransformer, Lend, TextContext, keep

Predictions = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Timed:
    """A step: seconds, the most bytes of the device, and what it gave (on the host)."""

    seconds: float
    peak: int
    result: Predictions


class Step:
    """A guided step of a size on random inputs; the texts are read when they are first needed."""

    def __init__(self, joint: JointTransformer, inputs: Inputs, prompts: list[Tensor]) -> None:
        self.joint, self.inputs, self.prompts = joint, inputs, prompts
        self.texts: list[TextContext] = []

    def read(self, lend: Lend = keep) -> None:
        """Read both prompts."""
        self.texts = [self.joint.read(prompt, expert=EXPERT, lend=lend) for prompt in self.prompts]

    def __call__(self, lend: Lend = keep) -> Predictions:
        branches = [(text, True) for text in self.texts]
        return self.joint.evaluate(*self.inputs.tensors, branches, video_fps=self.inputs.video_fps, lend=lend)

    def plain(self) -> Predictions:
        """The first branch as the formula has it."""
        with torch.no_grad():
            return [self.joint(*self.inputs.tensors, self.prompts[0], video_fps=self.inputs.video_fps)]


def random_weights(module: Any, device: torch.device, home: torch.device) -> Any:
    """``module``, on the meta device so far, at ``home``, with weights that keep the size of numbers.

    They are drawn on ``device``: a CPU takes minutes for as many.
    """
    module.to_empty(device=home)
    for name, parameter in module.named_parameters():
        drawn = torch.empty_like(parameter, device=device)
        if parameter.ndim > 1:
            drawn.normal_(std=max(1, parameter[0].numel()) ** -0.5)
        else:
            drawn.fill_(0.0 if name.endswith("bias") else 1.0)
        parameter.copy_(drawn)
    return module


def move(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Each to ``device``, one at a time."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device)


def close(found: Predictions, expected: Predictions, tolerance: float, device: torch.device | None = None) -> None:
    """ArithmeticError unless the root mean square of each difference is below ``tolerance`` of the numbers' own."""
    for mine, its in zip(found, expected, strict=True):
        for one, other in zip(mine, its, strict=True):
            there = one.double(), other.to(device or one.device).double()
            error = float((there[0] - there[1]).square().mean().sqrt() / there[1].square().mean().sqrt())
            if not error < tolerance:
                raise ArithmeticError(f"The result is off by {error:.2%}.")


def same(found: Predictions, expected: Predictions) -> None:
    """ArithmeticError unless both are the same to the last bit."""
    for mine, its in zip(found, expected, strict=True):
        for one, other in zip(mine, its, strict=True):
            if not torch.equal(one.cpu(), other):
                raise ArithmeticError("Results that should be the same to the last bit differ.")
