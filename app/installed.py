"""What this machine has for rendering: Python, encoders, torch, kernels, GPU, memory, disk; nothing of it can hang us.

Whatever may be broken natively (torch, PyAV, a kernel) is imported in a program of its own, with a time limit.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from app.machine import Gpu, ThisMachine, look

IMPORT_SECONDS = 90.0  # torch alone may take half a minute from a cold disk
DRIVER_SECONDS = 10.0
OLDEST_PYTHON = (3, 11)
DISK_NEEDED, DISK_WISHED = 1 << 30, 10 << 30
MEMORY_WISHED = 4 << 30
KERNELS = {  # module -> what uses it
    "flash_attn_interface": "FlashAttention 3, used by itself on Hopper",
    "sageattention": "SageAttention, used by the presets fast and fastest",
}

TORCH = """
import json, torch
found = {"version": torch.__version__, "cuda": torch.version.cuda or torch.version.hip, "devices": [], "failed": None}
try:
    if torch.cuda.is_available():
        found["devices"] = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    device = "cuda" if found["devices"] else "cpu"
    ones = torch.ones(1, 1, 8, 8, device=device)
    torch.nn.functional.scaled_dot_product_attention(ones, ones, ones).sum().item()
except Exception as error:
    found["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(found))
"""
AV = """
import json, av
missing = []
for name in ("libx264", "aac"):
    try:
        av.codec.Codec(name, "w")
    except Exception:
        missing.append(name)
print(json.dumps({"version": av.__version__, "missing": missing}))
"""
KERNEL = 'import json, {name}; print(json.dumps({{"version": str(getattr({name}, "__version__", "?"))}}))'


class State(StrEnum):
    """How something stands: well, worth a look, or in the way of work."""

    OK = "ok"
    ATTENTION = "attention"
    WRONG = "wrong"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what to do about it unless it is well."""

    name: str
    state: State
    said: str
    remedy: str = ""

    def as_object(self) -> dict[str, str]:
        """For programs."""
        return {"check": self.name, "state": str(self.state), "said": self.said, "remedy": self.remedy}

    def as_text(self) -> str:
        """For people."""
        remedy = f"\n{'':<27}→ {self.remedy}" if self.remedy else ""
        return f"{self.state:<9}  {self.name:<14}  {self.said}{remedy}"


@dataclass(frozen=True)
class Answer:
    """What a program of its own said: an object, or why there is none."""

    found: dict[str, Any]
    failed: str = ""


def checks(data: Path, device: str = "auto") -> Iterator[Check]:
    """All of it; ``data`` need not be there yet."""
    folder = next(parent for parent in (data, *data.absolute().parents) if parent.is_dir())
    with ThreadPoolExecutor(max_workers=4) as pool:  # each waits for a program with a time limit
        torch, av = pool.submit(_imported, "torch", TORCH), pool.submit(_imported, "av", AV)
        driver, machine = pool.submit(_driver), pool.submit(look, folder)
        kernels = {name: pool.submit(_imported, name, KERNEL.format(name=name)) for name in KERNELS if _is_there(name)}
        yield python()
        yield encoders(av.result())
        yield gpu(machine.result(), driver.result(), torch.result())
        yield engine(torch.result(), machine.result().gpus, device)
        yield attention(torch.result(), {name: answer.result() for name, answer in kernels.items()})
        yield memory(machine.result())
        yield disk(machine.result(), data)


def python() -> Check:
    """The interpreter."""
    said = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", State.WRONG, said, "Install Python 3.11 or newer, and the studio anew with it.")
    return Check("python", State.OK, said)


def encoders(av: Answer) -> Check:
    """What clips are written with."""
    again = "Install it again: pip install --force-reinstall 'av>=15'."
    if av.failed:
        return Check("encoders", State.WRONG, f"PyAV can't be used: {av.failed}", again)
    if missing := av.found["missing"]:
        return Check("encoders", State.WRONG, f"This PyAV has no {' and no '.join(missing)}.", again)
    return Check("encoders", State.OK, f"PyAV {av.found['version']} with ffmpeg's libx264 and aac")


def gpu(machine: ThisMachine, driver: Answer, torch: Answer) -> Check:
    """The cards and their memory; how a checkpoint fits is the plan's to say."""
    if driver.failed:
        remedy = "Install the driver again, or restart the machine if it has just been updated."
        return Check("gpu", State.WRONG, f"nvidia-smi doesn't answer: {driver.failed}", remedy)
    if not machine.gpus:
        others = torch.found.get("devices", [])
        if others:
            return Check("gpu", State.OK, f"{', '.join(others)} (seen by torch; nvidia-smi isn't there)")
        return Check(
            "gpu",
            State.ATTENTION,
            "None is seen. The playground runs; a real checkpoint is far too slow without one.",
            "Render on an SGLang server (STUDIO_SGLANG__NAME__BASE_URL), or install the driver of the card.",
        )
    said = "; ".join(f"{card.name}, {_gib(card.total)} ({_gib(card.free)} free)" for card in machine.gpus)
    return Check("gpu", State.OK, f"{said}; driver {driver.found.get('version', 'unknown')}")


def engine(torch: Answer, gpus: Sequence[Gpu], device: str) -> Check:
    """torch, and whether it can use what is there."""
    build = "Install torch's build for this machine from pytorch.org."
    if torch.failed:
        return Check("torch", State.WRONG, f"It can't be used: {torch.failed}", build)
    version, cuda, devices = torch.found["version"], torch.found["cuda"], torch.found["devices"]
    if torch.found["failed"]:
        return Check("torch", State.WRONG, f"{version} can't compute: {torch.found['failed']}", build)
    if (gpus or device.startswith("cuda")) and not devices and device != "cpu":
        return Check("torch", State.WRONG, f"{version} sees no GPU (its CUDA: {cuda or 'none'}).", build)
    if (number := device.partition(":")[2]) and int(number) >= len(devices):
        said = f"The setting device is {device}, and there are {len(devices)} GPUs."
        return Check("torch", State.WRONG, said, "Set STUDIO_DEVICE to one that is there, or to auto.")
    if devices and device == "cpu":
        said = f"{version} could use {devices[0]}; the setting device says cpu."
        return Check("torch", State.ATTENTION, said, "Set STUDIO_DEVICE to auto.")
    return Check(
        "torch", State.OK, f"{version}, " + (f"CUDA {cuda} on {len(devices)} GPU" if devices else "on the CPU")
    )


def attention(torch: Answer, kernels: dict[str, Answer]) -> Check:
    """The kernels beside torch's own, which is always there; the engine takes the fastest that gives its numbers."""
    broken = {name: answer.failed for name, answer in kernels.items() if answer.failed}
    usable = [
        f"{name} {answer.found['version']} ({KERNELS[name]})" for name, answer in kernels.items() if not answer.failed
    ]
    absent = [name for name in KERNELS if name not in kernels]
    said = "; ".join(
        filter(
            None,
            (
                "torch's own is there" if not torch.failed else "torch's own can't be tried",
                f"there too: {', '.join(usable)}" if usable else "",
                f"not installed, not needed: {', '.join(absent)}" if absent else "",
                "; ".join(f"{name} can't be imported: {why}" for name, why in broken.items()),
            ),
        )
    )
    if broken:
        remedy = f"Install it again for this torch, or take it away: pip uninstall {' '.join(broken)}."
        return Check("attention", State.ATTENTION, said, remedy)
    return Check("attention", State.OK, said)


def memory(machine: ThisMachine) -> Check:
    """RAM."""
    if machine.memory_total is None:
        return Check("memory", State.OK, "The system doesn't say how much there is.")
    free = "" if machine.memory_free is None else f", {_gib(machine.memory_free)} free"
    said = f"{_gib(machine.memory_total)}{free}, {machine.cores} cores"
    if machine.memory_free is not None and machine.memory_free < MEMORY_WISHED:
        return Check("memory", State.ATTENTION, said, "Close other programs before a real checkpoint is rendered here.")
    return Check("memory", State.OK, said)


def disk(machine: ThisMachine, data: Path) -> Check:
    """Room for clips."""
    said = f"{_gib(machine.disk_free)} of {_gib(machine.disk_total)} free for {data}"
    remedy = "Make room, or choose another folder by --data; clips that are deleted give theirs back after a day."
    if machine.disk_free < DISK_NEEDED:
        return Check("disk", State.WRONG, said, remedy)
    return (
        Check("disk", State.ATTENTION, said, remedy)
        if machine.disk_free < DISK_WISHED
        else Check("disk", State.OK, said)
    )


def ask(command: Sequence[str], seconds: float) -> Answer:
    """The last line that a program prints, a JSON object; or why there is none."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Answer({}, f"no answer within {seconds:g} s")
    except OSError as error:
        return Answer({}, str(error))
    lines = said.stdout.strip().splitlines()
    if said.returncode == 0 and lines:
        return Answer(json.loads(lines[-1]))
    words = said.stderr.strip().splitlines() or lines
    return Answer({}, words[-1][:300] if words else f"it ended with status {said.returncode}")


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _imported(name: str, code: str) -> Answer:
    return ask([sys.executable, "-c", code], IMPORT_SECONDS) if _is_there(name) else Answer({}, "it isn't installed")


def _driver() -> Answer:
    """nvidia-smi's driver version; an empty answer where there is no such program."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Answer({})
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(
            query, capture_output=True, text=True, errors="replace", timeout=DRIVER_SECONDS, check=False
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return Answer({}, type(error).__name__)
    words = (said.stdout.strip() or said.stderr.strip()).splitlines() or ["nothing"]
    return Answer({"version": words[0]}) if said.returncode == 0 else Answer({}, words[0])


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
