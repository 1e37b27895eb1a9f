"""The structural part of the table: what was counted, beside the original's figures and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from mova.bench.counted import block_peak, encoded_frames, plain_cost, step_cost, streamed_step
from mova.bench.figures import Figure, Result, guarded
from mova.bench.simulated import simulate
from mova.bench.sizes import GB, LARGE, PF, SMALL, TB, Size
from mova.costs import shape_of
from mova.model import Model
from mova.plan import plan_for
from mova.plan_text import CARDS, GIB, machine

CHUNK = 4096  # video tokens at a time, where memory is short
# What is aimed at, as shares of the original's figures.
BLOCK_SHARE, CHUNKED_SHARE, TRAFFIC_SHARE, STREAMED_SHARE, KEPT_SHARE = 0.39, 0.27, 0.45, 0.50, 0.44
# And as they are: waits for the device, copies, pinned bytes / weights, frames encoded.
SYNCS, COPIES, PINNED_SHARE, FRAMES = 4, 45, 1.02, 117
# (offload mode, GiB of VRAM, GiB of RAM) of the plans that are shown.
MACHINES = (
    ("auto", 8, 32),
    ("auto", 12, 32),
    ("auto", 12, 128),
    ("auto", 24, 64),
    ("layer", 24, 128),
    ("component", 48, 128),
    ("auto", 80, 128),
    ("none", 141, 128),
)


@dataclass(frozen=True)
class Row:
    """Figures of one name, given in plain units and told in larger ones."""

    section: str
    name: str
    unit: str = ""
    scale: float = 1.0

    def __call__(self, subject: str, value: float, at_most: float | None = None, note: str = "") -> Figure:
        target = None if at_most is None else at_most / self.scale
        return Figure(self.section, self.name, subject, value / self.scale, self.unit, at_most=target, note=note)


def counted(model: Model, sizes: tuple[Size, ...] = (SMALL, LARGE)) -> Iterator[Result]:
    """Everything that can be counted without a device."""
    for size in sizes:
        tokens = shape_of(model, size.spec).video
        section = f"Counted: {size.name}, {size.spec.width}x{size.spec.height}, {tokens:,} video tokens"
        parts: tuple[Callable[..., Iterator[Figure]], ...] = (step_figures, block_figures, encoder_figures)
        for part in parts:
            yield from guarded(section, part.__name__, partial(part, model, size, section))
    section = f"Counted: layers streamed, a step of {sizes[0].name}"
    yield from guarded(section, "streaming", partial(streaming_figures, model, sizes[0], section))
    for size in sizes:
        section = f"Counted: the most that plans for {size.name} hold, of VRAM in each phase and of RAM for layers"
        for described in MACHINES:
            part_of = partial(plan_figures, model, size, section, *described)
            yield from guarded(section, "{}, {} GB, RAM {} GB".format(*described), part_of)


def step_figures(model: Model, size: Size, section: str) -> Iterator[Figure]:
    """Operations, traffic and live bytes of a step with two branches."""
    plain, ours = plain_cost(model, size.spec), step_cost(model, size.spec)
    original = size.original
    row = Row(section, "operations a step", "PFLOP", PF)
    yield row("original", original.flops)
    yield row("plain path", plain.flops)
    yield row("engine", ours.flops, original.flops)
    row = Row(section, "memory traffic a step, but for products", "TB", TB)
    if original.traffic:
        yield row("original", original.traffic)
    yield row("plain path", plain.traffic)
    yield row("engine, compiled", ours.traffic, original.traffic and TRAFFIC_SHARE * original.traffic)
    row = Row(section, "most live bytes of a step", "GB", GB)
    yield row("plain path", plain.peak)
    yield row("engine", step_cost(model, size.spec, fused=False).peak)
    yield row(f"engine, {CHUNK} tokens at a time", step_cost(model, size.spec, CHUNK, fused=False).peak)


def block_figures(model: Model, size: Size, section: str) -> Iterator[Figure]:
    """Live bytes of a video block."""
    original = size.original.block_peak
    row = Row(section, "most live bytes of a video block", "GB", GB)
    yield row("original", original)
    yield row("plain path", block_peak(model, size.spec, plain=True))
    yield row("engine", block_peak(model, size.spec), BLOCK_SHARE * original)
    yield row(f"engine, {CHUNK} tokens at a time", block_peak(model, size.spec, CHUNK), CHUNKED_SHARE * original)


def encoder_figures(model: Model, size: Size, section: str) -> Iterator[Figure]:
    """What of the first-frame condition is encoded."""
    row = Row(section, "frames encoded of the condition")
    yield row("original", size.original.encoded_frames)
    yield row("engine", encoded_frames(model, size.spec.num_frames), FRAMES)


def streaming_figures(model: Model, size: Size, section: str) -> Iterator[Figure]:
    """What streaming an expert's layers takes, by where they wait."""
    original, layers = size.original, model.experts[0].layers
    ways = {
        "pinned RAM": streamed_step(model, slots=3, buffers=layers, cached_text=False),
        "pinned RAM, text kept": streamed_step(model, slots=3, buffers=layers, cached_text=True),
        "files, text kept": streamed_step(model, slots=3, buffers=3, cached_text=True),
        "files, half of the layers kept": streamed_step(model, slots=layers // 2, buffers=3, cached_text=True),
    }
    row = Row(section, "bytes to the device", "GB", GB)
    yield row("original", original.streamed_bytes or 0)
    for name, way in ways.items():
        share = KEPT_SHARE if "kept" in name else STREAMED_SHARE
        yield row(name, way.copied_bytes, share * (original.streamed_bytes or 0))
    for title, theirs, own, most in (
        ("copies", original.copies, "copies", COPIES),
        ("waits of the host for the device", original.syncs, "syncs", SYNCS),
    ):
        row = Row(section, title)
        yield row("original", theirs or 0)
        yield from (row(name, getattr(way, own), most) for name, way in ways.items())
    row = Row(section, "pinned bytes / bytes of the layers")
    yield row("original", original.pinned_share or 0)
    yield from (row(name, way.pinned_bytes / way.weight_bytes, PINNED_SHARE) for name, way in ways.items())
    row = Row(section, "memory of the device for layers", "GB", GB)
    yield from (row(name, way.device_bytes) for name, way in ways.items())


def plan_figures(model: Model, size: Size, section: str, offload: str, vram: int, ram: int) -> Iterator[Figure]:
    """What a plan holds as counted, beside what it expects and what there is."""
    plan = plan_for(model, size.spec, machine(CARDS[vram], ram), offload=offload, device="cuda")
    held = simulate(model, size.spec, plan)
    expected = {phase.name: phase.vram for phase in plan.phases}
    row = Row(section, f"{offload}, {vram} GB, RAM {ram} GB", "GB", GB)
    for phase, bytes_held in held.items():
        note = f"planned {expected[phase] / GB:.2f}" if phase in expected else ""
        yield row(phase, bytes_held.device, vram * GIB, note)
    note = f"{plan.offload}, {plan.slots} slots, {plan.buffers} buffers, {plan.token_chunk or 'all'} tokens at a time"
    yield row("RAM for layers", held["denoising"].host, ram * GIB, note)
