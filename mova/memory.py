"""What a generation takes of this process's and the device's memory, and what to call the device."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch

# What torch says where it has no class of its own for it: the CPU's allocator, cuBLAS, cuDNN and the driver.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
)


def device_name(device: torch.device) -> str:
    """The maker's name of a CUDA device, else its type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def own_memory() -> int:
    """Bytes of RAM that this process holds for itself, pages of files not counted; 0 where the system doesn't say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def release_memory() -> None:
    """Give what torch keeps for later back to the device, and first what only a cycle of references holds."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device's or this process's memory has run out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in OUT_OF_MEMORY)


def forget_peaks() -> None:
    """Let the peaks begin again. Where the system can't, the resident one stays that of the process's whole life."""
    with suppress(OSError):  # no Linux, or not allowed
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Bytes, as far as known: "rss", the most that this process had resident; "cuda", the most that torch held."""
    peaks = {}
    if (resident := _peak_resident()) is not None:
        peaks["rss"] = resident
    if torch.cuda.is_initialized():
        peaks["cuda"] = int(torch.cuda.max_memory_allocated())
    return peaks


def _peak_resident() -> int | None:
    status = Path("/proc/self/status")
    if status.is_file():
        line = next((line for line in status.read_text(encoding="ascii").splitlines() if "VmHWM" in line), None)
        return int(line.split()[1]) * 1024 if line else None
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes
