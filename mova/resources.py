"""What this machine has to give: a card, RAM, a disk; asked without torch."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.free,memory.total,compute_cap", "--format=csv,noheader")
NVIDIA_SECONDS = 5.0
TRIAL_BYTES, TRIAL_SECONDS, TRIAL_PIECE = 256 << 20, 0.5, 8 << 20
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Card:
    """One GPU; memory in bytes, ``capability`` as CUDA counts, (9, 0) for Hopper."""

    name: str
    free: int
    total: int
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Resources:
    """What a generation may use; bytes, ``disk_speed`` in bytes a second where it was tried."""

    card: Card | None
    ram_free: int
    ram_total: int
    disk_free: int
    disk_speed: float | None = None


def read_resources(checkpoint: Path, device: str = "auto") -> Resources:
    """This machine now: the card of ``device`` ("auto" is the first), RAM, and the disk that ``checkpoint`` lies on."""
    free, total = read_memory()
    largest = max(checkpoint.glob("*/*.safetensors"), key=lambda file: file.stat().st_size, default=None)
    return Resources(
        card=None if device == "cpu" else read_card(device),
        ram_free=free,
        ram_total=total,
        disk_free=shutil.disk_usage(checkpoint).free,
        disk_speed=_disk_speed(largest) if largest else None,
    )


def read_card(device: str = "auto") -> Card | None:
    """The card that torch will call ``device``, as nvidia-smi has it; None if there is none.

    ``CUDA_VISIBLE_DEVICES`` is obeyed. On a machine with unlike cards CUDA puts the fastest first unless
    ``CUDA_DEVICE_ORDER`` says otherwise, and nvidia-smi doesn't: where torch is at hand, ask it instead.
    """
    cards = parse_cards(_ask_nvidia(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    wanted = int(device.partition(":")[2] or 0)
    return cards[wanted] if wanted < len(cards) else None


def parse_cards(answer: str, visible: str | None = None) -> tuple[Card, ...]:
    """The cards of nvidia-smi's answer that CUDA may see, in its order; lines without figures (MIG) are left out."""
    found: dict[str, Card] = {}
    for line in answer.splitlines():
        index, uuid, name, free, total, capability = ([part.strip() for part in line.split(",")] + [""] * 6)[:6]
        if not (_mebibytes(free) and _mebibytes(total)):
            continue
        major, _, minor = capability.partition(".")
        known = (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
        found[index] = found[uuid] = Card(name, _mebibytes(free), _mebibytes(total), known)
    if visible is None:
        return tuple(card for key, card in found.items() if key.isdecimal())
    wanted = [key.strip() for key in visible.split(",")]
    return tuple(found[key] for key in wanted if key in found)


def read_memory(groups: Path = GROUPS) -> tuple[int, int]:
    """(free, total) bytes of RAM; in a container what its limit leaves.

    macOS has no figure for what is free: half is taken for it. (0, 0) where a system says nothing at all.
    """
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        free, total = parse_meminfo(meminfo.read_text(encoding="ascii"))
        limit, used = _limit(groups)
        return (free, total) if limit is None else (max(0, min(free, limit - used)), min(total, limit))
    if os.name == "nt":
        return _windows_memory()
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total // 2, total
    return 0, 0


def parse_meminfo(text: str) -> tuple[int, int]:
    """(available, total) bytes of Linux's ``/proc/meminfo``, which counts in KiB."""
    found = {name: value.split() for name, _, value in (line.partition(":") for line in text.splitlines())}
    free, total = (int(found[name][0]) << 10 if found.get(name) else 0 for name in ("MemAvailable", "MemTotal"))
    return free, total


def try_disk(file: Path, clock: Callable[[], float] = time.monotonic) -> float | None:
    """Bytes a second of reading ``file`` past what the system remembers of it; None where that can't be told."""
    if not hasattr(os, "posix_fadvise"):
        return None
    read = 0
    descriptor = os.open(file, os.O_RDONLY)
    try:
        size = min(os.fstat(descriptor).st_size, TRIAL_BYTES)
        os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_DONTNEED)
        start = clock()
        while read < size and clock() - start < TRIAL_SECONDS:
            read += len(os.pread(descriptor, min(TRIAL_PIECE, size - read), read))
        seconds = clock() - start
    finally:
        os.close(descriptor)
    return read / seconds if read >= TRIAL_PIECE and seconds > 0 else None


@cache
def _disk_speed(file: Path) -> float | None:
    """Tried once: pages of the studio ask again and again."""
    return try_disk(file)


def _limit(groups: Path) -> tuple[int | None, int]:
    """(limit, bytes in use that can't be dropped) of the container's control group, version 2."""
    limit, used, stat = (groups / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not (limit.is_file() and used.is_file() and limit.read_text().strip().isdecimal()):
        return None, 0
    lines = stat.read_text().splitlines() if stat.is_file() else []
    cached = sum(int(value) for name, _, value in (line.partition(" ") for line in lines) if name == "inactive_file")
    return int(limit.read_text()), max(0, int(used.read_text()) - cached)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows' sysinfoapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "available", "total_page", "available_page")),
        *((name, ctypes.c_uint64) for name in ("total_virtual", "available_virtual", "extended_virtual")),
    )


def _windows_memory() -> tuple[int, int]:
    status = _MemoryStatus()
    status.length = ctypes.sizeof(status)
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009  there on Windows alone
    return (int(status.available), int(status.total)) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else (0, 0)


def _mebibytes(text: str) -> int:
    number = text.removesuffix("MiB").strip()
    return int(number) << 20 if number.isdecimal() else 0


def _ask_nvidia() -> str:
    command = shutil.which(NVIDIA_SMI[0])
    if command is None:
        return ""
    try:
        said = subprocess.run(
            [command, *NVIDIA_SMI[1:]], capture_output=True, text=True, timeout=NVIDIA_SECONDS, check=True
        )
    except (subprocess.SubprocessError, OSError):  # a driver that doesn't answer
        return ""
    return said.stdout
