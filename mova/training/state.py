"""Saved states of a run: what learns, the optimizer, random numbers, the place in the data; each one whole file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mova.training.errors import TrainingError

logger = logging.getLogger(__name__)

FORMAT = "mova-training-state-1"
PATTERN = "state-*.safetensors"
UNFINISHED = ".part"
WEIGHTS, OPTIMIZER, EMA, RANDOM = "weights/", "optimizer/", "ema/", "random/"


@dataclass(frozen=True, eq=False)
class State:
    """A run after ``step`` optimizer steps. ``run`` is what it must have in common with whoever takes it up."""

    step: int
    run: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``, without it."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """The folder of a run for one process at a time; what one that was killed left unfinished is removed.

    Raises:
        TrainingError: another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            for rest in folder.glob(f"*{UNFINISHED}"):
                rest.unlink(missing_ok=True)
            yield
    except Timeout as error:
        raise TrainingError(
            f"Another training is at work in {folder}. Wait for it, or choose another folder."
        ) from error


def save_state(folder: Path, state: State, *, keep: int) -> Path:
    """Write ``state`` into ``folder`` and let all but the last ``keep`` go.

    The file appears whole and on the disk, or not at all; the earlier ones stay until it is there.

    Raises:
        TrainingError: the disk refuses, most often because it is full; what was there before is there still.
    """
    target = folder / f"state-{state.step:08}.safetensors"
    header = {"format": FORMAT, "step": str(state.step), "run": json.dumps(state.run, sort_keys=True)}
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(target, contents, header)
    for old in sorted(folder.glob(PATTERN))[:-keep]:
        old.unlink(missing_ok=True)
    return target


def last_state(folder: Path) -> State | None:
    """The latest state in ``folder`` that can be read; None if there is none. A damaged one is said in the log."""
    for file in sorted(folder.glob(PATTERN), reverse=True):
        try:
            return _read(file)
        except (OSError, SafetensorError, LookupError, ValueError) as error:
            logger.warning("%s can't be read (%s); trying the one before.", file, error)
    return None


def write_tensors(target: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """A safetensors file at ``target``, whole and on the disk when this returns, or as it was.

    Raises:
        TrainingError: the disk refuses, most often because it is full.
    """
    unfinished = target.with_name(f"{target.name}.{os.getpid()}{UNFINISHED}")
    try:
        save_file(dict(tensors), unfinished, metadata=header)
        _sync(unfinished)
        unfinished.replace(target)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{target} can't be written ({error}). Free some space and run the same command again: it goes on from "
            "what is there."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What ``optimizer`` remembers of each parameter, as "<parameter>/<what>"."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Give ``optimizer`` back what ``optimizer_tensors`` read."""
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, what = key.rpartition("/")
        parameter = parameters[name]
        # Counts stay on the CPU, where the optimizers of torch want them.
        optimizer.state[parameter][what] = value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's own generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's generators where ``random_tensors`` found them."""
    torch.set_rng_state(tensors["cpu"].clone())
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"].clone(), device)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """``tensors`` under names that begin with ``prefix``."""
    return ((f"{prefix}{name}", tensor) for name, tensor in tensors.items())


def _read(file: Path) -> State:
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError("not a state that this version writes")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return State(int(header["step"]), json.loads(header["run"]), tensors)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
