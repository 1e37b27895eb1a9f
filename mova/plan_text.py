"""Plans as text: one with its arithmetic, or those of many machines as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mova.model import Model
from mova.plan import Plan, plan_for
from mova.reasons import DoesNotFit, Reason, duration, gigabytes
from mova.released import RELEASED_360P
from mova.resources import Card, Resources
from mova.spec import ClipSpec

GIB = 1 << 30
GB = 1e9
# A common card of each size; what it reports as free is taken to be all of it.
CARDS = {
    8: Card("NVIDIA GeForce RTX 4060", 8 * GIB, 8 * GIB, (8, 9)),
    12: Card("NVIDIA GeForce RTX 4070", 12 * GIB, 12 * GIB, (8, 9)),
    16: Card("NVIDIA GeForce RTX 4080", 16 * GIB, 16 * GIB, (8, 9)),
    24: Card("NVIDIA GeForce RTX 4090", 24 * GIB, 24 * GIB, (8, 9)),
    32: Card("NVIDIA GeForce RTX 5090", 32 * GIB, 32 * GIB, (12, 0)),
    48: Card("NVIDIA RTX 6000 Ada Generation", 48 * GIB, 48 * GIB, (8, 9)),
    80: Card("NVIDIA H100 80GB HBM3", 80 * GIB, 80 * GIB, (9, 0)),
    141: Card("NVIDIA H200", 140 * GIB, 140 * GIB, (9, 0)),
}
RAMS = (16, 32, 64, 128)
FREE_RAM = 0.9  # of it is free
DISK_SPEED = 3e9  # bytes a second, of an ordinary NVMe disk
SIZES = {"360p": ClipSpec(), "720p": ClipSpec(width=1280, height=720)}
PRESETS = {"bf16": "exact", "fp8": "fast"}  # how the presets that were planned keep the large matrices


@dataclass(frozen=True)
class Cell:
    """A plan, or why there is none, for VRAM and RAM in GiB."""

    vram: int
    ram: int
    size: str
    weights: str
    plan: Plan | DoesNotFit


def plan_lines(plan: Plan) -> list[str]:
    """A plan for people: what it comes to, each phase with its arithmetic, the reasons."""
    clip = "" if plan.seconds is None else f", a clip in about {duration(plan.seconds)}"
    lines = [
        f"{plan.offload} on {plan.device}, preset {plan.preset}: {gigabytes(plan.vram)} of VRAM, "
        f"{gigabytes(plan.ram)} of RAM{clip}"
    ]
    for phase in plan.phases:
        kind = "measured" if phase.measured else "estimated"
        took = "" if phase.seconds is None else f", {duration(phase.seconds)} ({kind})"
        lines.append(f"{phase.name:<12}{gigabytes(phase.vram or phase.ram):>9}{took}")
        lines.append(" " * 12 + " + ".join(f"{name} {gigabytes(size)}" for name, size in phase.terms))
    return [*lines, *(f"- {reason}" for reason in plan.reasons)]


def cells(model: Model = RELEASED_360P) -> Iterator[Cell]:
    """Every cell of the table, 8 seconds in 50 steps."""
    for size, spec in SIZES.items():
        for weights, preset in PRESETS.items():
            for vram, card in CARDS.items():
                for ram in RAMS:
                    resources = machine(card, ram)
                    yield Cell(vram, ram, size, weights, _planned(model, spec, resources, preset))


def machine(card: Card | None, ram: int) -> Resources:
    """A machine of the table: ``ram`` in GiB."""
    return Resources(card, int(FREE_RAM * ram * GIB), ram * GIB, 500 * GIB, DISK_SPEED)


def plan_table(model: Model = RELEASED_360P) -> str:
    """The table: what each machine would do, its peaks and its estimated times."""
    lines = [
        f"193 frames in 50 steps; a common card of each size, {FREE_RAM:.0%} of the RAM free, a disk of "
        f"{DISK_SPEED / GB:g} GB/s. Times are estimates.",
        f"{'VRAM':>5}{'RAM':>5}  {'size':<6}{'':<6}{'mode':<10}{'layers':>7}{'tokens':>8}{'text':>8}{'tile':>6}  "
        f"{'weights wait in':<24}{'peak VRAM':>10}{'own RAM':>9}{'a step':>9}{'clip':>9}",
    ]
    return "\n".join((*lines, *(_line(cell) for cell in cells(model))))


def _planned(model: Model, spec: ClipSpec, resources: Resources, preset: str) -> Plan | DoesNotFit:
    try:
        return plan_for(model, spec, resources, preset=preset)
    except DoesNotFit as reason:
        return reason


def _line(cell: Cell) -> str:
    where = f"{cell.vram:>5}{cell.ram:>5}  {cell.size:<6}{cell.weights:<6}"
    plan = cell.plan
    if isinstance(plan, DoesNotFit):
        told = ", ".join(map(_short, plan.remedies))
        return f"{where}lacks {plan.missing / GB:.2f} GB of {plan.memory.upper()} in {plan.phase}; fits: {told}"
    tile = f"{plan.vae_tile or ''}{'w' if plan.tiles_wait else ''}"
    how = (
        f"{plan.offload:<10}{plan.slots:>7}{plan.token_chunk or 'all':>8}{plan.text:>8}{tile:>6}  {_waiting(plan):<24}"
    )
    peaks = f"{plan.vram / GB:>7.1f} GB{plan.ram / GB:>6.1f} GB"
    return f"{where}{how}{peaks}{_told(plan.step_seconds):>9}{_told(plan.seconds):>9}"


def _waiting(plan: Plan) -> str:
    source = "disk" if plan.direct else "file memory"
    return f"{source}, {plan.buffers} pinned"


def _told(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)


def _short(remedy: Reason) -> str:
    return " ".join((remedy.code, *(remedy.words[name] for name, _ in remedy.figures)))
