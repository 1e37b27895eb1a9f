"""What a device can do at best: matrix products, attention, copies to it. The engine is measured against that."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mova.attention import CUDNN, FLASH_3, NATIVE, KeyValue, attend

# By diffusers' names. Math, which holds all scores, isn't among them: 149 GB at 43,120 tokens.
BACKENDS = {
    "cuDNN": CUDNN,
    "flash": "_native_flash",
    "memory-efficient": "_native_efficient",
    "torch's choice": NATIVE,
    "FlashAttention 3": FLASH_3,
}
COMPARED_ROWS = 64
COPIED = 1 << 30  # bytes
FEWEST = 3  # timed runs
LASTING = 1.0  # seconds that each is measured for, so that a device that slows down when warm is seen as it stays


@dataclass(frozen=True)
class Ceilings:
    """Operations per second of products and attention, bytes per second to the device; 0 is not measured."""

    products: float
    attention: float
    copies: float = 0.0

    def seconds(self, products: float, attention: float) -> float:
        """The least time for so many operations of either kind."""
        return products / self.products + attention / self.attention


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of ``work`` in seconds, by the device's own clock; run once before, unmeasured."""
    work()
    taken: list[float] = []
    while len(taken) < FEWEST or sum(taken) < LASTING:
        taken.append(once(work, device))
    return statistics.median(taken)


def once(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run, until the device is done."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


def products(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> float:
    """Operations per second of a product [m, k] x [k, n] of random numbers.

    Raises:
        ArithmeticError: the product is wrong, so its speed means nothing.
    """
    rows, width, columns = shape
    left = torch.randn(rows, width, device=device, dtype=dtype)
    right = torch.randn(columns, width, device=device, dtype=dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    _agree(F.linear(left, right)[:COMPARED_ROWS], left[:COMPARED_ROWS].double() @ right.double().T)
    return 2 * rows * width * columns / seconds(lambda: torch.mm(left, right.T, out=out), device)


def attention(device: torch.device, dtype: torch.dtype, backend: str, shape: tuple[int, int, int]) -> float:
    """Operations per second of attention (tokens, heads, head_dim) of random numbers by one of ``BACKENDS``.

    Raises:
        RuntimeError, ImportError: the device lacks this kernel.
        ArithmeticError: its result is wrong.
    """
    tokens, heads, head_dim = shape
    query, key, value = (torch.randn(1, tokens, heads, head_dim, device=device, dtype=dtype) for _ in range(3))
    work = partial(attend, query, KeyValue(key, value), BACKENDS[backend])
    _agree(work()[:, :COMPARED_ROWS, 0], _attended(query[:, :COMPARED_ROWS, 0], key[:, :, 0], value[:, :, 0]))
    return 4 * tokens**2 * heads * head_dim / seconds(work, device)


def copies(device: torch.device) -> float:
    """Bytes per second from pinned memory to a CUDA device.

    Raises:
        ArithmeticError: what arrived is something else.
    """
    pinned = torch.empty(COPIED, dtype=torch.uint8, pin_memory=device.type == "cuda").fill_(7)
    there = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    rate = COPIED / seconds(lambda: there.copy_(pinned, non_blocking=True), device)
    if not bool((there == 7).all()):
        raise ArithmeticError("Bytes were lost on the way to the device.")
    return rate


@contextmanager
def capped(device: torch.device, size: int | None) -> Iterator[None]:
    """At most ``size`` bytes of the device's memory for PyTorch inside the block; the peak is counted anew."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0 if size is None else min(1.0, size / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = query.double(), key.double(), value.double()
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1) @ value


def _agree(found: Tensor, expected: Tensor, tolerance: float = 0.01) -> None:
    """ArithmeticError unless the error's root mean square is below ``tolerance`` of the numbers' own."""
    error = float((found.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    if not error < tolerance:
        raise ArithmeticError(f"The result is off by {error:.2%}.")
