"""The machine under the studio: its memory, disk and GPUs, asked without torch; and the end of a log."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits")
NVIDIA_USE = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
NVIDIA_SECONDS = 5.0
OWN = ("RssAnon", "RssShmem")  # of /proc/PID/status: what isn't pages of files
LONGEST_LINE = 2_000  # bytes of a log line that are worth reading


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in bytes."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Held:
    """What a process holds, in bytes: memory of its own, and the GPUs'; None where the driver doesn't say."""

    memory: int
    gpu: int | None


@dataclass(frozen=True)
class ThisMachine:
    """What the studio runs on; memory and disk in bytes, ``None`` where the system doesn't say."""

    system: str
    cores: int
    memory_free: int | None
    memory_total: int | None
    disk_free: int
    disk_total: int
    gpus: tuple[Gpu, ...]


def look(folder: Path) -> ThisMachine:
    """This machine now; the disk is the one that ``folder`` lies on."""
    free, total = _memory()
    disk = shutil.disk_usage(folder)
    return ThisMachine(
        system=f"{platform.system()} {platform.release()} ({platform.machine()}), Python {platform.python_version()}",
        cores=os.cpu_count() or 1,
        memory_free=free,
        memory_total=total,
        disk_free=disk.free,
        disk_total=disk.total,
        gpus=read_gpus(_ask_nvidia()),
    )


def disk_free(folder: Path) -> int:
    """Bytes free on the disk that ``folder`` lies on, or will lie on."""
    here = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(here).free


def held_by(process: int) -> Held:
    """What a process of this machine keeps for itself."""
    status = Path(f"/proc/{process}/status")
    try:
        found = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # it has just ended, or the system has no such files
        found = {}
    memory = sum(int(found[name].split()[0]) << 10 for name in OWN if name in found)
    return Held(memory, read_use(_ask_nvidia(NVIDIA_USE), process))


def read_use(answer: str, process: int) -> int | None:
    """The bytes that nvidia-smi has a process use, on all GPUs; None where it doesn't name it."""
    rows = [[part.strip() for part in line.split(",")] for line in answer.splitlines()]
    found = [int(row[1]) << 20 for row in rows if len(row) == 2 and row[0] == str(process) and row[1].isdecimal()]
    return sum(found) if found else None


def read_gpus(answer: str) -> tuple[Gpu, ...]:
    """The GPUs of nvidia-smi's answer, whose memory is in MiB; a line without figures (a MIG parent) is left out."""
    rows = [[part.strip() for part in line.rsplit(",", 2)] for line in answer.splitlines()]
    return tuple(
        Gpu(row[0], int(row[1]) << 20, int(row[2]) << 20)
        for row in rows
        if len(row) == 3 and row[1].isdecimal() and row[2].isdecimal()
    )


def read_meminfo(text: str) -> tuple[int | None, int | None]:
    """(available, total) in bytes of Linux's ``/proc/meminfo``, which counts in KiB."""
    found = {name: value.split() for name, _, value in (line.partition(":") for line in text.splitlines())}
    available, total = (int(found[name][0]) << 10 if found.get(name) else None for name in ("MemAvailable", "MemTotal"))
    return available, total


def last_lines(file: Path, count: int) -> str:
    """The last ``count`` lines of a log; nothing if there is none. A log of any size costs the same."""
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        start = stream.seek(max(0, size - count * LONGEST_LINE))
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(lines[1:][-count:] if start else lines[-count:])


def _ask_nvidia(query: Sequence[str] = NVIDIA_SMI) -> str:
    command = shutil.which(query[0])
    if command is None:
        return ""
    try:
        said = subprocess.run([command, *query[1:]], capture_output=True, text=True, timeout=NVIDIA_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):  # a driver that doesn't answer
        return ""
    return said.stdout


def _memory() -> tuple[int | None, int | None]:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        return read_meminfo(meminfo.read_text(encoding="ascii"))
    if os.name == "nt":
        return _windows_memory()
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # macOS, which has no figure for what is available
        return None, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None, None


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows' sysinfoapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "available", "total_page", "available_page")),
        *((name, ctypes.c_uint64) for name in ("total_virtual", "available_virtual", "extended_virtual")),
    )


def _windows_memory() -> tuple[int | None, int | None]:
    status = _MemoryStatus()
    status.length = ctypes.sizeof(status)
    if not ctypes.CDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return int(status.available), int(status.total)
