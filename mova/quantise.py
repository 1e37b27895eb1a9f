"""Makes 8-bit weights from a checkpoint's matrices, once, a few rows at a time.

A row of a matrix (an output channel) is divided by its scale and rounded: to whole numbers of -127 to 127 (int8), or
to float8 (e4m3fn), whose largest is 448. A scale is the row's largest magnitude over that number, rounded up to a
bfloat16, so that multiplying by it in bfloat16 or in float32 is multiplying by the same number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from mova.eightbit import (
    COMPONENTS,
    KINDS,
    SCALE,
    SCALE_BYTES,
    QuantiseError,
    Source,
    default_store,
    is_current,
    matrices,
    metadata,
    outdated,
    reduced_bytes,
    weights_file,
)

Progress = Callable[[int, int], None]  # (matrix bytes written, of all); an exception raised in it ends the making
ROW_ELEMENTS = 1 << 22  # that many weights are in memory at a time: 16 MB in float32
DTYPES = {"I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn}
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
SOURCES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
LOCK_LOOK = 0.5  # seconds between two looks whether another process has finished


def no_progress(done: int, total: int) -> None:
    """The progress callback of those who don't listen."""


def ensure_quantised(
    checkpoint: Path,
    kind: str,
    components: Iterable[str] = COMPONENTS,
    *,
    store: Path | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Make what is missing of the 8-bit weights of ``components``, or no longer current; the store's folder.

    A file appears when it is whole. What a cancel or a crash leaves is made again; components that are done are kept.

    Args:
        checkpoint: the folder in the official layout.
        kind: "int8" or "fp8".
        components: of ``eightbit.COMPONENTS``.
        store: where the files are kept, ``<checkpoint>/quantised`` if None; a folder serves one checkpoint.
        progress: hears bytes done and bytes in all; what it raises cancels.

    Raises:
        QuantiseError: too little room, a folder that can't be written, weights that aren't numbers; says what to do.
        CheckpointError: the checkpoint can't be read.
    """
    store = store or default_store(checkpoint)
    names = outdated(checkpoint, kind, components, store=store)
    if not names:
        return store
    try:
        weights_file(store, kind, names[0]).parent.mkdir(parents=True, exist_ok=True)
        with _alone(store / kind / "making.lock", progress):
            _make(checkpoint, kind, outdated(checkpoint, kind, names, store=store), store, progress)
    except OSError as error:
        raise QuantiseError(
            f"8-bit weights can't be written into {store} ({error.strerror or error}). "
            "Make that folder writable and give it room, or choose another one for them."
        ) from error
    return store


def quantise(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """``weight`` [out, in], any float dtype, to 8 bits [out, in] and its scales [out], float32."""
    dtype = DTYPES[KINDS[kind]]
    precise = weight.float()
    scale = _rounded_up(precise.abs().amax(dim=1) / LARGEST[dtype])
    shares = (precise / scale.unsqueeze(1)).clamp_(-LARGEST[dtype], LARGEST[dtype])
    return (shares.round_() if dtype is torch.int8 else shares).to(dtype), scale


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What ``quantise`` gave, as near as it is to the original: [out, in] in ``dtype``."""
    return weight.to(dtype).mul_(scale.to(dtype).unsqueeze(1))


def _make(checkpoint: Path, kind: str, names: Iterable[str], store: Path, progress: Progress) -> None:
    parts = {name: matrices(checkpoint, name) for name in names}
    shapes = {name: {key: source.tensor for key, source in part.items()} for name, part in parts.items()}
    total = sum(reduced_bytes(name, tensors) for name, tensors in shapes.items())
    for half in (store / kind).glob("*.part"):  # of a maker that was killed
        half.unlink()
    _refuse_without_room(store, total)
    done = 0
    for name, part in parts.items():
        file, before = weights_file(store, kind, name), done
        made = metadata(checkpoint, kind, name)
        for written in _write_whole(file, part, kind, made):
            done = before + written
            progress(done, total)
        if not is_current(checkpoint, kind, name, store=store):
            raise QuantiseError(f"The files of {checkpoint / name} changed meanwhile. Try again when they are settled.")


def _refuse_without_room(store: Path, needed: int) -> None:
    free = shutil.disk_usage(store).free
    if free < needed:
        raise QuantiseError(
            f"8-bit weights need {needed / 1e9:.1f} GB in {store}, where {free / 1e9:.1f} GB are free. "
            f"Make {(needed - free) / 1e9:.1f} GB of room, or choose another folder for them."
        )


def _write_whole(file: Path, part: dict[str, Source], kind: str, made: dict[str, str]) -> Iterator[int]:
    """``file`` by way of ``.part``, which is gone afterwards whatever happens; yields bytes written so far."""
    half = file.with_name(f"{file.name}.part")
    try:
        with half.open("wb") as stream:
            yield from _write(stream, part, kind, made)
            stream.flush()
            os.fsync(stream.fileno())
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)


def _write(stream: BinaryIO, part: dict[str, Source], kind: str, made: dict[str, str]) -> Iterator[int]:
    """Header and room for the scales, then the weights one after the other, then the scales into their place."""
    header = _header(part, kind, made)
    stream.write(len(header).to_bytes(8, "little") + header)
    scales_start, scales = stream.tell(), []
    stream.seek(sum(SCALE_BYTES * source.tensor.shape[0] for source in part.values()), os.SEEK_CUR)
    done = 0
    for key, source in part.items():
        for rows in _rows(source):
            weight, scale = quantise(rows, kind)
            if not scale.isfinite().all():
                raise QuantiseError(
                    f"{source.file}: tensor '{key}' has weights that aren't numbers. Download it again."
                )
            stream.write(weight.view(torch.uint8).numpy().data)
            scales.append(scale)
            done += weight.nbytes + scale.nbytes
            yield done
    stream.seek(scales_start)
    stream.write(torch.cat(scales).numpy().data)


def _header(part: dict[str, Source], kind: str, made: dict[str, str]) -> bytes:
    """A safetensors header: first all scales, whose four bytes want alignment, then the weights; padded to 8 bytes."""
    entries: dict[str, object] = {"__metadata__": made}
    end = 0
    for key, source in part.items():
        start, end = end, end + SCALE_BYTES * source.tensor.shape[0]
        entries[key + SCALE] = {"dtype": "F32", "shape": source.tensor.shape[:1], "data_offsets": (start, end)}
    for key, source in part.items():
        out, width = source.tensor.shape
        start, end = end, end + out * width
        entries[key] = {"dtype": KINDS[kind], "shape": (out, width), "data_offsets": (start, end)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _rows(source: Source) -> Iterator[Tensor]:
    """The matrix [out, in] in groups of rows, read past any mapping so that what is done with is forgotten."""
    out, width = source.tensor.shape
    dtype = SOURCES.get(source.tensor.dtype)
    if dtype is None:
        raise QuantiseError(
            f"{source.file} holds {source.tensor.dtype}; 8-bit weights are made from {', '.join(SOURCES)}. "
            "Use a checkpoint in one of these."
        )
    group = max(1, ROW_ELEMENTS // width)
    with source.file.open("rb") as stream:
        stream.seek(source.start)
        for first in range(0, out, group):
            rows = min(group, out - first)
            yield torch.frombuffer(_read(stream, rows * width * dtype.itemsize), dtype=dtype).view(rows, width)


def _read(stream: BinaryIO, count: int) -> bytearray:
    try:
        read = bytearray(stream.read(count))
    except OSError as error:
        raise QuantiseError(f"{stream.name} can't be read ({error.strerror}). Download this file again.") from error
    if len(read) != count:
        raise QuantiseError(f"{stream.name} ends early. Download this file again.")
    return read


def _rounded_up(scale: Tensor) -> Tensor:
    """The next bfloat16 that isn't below ``scale``, as float32; one for rows of zeros, which any scale serves."""
    # The 16 bits that a bfloat16 lacks: a carry out of them is the next bfloat16.
    bits = scale.view(torch.int32)
    rounded = ((bits + 0xFFFF) >> 16 << 16).view(torch.float32)
    return torch.where(scale > 0, rounded, torch.where(scale == 0, 1.0, scale))


@contextmanager
def _alone(lock_file: Path, progress: Progress) -> Iterator[None]:
    """One maker at a time: waits for another process, and can be cancelled meanwhile."""
    lock = FileLock(lock_file)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=LOCK_LOOK)
        except Timeout:
            progress(0, 1)
    try:
        yield
    finally:
        lock.release()
