"""`python -m mova bench`: one table of what was counted and, where there is a CUDA device, of what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import torch

from mova.bench.device import measured
from mova.bench.figures import Result, Trouble, lines, write_json
from mova.bench.structure import counted
from mova.lanes import CudaLane
from mova.released import RELEASED_360P


def results(options: argparse.Namespace) -> Iterator[Result]:
    """What ``options.part`` asks for: "counted", "measured" on a CUDA device if there is one, or "all" of it."""
    if options.part in ("all", "measured"):
        if torch.cuda.is_available():
            yield from measured(RELEASED_360P, torch.device(options.device), CudaLane, seconds=60 * options.minutes)
        else:
            yield Trouble("Measured on a CUDA device", "seconds, rates, memory", "There is no CUDA device here.")
    if options.part in ("all", "counted"):
        yield from counted(RELEASED_360P)


def report(found: Iterable[Result], options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table as they come; at the end, or when it is broken off, also as JSON in ``options.json``."""
    kept: list[Result] = []

    def keeping() -> Iterator[Result]:
        for result in found:
            kept.append(result)
            yield result

    try:
        yield from lines(keeping())
    finally:
        if options.json:
            write_json(kept, options.json)
