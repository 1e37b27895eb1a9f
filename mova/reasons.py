"""Why a plan is as it is, or why there is none: codes and figures for programs, sentences for people."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9
Figure = int | float | str

# Code -> the sentence. Names in braces are figures; see ``Reason.words`` for how they are written.
SENTENCES = {
    # where the weights are
    "cpu": "It computes on the CPU: weights are used where the system maps them, {weights} of files.",
    "cpu-disk": "Free RAM can't hold an expert's {weights}: they are read from the disk again and again.",
    "all-kept": "Everything stays in VRAM, {weights} of weights: nothing is copied once the first clip is made.",
    "expert-kept": "All {layers} layers of one expert stay in VRAM; the other expert's come when it takes over.",
    "layers-kept": "{slots} of {layers} layers are in VRAM at a time; {copied} arrive during each step.",
    "copies-hidden": "Copying takes {beside} of a step and happens while it computes for {compute}: it costs nothing.",
    "copies-felt": "Copying takes {beside} of a step, longer than the computing ({compute}): it sets the pace.",
    "pinned": "{buffers} layers wait in {pinned} of pinned RAM.",
    "staged": "Files stay in the system's memory, which has room for them; {pinned} of pinned RAM pass them on.",
    "direct": "Free RAM can't hold the files: {read} are read from the disk in each step, past the system's memory.",
    "disk-unknown": "The disk's speed isn't known, so the times leave it out.",
    "converted": "The checkpoint is stored in another dtype than {dtype}: {weights} are converted and lie in RAM.",
    # how it is computed
    "chunked": "{tokens} of {video} video tokens at a time: the result is the same, and {spared} of VRAM are spared.",
    "text-again": "The text's keys and values are made again in each step, which spares {spared} of VRAM.",
    "text-parts": "The text encoder ({weights}) comes part by part: whole it doesn't fit.",
    "text-cpu": "The text encoder runs on the CPU: its largest part doesn't fit into VRAM.",
    "tiled": "Pictures are encoded and decoded in tiles of {tile} pixels: whole ones would take {whole} of VRAM.",
    "tiles-wait": "What the other tiles remember waits in RAM meanwhile, {waiting} of it.",
    "cudnn": "Attention runs by cuDNN's kernel, on this card up to twice as fast as torch's own.",
    "compiled": "Element-wise work is compiled: about {saved} a step are spared.",
    "not-compiled": "Compiling the element-wise work would spare {saved} in all: not worth it for this clip.",
    "no-compiler": "Compiling would spare about {saved} a step, but Triton or a C compiler is missing.",
    "make-weights": "Weights in 8 bits are made first, once: {written} on the disk.",
    # where the figures are from
    "reserve": "{reserve} of VRAM are left alone: the CUDA context, and what the allocator can't use.",
    "estimated": "Times are estimates: {bf16} TFLOPS of {card}, {share} of which {seen} was seen to use.",
    "card-unknown": "No times: the rates of {card} aren't known here.",
    "cpu-unknown": "No times: nobody has measured this CPU yet.",
    "measured": "Times were measured on this machine.",
    # what would fit
    "other-mode": "Choose the offload mode '{offload}'.",
    "stored-dtype": "Choose the dtype '{dtype}': what is stored needs no converting.",
    "fewer-frames": "Make it {num_frames} frames or fewer ({seconds}).",
    "smaller": "Make it {width}x{height}.",
    "smaller-fewer": "Make it {width}x{height} and {num_frames} frames or fewer ({seconds}).",
    "preset": "Choose the preset '{preset}': its weights take half the memory.",
    "cpu-device": "Compute on the CPU; that takes very long.",
    "remote": "Render on a server that has a larger card.",
}


@dataclass(frozen=True)
class Reason:
    """A ``code`` of ``SENTENCES`` and its figures; ``str`` is the sentence in English.

    Figures are bytes where the name is one of ``BYTES``, seconds where it is one of ``SECONDS``.
    """

    code: str
    figures: tuple[tuple[str, Figure], ...] = ()

    def __str__(self) -> str:
        return SENTENCES[self.code].format_map(self.words)

    @property
    def words(self) -> dict[str, str]:
        """Figure -> how it is written in a sentence of any language."""
        return {name: _written(name, value) for name, value in self.figures}

    def figure(self, name: str) -> Figure:
        """One of the figures."""
        return dict(self.figures)[name]


BYTES = {"weights", "copied", "pinned", "read", "spared", "whole", "waiting", "written", "reserve"}
SECONDS = {"beside", "compute", "saved", "seconds"}


def reason(code: str, **figures: Figure) -> Reason:
    """A reason with its figures by name."""
    return Reason(code, tuple(figures.items()))


class DoesNotFit(Exception):  # noqa: N818  it is what the studio says, not a mistake
    """No plan fits; ``str`` says by how much, and what would.

    Args:
        phase: which doesn't.
        memory: "vram", "ram" or "disk".
        needed: bytes that the thriftiest plan takes there.
        available: bytes that may be used.
        remedies: what would fit, each tried.
    """

    def __init__(self, phase: str, memory: str, needed: int, available: int, remedies: tuple[Reason, ...] = ()) -> None:
        self.phase, self.memory = phase, memory
        self.needed, self.available = needed, available
        self.remedies = remedies
        super().__init__(phase, memory, needed, available, remedies)

    @property
    def missing(self) -> int:
        """Bytes."""
        return self.needed - self.available

    def __str__(self) -> str:
        where = {"vram": "of VRAM", "ram": "of RAM", "disk": "on the disk"}[self.memory]
        short = f"{self.phase} takes at least {gigabytes(self.needed)} {where}"
        told = f"It doesn't fit by {gigabytes(self.missing)}: {short}, and {gigabytes(self.available)} can be used."
        return " ".join((told, *map(str, self.remedies)))


def gigabytes(size: float) -> str:
    """Bytes as people say them."""
    return f"{size / GB:.2f} GB" if size < 10 * GB else f"{size / GB:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _written(name: str, value: Figure) -> str:
    if isinstance(value, str):
        return value
    if name in BYTES:
        return gigabytes(value)
    if name in SECONDS:
        return duration(value)
    if name == "share":
        return f"{value:.0%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
