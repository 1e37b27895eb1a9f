"""What a clip takes on this machine: its plan, or what is missing. Arithmetic alone; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from app import machine
from app.texts import Language, catalogue, duration, size, text
from mova.layout import MODEL_INDEX, CheckpointError
from mova.model import Model, read_model
from mova.plan import DoesNotFit, Measured, Plan, Reason, plan_for
from mova.presets import Note
from mova.reasons import BYTES, SECONDS
from mova.resources import Card, Resources, read_card, read_memory
from mova.spec import ClipSpec

Outlook = Plan | DoesNotFit
Why = Reason | Note

STEP_OF_FREE = 128 << 20  # bytes; what is free changes all the time, and a plan shouldn't with it
KERNELS = {  # as the engine names them -> as their makers do
    "native": "PyTorch SDPA",
    "_native_cudnn": "cuDNN",
    "_flash_3": "FlashAttention 3",
    "sage": "SageAttention",
}

OF_ESTIMATES = ("estimated", "card-unknown", "cpu-unknown", "disk-unknown")

Seconds = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]  # ``Measured`` as a value
Stamp = tuple[tuple[str, int], ...]  # file -> when it was changed last


class How(NamedTuple):
    """What is asked for beside the clip's numbers."""

    offload: str = "auto"
    preset: str = "exact"
    device: str = "auto"
    dtype: str = "auto"


def model_of(checkpoint: Path) -> Model | None:
    """The checkpoint in numbers; its headers are read once. None: it isn't made yet, or can't be used."""
    try:
        return _model(checkpoint, _stamp(checkpoint))
    except (CheckpointError, OSError):
        return None


def resources_of(
    checkpoint: Path, device: str = "auto", worker: int | None = None, disk_speed: float | None = None
) -> Resources:
    """This machine now. What the studio's own worker (a process id) holds counts as free: it is let go of in time."""
    card, (free, total) = None if device == "cpu" else read_card(device), read_memory()
    if worker is not None:
        held = machine.held_by(worker)
        free, card = min(free + held.memory, total), card and _freed(card, held.gpu)
    if card:
        card = replace(card, free=card.free // STEP_OF_FREE * STEP_OF_FREE)
    return Resources(card, free // STEP_OF_FREE * STEP_OF_FREE, total, machine.disk_free(checkpoint), disk_speed)


def largest_file(checkpoint: Path) -> Path | None:
    """The file that tells most of how fast the disk is."""
    return max(checkpoint.glob("*/*.safetensors"), key=lambda file: file.stat().st_size, default=None)


def outlook(
    model: Model, spec: ClipSpec, resources: Resources, how: How, measured: Measured | None = None
) -> Outlook | None:
    """How it would be made, or by how much it doesn't fit; None where there is no such device."""
    plain = spec.model_copy(update={"seed": 0, "negative_prompt": ""})
    seconds = tuple((plan, tuple(each.items())) for plan, each in (measured or {}).items())
    return _outlook(model, plain, resources, how, seconds)


def reasons_of(plan: Plan) -> tuple[Reason, ...]:
    """Why it is as it is; where its times were measured, without what is said of estimates."""
    measured = plan.phase("denoising").measured
    return tuple(reason for reason in plan.reasons if not (measured and reason.code in OF_ESTIMATES))


# In words


def in_words(plan: Plan, language: Language) -> str:
    """Where the weights live, in a sentence."""
    if plan.device == "cpu":
        return text("plan.is_cpu", language)
    if plan.offload != "layer":
        return text(f"plan.is_{plan.offload}", language)
    layers = next((reason.figure("layers") for reason in plan.reasons if reason.code == "layers-kept"), plan.slots)
    waiting = "direct" if plan.direct else "pinned" if plan.buffers >= int(layers) else "staged"
    filled = {"slots": plan.slots, "layers": layers} | ({"buffers": plan.buffers} if waiting == "pinned" else {})
    return text(f"plan.is_layer_{waiting}", language, **filled)


def lacking(error: DoesNotFit, language: Language) -> str:
    """By how much it doesn't fit, in a sentence."""
    return text(
        f"plan.lacks_{error.memory}",
        language,
        phase=phase_name(error.phase, language),
        needed=size(error.needed),
        available=size(error.available),
        missing=size(error.missing),
    )


def phase_name(phase: str, language: Language) -> str:
    """What a phase does."""
    return _named("plan.phase", phase, language)


def reason_in_words(reason: Why, language: Language) -> str:
    """Why something is as it is; a reason that the catalogue doesn't have is said in English."""
    key = f"reason.{reason.code}"
    if key not in catalogue():
        return str(reason)
    return text(key, language, **{name: _figure(name, value, language) for name, value in reason.figures})


def term_in_words(term: str, language: Language) -> str:
    """What takes memory; a term that the catalogue doesn't have as it is."""
    return _named("term", term.replace(" ", "_"), language)


def kernel_name(attention: str) -> str:
    """What an attention kernel is called."""
    return KERNELS.get(attention, attention)


def _named(place: str, name: str, language: Language) -> str:
    """What the catalogue calls it; a name that isn't there stays as it is."""
    joint = "_" if "." in place else "."
    key = f"{place}{joint}{name}"
    return text(key, language) if key in catalogue() else name


def _figure(name: str, value: int | float | str, language: Language) -> str:
    """A figure as it is written in a sentence."""
    if isinstance(value, str):
        return _word(name, value, language)
    if name in BYTES:
        return size(int(value))
    if name in SECONDS:
        return duration(value, language)
    if name == "share":
        return f"{value:.0%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _word(name: str, value: str, language: Language) -> str:
    if name == "capability" and not value[0].isdecimal():
        return text("plan.the_cpu", language)
    places = {"offload": "form.offload", "preset": "form.preset", "other": "form.preset"}
    return _named(places[name], value, language) if name in places else value


def _freed(card: Card, held: int | None) -> Card:
    """The card once a process has let go of it; where the driver doesn't say what that holds, empty."""
    return replace(card, free=card.total if held is None else min(card.free + held, card.total))


@lru_cache(maxsize=256)
def _outlook(model: Model, spec: ClipSpec, resources: Resources, how: How, seconds: Seconds) -> Outlook | None:
    measured: Mapping[str, Mapping[str, float]] = {plan: dict(each) for plan, each in seconds}
    try:
        return plan_for(model, spec, resources, **how._asdict(), measured=measured)
    except DoesNotFit as error:
        return error.with_traceback(None)
    except ValueError:  # a device that isn't here: the job will say so
        return None


def _stamp(checkpoint: Path) -> Stamp:
    """What changes whenever a file does that a model is read from."""
    weights = [*checkpoint.glob("*/*.safetensors"), *checkpoint.glob("quantised/*/*.safetensors")]
    files = [checkpoint / MODEL_INDEX, *checkpoint.glob("*/*.json"), *weights]
    return tuple((str(file), file.stat().st_mtime_ns) for file in sorted(files))


@lru_cache(maxsize=16)
def _model(checkpoint: Path, stamp: Stamp) -> Model:
    return read_model(checkpoint)
