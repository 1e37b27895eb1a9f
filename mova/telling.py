"""Why a choice is what it is, told from its figures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from mova.choosing import budget_of, file_bytes, to_be_made, vram_reserve
from mova.footprint import (
    Case,
    Choice,
    own_ram,
    phase_terms,
    read_texts,
    shelf,
    total,
    working,
)
from mova.reasons import Reason, reason
from mova.resources import Card, Resources
from mova.times import attention_for, beside_seconds, carried, compute_seconds, rates_for
from mova.vae_costs import decode_bytes, waiting_bytes

# Video states that one layer of one branch reads and writes more where element-wise work isn't compiled, counted with
# ``mova.meter``; and what compiling takes, once, at a guess.
SPARED_PASSES, COMPILING = 110, 60.0
COMPILERS = ("cc", "gcc", "clang", "cl")


def compiler_installed() -> bool:
    """Whether torch can compile for a card: Triton, and a C compiler for its launchers."""
    return find_spec("triton") is not None and any(map(shutil.which, COMPILERS))


def compiles(case: Case, card: Card | None) -> bool:
    """Whether compiling the element-wise work is worth it, and possible."""
    return _compiling(case, card).code == "compiled"


def reasons_for(case: Case, choice: Choice, resources: Resources) -> tuple[Reason, ...]:
    """Why ``choice`` is what it is, most telling first."""
    if case.device == "cpu":
        return (*_on_cpu(case, choice, resources), *_on_computing(case, choice, resources))
    told = (*_on_layers(case, choice, resources), *_on_files(case, choice, resources))
    return (*told, *_on_computing(case, choice, resources), *_on_figures(case, resources))


def _on_cpu(case: Case, choice: Choice, resources: Resources) -> Iterator[Reason]:
    yield reason("cpu", weights=case.model.bytes)
    if file_bytes(case) > budget_of(resources).ram - own_ram(case, choice):
        yield reason("cpu-disk", weights=file_bytes(case))
    yield from _on_dtype(case)
    yield reason("cpu-unknown")


def _on_layers(case: Case, choice: Choice, resources: Resources) -> Iterator[Reason]:
    layers = case.model.experts[0].layers
    if choice.kept:
        yield reason("all-kept", weights=total(phase_terms(case, choice)["text"]))
        return
    if choice.slots >= layers:
        yield reason("expert-kept", layers=layers)
        return
    copied, _ = carried(case, choice)
    yield reason("layers-kept", slots=choice.slots, layers=layers, copied=copied)
    if rates := rates_for(case, resources.card):
        compute = compute_seconds(case, choice, rates)
        beside = beside_seconds(case, choice, rates, resources.disk_speed)
        yield reason("copies-hidden" if beside <= compute else "copies-felt", beside=beside, compute=compute)


def _on_files(case: Case, choice: Choice, resources: Resources) -> Iterator[Reason]:
    pinned = shelf(case, choice.buffers, text_kv=choice.text_kv)
    _, read = carried(case, choice)
    if choice.direct and read:
        yield reason("direct", read=read)
        if resources.disk_speed is None:
            yield reason("disk-unknown")
    elif choice.slots < case.model.experts[0].layers and not choice.direct:
        enough = choice.buffers >= case.model.experts[0].layers
        yield reason("pinned", buffers=choice.buffers, pinned=pinned) if enough else reason("staged", pinned=pinned)
    yield from _on_dtype(case)


def _on_dtype(case: Case) -> Iterator[Reason]:
    if case.converted_bytes:
        yield reason("converted", dtype=case.dtype, weights=case.converted_bytes)
    if written := to_be_made(case):
        yield reason("make-weights", written=written)


def _on_computing(case: Case, choice: Choice, resources: Resources) -> Iterator[Reason]:
    size, spec, vae = case.itemsize, case.spec, case.model.vae
    if choice.token_chunk:
        spared = working(case, None) - working(case, choice.token_chunk)
        yield reason("chunked", tokens=choice.token_chunk, video=case.shape.video, spared=spared)
    if not choice.text_kv:
        spared = read_texts(case, text_kv=True) - read_texts(case, text_kv=False)
        yield reason("text-again", spared=spared)
    if choice.text == "parts":
        yield reason("text-parts", weights=case.held(case.model.text.weights))
    if choice.text == "cpu" and case.device != "cpu":
        yield reason("text-cpu")
    if choice.vae_tile:
        yield reason("tiled", tile=choice.vae_tile, whole=decode_bytes(vae, spec.height, spec.width, size))
    if choice.tiles_wait:
        waiting = waiting_bytes(vae, spec.height, spec.width, size, choice.vae_tile)
        yield reason("tiles-wait", waiting=waiting)
    card = resources.card if case.device == "cuda" else None
    if "cudnn" in attention_for(case, card):
        yield reason("cudnn")
    if card and rates_for(case, card):
        yield _compiling(case, card)


def _on_figures(case: Case, resources: Resources) -> Iterator[Reason]:
    card = resources.card
    if card is None:
        return
    yield reason("reserve", reserve=vram_reserve(card.free))
    rates = rates_for(case, card)
    if rates is None:
        yield reason("card-unknown", card=card.name)
    else:
        seen = rates.seen
        yield reason("estimated", bf16=round(rates.bf16 / 1e12), card=card.name, share=seen.share, seen=seen.card)


def _compiling(case: Case, card: Card | None) -> Reason:
    """Whether compiling pays: what it spares of memory traffic in all steps against what it takes."""
    rates = rates_for(case, card)
    if rates is None:
        return reason("not-compiled", saved=0.0)
    shape, expert = case.shape, case.model.experts[0]
    passes = SPARED_PASSES * expert.layers * len(shape.branches)
    saved = passes * shape.video * expert.dim * case.itemsize / rates.memory
    if saved * case.spec.num_inference_steps < COMPILING:
        return reason("not-compiled", saved=saved * case.spec.num_inference_steps)
    return reason("compiled" if compiler_installed() else "no-compiler", saved=saved)
