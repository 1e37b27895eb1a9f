"""Finds what fits: the most comfortable choice whose every phase stays within the budget, and the next one down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mova.eightbit import SCALE_BYTES
from mova.footprint import GB, MB, Case, Choice, all_packs, own_ram, phase_ram, phase_terms, resident, total
from mova.resources import Resources
from mova.times import beside_seconds, compute_seconds, rates_for

OFFLOADS = ("auto", "none", "component", "layer")
# What the driver keeps for a context, and what an allocator can't use between its blocks.
CONTEXT, FRAGMENTS = 600 * MB, 0.05
# What other programs should find: a share of what is free, and no more than so much.
OTHERS_SHARE, OTHERS = 0.1, 2 * GB
UNKNOWN = 1 << 60  # where the system doesn't say what it has, nothing is refused for it

SLOTS, FEWEST = 3, 2  # of two, one is computed with while the other is filled; a third evens out what varies
CHUNK = 4096  # tokens: matrices of this many rows are as fast as any
CHUNKS = (16384, 8192, 4096, 2048, 1024, 512, 256)
TEXTS = ("device", "parts", "cpu")
# Pixels, and whether what the tiles remember waits in RAM: from the fastest to the thriftiest.
TILES = ((None, False), (512, False), (384, False), (256, False), (512, True), (384, True), (256, True), (128, True))
WORTH = 1.02  # a plan that is faster by less isn't worth the RAM
UNTRIED_DISK = 1e9  # bytes a second that are expected of a disk that wasn't tried
CALM = 0.7  # what is carried beside the computing shall take no longer than this share of it, as far as it can be had


@dataclass(frozen=True)
class Budget:
    """Bytes that a generation may take. ``vram`` is 0 where there is no card."""

    vram: int
    ram: int


@dataclass(frozen=True)
class Shortfall:
    """The thriftiest choice still takes ``needed`` bytes of ``memory`` in ``phase``, of ``available`` ones."""

    phase: str
    memory: str
    needed: int
    available: int


def budget_of(resources: Resources) -> Budget:
    """What is free, less a reserve."""
    card = resources.card
    vram = 0 if card is None else card.free - vram_reserve(card.free)
    ram = resources.ram_free - min(OTHERS, int(OTHERS_SHARE * resources.ram_free))
    return Budget(max(0, vram), ram if resources.ram_total else UNKNOWN)


def vram_reserve(free: int) -> int:
    """Bytes of VRAM that a plan leaves alone."""
    return CONTEXT + int(FRAGMENTS * free)


def choose(case: Case, resources: Resources, offload: str) -> Choice | Shortfall:
    """The first that fits, from the most comfortable one on; if none does, by how much the thriftiest doesn't."""
    if (written := to_be_made(case)) > resources.disk_free:
        return Shortfall("loading", "disk", written, resources.disk_free)
    budget = budget_of(resources)
    fitting: Choice | Shortfall = Shortfall("denoising", "vram", 0, 0)
    for wanted in _choices(case, budget, offload):
        fitting = _fit_phases(case, wanted, budget)
        if isinstance(fitting, Choice):
            break
    return fitting if isinstance(fitting, Shortfall) else _fit_ram(case, fitting, resources)


def lower(case: Case, choice: Choice, phase: str) -> Choice | None:
    """The next choice that takes strictly less where ``phase`` computes; None: nothing is left to give."""
    before = total(phase_terms(case, choice)[phase])
    for next_one in _LADDERS[phase](case, choice):
        if total(phase_terms(case, next_one)[phase]) < before:
            return next_one
    return None


def to_be_made(case: Case) -> int:
    """Bytes of 8-bit weights that must be written to the disk first; 0 if they are there, or not wanted."""
    if case.preset.weights == "stored" or case.preset.weights in case.model.quantised:
        return 0
    towers = [weights for tower in case.model.experts for weights in tower.all]
    return sum(part.matrices + SCALE_BYTES * part.rows for part in (*towers, *case.model.bridge.blocks))


def shown_chunk(case: Case, size: int | None) -> int | None:
    """A chunk of all tokens is none."""
    return None if size is None or size >= case.shape.video else size


def file_bytes(case: Case) -> int:
    """Bytes of files that a step reads: an expert's layers and what else it needs."""
    return sum(case.packs[True][0]) + resident(case)


def _choices(case: Case, budget: Budget, offload: str) -> Iterator[Choice]:
    """What may be chosen, in the order in which it is preferred."""
    if case.device == "cpu":
        yield from (_plain(case, 0, size, text_kv=True) for size in CHUNKS if size <= CHUNK)
        yield _plain(case, 0, CHUNKS[-1], text_kv=False)
        return
    every, layers = len(all_packs(case, text_kv=True)), case.model.experts[0].layers
    if offload in ("auto", "none"):
        yield replace(_plain(case, every, None, text_kv=True), kept=True)
        yield replace(_plain(case, every, CHUNK, text_kv=True), kept=True)
    if offload == "none":
        yield from (replace(_plain(case, every, size, text_kv=False), kept=True) for size in CHUNKS if size < CHUNK)
    if offload in ("auto", "component"):
        yield _plain(case, layers, None, text_kv=True)
    if offload == "auto":
        yield _plain(case, _most_slots(case, budget, layers), CHUNK, text_kv=True)
    if offload in ("auto", "layer"):
        yield from _thrifty(case, (SLOTS, FEWEST))
    if offload == "component":
        yield from _thrifty(case, (layers,))


def _thrifty(case: Case, slots: tuple[int, ...]) -> Iterator[Choice]:
    """Fewer slots, then no text kept, then smaller chunks."""
    yield from (_plain(case, count, CHUNK, text_kv=True) for count in slots)
    yield from (_plain(case, slots[-1], size, text_kv=False) for size in CHUNKS if size <= CHUNK)


def _plain(case: Case, slots: int, chunk: int | None, *, text_kv: bool) -> Choice:
    buffers = FEWEST if slots else 0
    text = "device" if case.device != "cpu" else "cpu"
    return Choice(slots, buffers, False, shown_chunk(case, chunk), text_kv, text, None)


def _most_slots(case: Case, budget: Budget, layers: int) -> int:
    """As many as there is room for, at most all of one expert's; ``SLOTS`` even if there isn't."""
    smallest = _plain(case, SLOTS, CHUNK, text_kv=True)
    room = budget.vram - total(phase_terms(case, smallest)["denoising"])
    more = sorted(case.packs[True][0], reverse=True)[SLOTS:layers]
    slots = SLOTS
    for pack in more:
        room -= pack
        slots += room >= 0
    return min(slots, layers)


def _fit_phases(case: Case, choice: Choice, budget: Budget) -> Choice | Shortfall:
    """``choice`` with the text encoder and the pictures where they fit."""
    memory, available = ("ram", budget.ram) if case.device == "cpu" else ("vram", budget.vram)

    def taken(tried: Choice, phase: str) -> int:
        return phase_ram(case, tried)[phase] if memory == "ram" else total(phase_terms(case, tried)[phase])

    for phase, options in (
        ("denoising", [choice]),
        ("text", [replace(choice, text=text) for text in (TEXTS if case.device != "cpu" else ("cpu",))]),
        ("frame", [replace(choice, vae_tile=tile, tiles_wait=waits) for tile, waits in _tiles(case)]),
        ("decoding", [replace(choice, vae_tile=tile, tiles_wait=waits) for tile, waits in _tiles(case)]),
    ):
        fitting = next((tried for tried in options if taken(tried, phase) <= available), None)
        if fitting is None:
            least = min(taken(tried, phase) for tried in options)
            return Shortfall(phase, memory, least, available)
        choice = _merged(choice, fitting, phase)
    return choice


def _merged(choice: Choice, fitting: Choice, phase: str) -> Choice:
    """Of the tiles that frame and decoding want, the thriftier ones."""
    if phase not in ("frame", "decoding"):
        return fitting
    order = [(choice.vae_tile, choice.tiles_wait), (fitting.vae_tile, fitting.tiles_wait)]
    tile, waits = max(order, key=TILES.index)
    return replace(choice, vae_tile=tile, tiles_wait=waits)


def _tiles(case: Case) -> list[tuple[int | None, bool]]:
    """Tiles that are smaller than the picture. On a CPU nothing waits elsewhere."""
    longest = max(case.spec.height, case.spec.width)
    return [(tile, waits) for tile, waits in TILES if (tile or 0) < longest and not (waits and case.device == "cpu")]


def _fit_ram(case: Case, choice: Choice, resources: Resources) -> Choice | Shortfall:
    """``choice`` with buffers: the fewest that are as fast as any that fit."""
    ram = budget_of(resources).ram
    needed = phase_ram(case, choice)
    phase = max(needed, key=lambda name: needed[name])
    if needed[phase] > ram:
        return Shortfall(phase, "ram", needed[phase], ram)
    if case.device == "cpu":
        return choice
    fitting = [
        replace(choice, buffers=count, direct=_is_direct(case, replace(choice, buffers=count), ram))
        for count in sorted({FEWEST, SLOTS, *range(SLOTS, case.model.experts[0].layers + 1)})
        if max(phase_ram(case, replace(choice, buffers=count)).values()) <= ram
    ]
    return _thriftiest(case, fitting, resources)


def _is_direct(case: Case, choice: Choice, ram: int) -> bool:
    """Whether the system's memory can't hold the files beside what this process has of its own."""
    if any(case.converted(tower.rest) for tower in case.model.experts):
        return False
    experts = 2 if choice.kept else 1
    return experts * file_bytes(case) > ram - own_ram(case, choice)


def _thriftiest(case: Case, fitting: list[Choice], resources: Resources) -> Choice:
    """The one with the fewest buffers (three if there is room) that is as fast as the fastest, as far as is known."""
    rates = rates_for(case, resources.card)
    comfortable = [choice for choice in fitting if choice.buffers >= SLOTS] or fitting
    if rates is None:
        return comfortable[-1] if comfortable[0].direct else comfortable[0]
    compute, disk = compute_seconds(case, comfortable[0], rates), resources.disk_speed or UNTRIED_DISK
    times = [max(compute, beside_seconds(case, choice, rates, disk) / CALM) for choice in comfortable]
    return next(choice for choice, seconds in zip(comfortable, times, strict=True) if seconds <= WORTH * min(times))


def _lower_denoising(case: Case, choice: Choice) -> Iterator[Choice]:
    layers = case.model.experts[0].layers
    apart = replace(choice, kept=False, slots=min(choice.slots, layers))
    if choice.kept:
        yield apart
    slots = apart.slots
    while slots > FEWEST:
        slots = max(SLOTS, slots // 2) if slots > SLOTS else FEWEST
        yield replace(apart, slots=slots)
    thrifty = replace(apart, slots=slots, text_kv=False)
    yield thrifty
    for size in CHUNKS:
        if size < (choice.token_chunk or case.shape.video):
            yield replace(thrifty, token_chunk=size)


def _lower_text(case: Case, choice: Choice) -> Iterator[Choice]:
    apart = _apart(case, choice)
    yield apart
    for text in TEXTS[TEXTS.index(choice.text) + 1 :]:
        yield replace(apart, text=text)


def _lower_pictures(case: Case, choice: Choice) -> Iterator[Choice]:
    apart = _apart(case, choice)
    yield apart
    tiles = _tiles(case)
    here = (choice.vae_tile, choice.tiles_wait)
    for tile, waits in tiles[tiles.index(here) + 1 :] if here in tiles else ():
        yield replace(apart, vae_tile=tile, tiles_wait=waits)


def _apart(case: Case, choice: Choice) -> Choice:
    """The same without what stays on the device from phase to phase."""
    return replace(choice, kept=False, slots=min(choice.slots, case.model.experts[0].layers))


_LADDERS: dict[str, Callable[[Case, Choice], Iterator[Choice]]] = {
    "text": _lower_text,
    "frame": _lower_pictures,
    "denoising": _lower_denoising,
    "decoding": _lower_pictures,
}
