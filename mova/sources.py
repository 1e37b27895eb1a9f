"""Where a stream reads weights: where they are mapped, or from the checkpoint's files themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor, nn

from mova.layout import CheckpointError, read_offsets

# Fills the second tensor with what the first holds: a weight at home, and its place in a flat buffer.
Source = Callable[[Tensor, Tensor], None]
Home = tuple[int, int]  # address, bytes

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def mapped(home: Tensor, place: Tensor) -> None:
    """A weight from where it was loaded, usually pages of a safetensors file."""
    place.copy_(home)


@dataclass(frozen=True)
class Extent:
    """Bytes of a file: where a weight lies, and how the file was (size, time of change) when that was read."""

    file: Path
    start: int
    stamp: tuple[int, int]


class FileSource:
    """Weights from their files, whose pages this process then never maps; those from no file come from home.

    Args:
        extents: where each weight lies, by its home; see ``stored_extents``.
        keep_cached: False lets the system drop the pages that were read, for checkpoints larger than memory.
    """

    def __init__(self, extents: Mapping[Home, Extent], *, keep_cached: bool = True) -> None:
        self._extents = dict(extents)
        self._keep_cached = keep_cached

    def __call__(self, home: Tensor, place: Tensor) -> None:
        """Fill ``place`` with the weight whose home is ``home``.

        Raises:
            CheckpointError: the file is gone, was changed or can't be read.
        """
        extent = self._extents.get(_home(home))
        if extent is None:
            place.copy_(home)
            return
        try:
            with extent.file.open("rb", buffering=0) as file:
                self._read(file, extent, _bytes(place))
        except FileNotFoundError as error:
            raise CheckpointError(f"{extent.file} is gone. Put it back, or download it again.") from error
        except OSError as error:
            raise CheckpointError(f"{extent.file} can't be read ({error}). Download it again.") from error

    def _read(self, file: FileIO, extent: Extent, into: memoryview) -> None:
        if _stamp(file.fileno()) != extent.stamp:
            raise CheckpointError(f"{extent.file} was changed while it was in use. Load the checkpoint again.")
        _advise(file, extent, len(into), "SEQUENTIAL")  # reads further ahead
        file.seek(extent.start)
        done = 0
        while done < len(into):
            count = file.readinto(into[done:])
            if not count:
                raise CheckpointError(f"{extent.file} is cut short. Download it again.")
            done += count
        if not self._keep_cached:
            _advise(file, extent, len(into), "DONTNEED")


def stored_extents(module: nn.Module, files: Iterable[Path]) -> dict[Home, Extent]:
    """Home -> where it is stored, of every weight of ``module`` that is in ``files`` exactly as it is in memory.

    A module whose weights were changed after loading must not be given: what is in the files would be computed with.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    weights = {name: weight.data for name, weight in module.state_dict(keep_vars=True).items()}
    extents = {}
    for file in files:
        offsets, stamp = read_offsets(file), _stamp(file)
        for name, (tensor, start) in offsets.items():
            weight = weights.get(name)
            if weight is None or not weight.numel() or not weight.is_contiguous():
                continue
            if (DTYPES.get(tensor.dtype), tensor.shape) == (weight.dtype, tuple(weight.shape)):
                extents[_home(weight)] = Extent(file, start, stamp)
    return extents


def _home(tensor: Tensor) -> Home:
    return tensor.data_ptr(), tensor.nbytes


def _stamp(file: Path | int) -> tuple[int, int]:
    about = os.stat(file)  # noqa: PTH116  of a descriptor too
    return about.st_size, about.st_mtime_ns


def _advise(file: FileIO, extent: Extent, nbytes: int, advice: str) -> None:
    """Tell the system what becomes of the extent's pages, where it listens."""
    if sys.platform == "linux":
        os.posix_fadvise(file.fileno(), extent.start, nbytes, getattr(os, f"POSIX_FADV_{advice}"))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
