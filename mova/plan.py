"""How a clip will be made on this machine: one plan, from arithmetic alone, before anything loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mova.choosing import OFFLOADS, Shortfall, choose, lower
from mova.footprint import SIZES, Case, Choice, phase_ram, phase_terms, total
from mova.model import EXPERTS, Model, read_model
from mova.presets import fitted, preset_named, sage_installed
from mova.reasons import DoesNotFit, Reason
from mova.remedies import remedies_for
from mova.resources import Card, Resources, read_resources
from mova.spec import ClipSpec
from mova.telling import compiles, reasons_for
from mova.times import Seconds, attention_for, estimate, rates_for

__all__ = [
    "EXPERTS",
    "OFFLOADS",
    "PHASES",
    "Card",
    "DoesNotFit",
    "Measured",
    "Model",
    "Phase",
    "Plan",
    "Reason",
    "Resources",
    "notch_down",
    "plan_for",
    "read_model",
    "read_resources",
]

PHASES = ("text", "frame", "denoising", "decoding")
STEP = "step"
# Key of a plan -> one of ``PHASES`` but denoising, or ``STEP`` for one denoising step -> seconds.
Measured = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Phase:
    """What a phase of the generation holds at most, in bytes, and how long it takes.

    ``vram`` on the device, ``ram`` this process's own (not pages of the checkpoint's files, which the system may
    drop). ``terms`` is the arithmetic of ``vram`` (of ``ram`` on a CPU): what takes how much. ``seconds`` is None where
    nothing is known, an estimate unless ``measured``.
    """

    name: str  # of ``PHASES``
    vram: int
    ram: int
    seconds: float | None = None
    terms: tuple[tuple[str, int], ...] = ()
    measured: bool = False


@dataclass(frozen=True)
class Plan:
    """Where weights live and how a clip is computed; the pipeline follows it."""

    offload: str  # "none", "component" or "layer": what was asked for, or what "auto" came to
    device: str  # "cuda" or "cpu"
    dtype: str  # "auto" (as stored), "bfloat16" or "float32"
    weights: str  # "stored", "fp8" or "int8"
    slots: int  # places for a layer in VRAM; 0: weights are used where they are
    buffers: int  # places for a layer in pinned RAM; 0 likewise
    direct: bool  # files are read past the system's memory of them
    token_chunk: int | None  # video tokens at a time
    text_kv: bool  # the text's keys and values are kept from step to step
    attention: str  # the kernel that is expected to be the fastest
    compiled: bool  # element-wise work is compiled
    text: str  # the text encoder "device": whole on it; "parts": part by part; "cpu": computed there
    vae_tile: int | None  # pixels; pictures are encoded and decoded in tiles of that size
    tiles_wait: bool  # what the tiles remember waits in RAM
    preset: str
    phases: tuple[Phase, ...] = ()
    reasons: tuple[Reason, ...] = ()
    step_seconds: float | None = None  # of one denoising step, as ``Phase.seconds``
    subject: str = ""  # what times depend on besides: card, model, size, evaluations a step

    @property
    def key(self) -> str:
        """Short and stable: what measured times are kept under."""
        how = (self.device, self.dtype, self.offload, self.preset, self.weights, self.text)
        return "|".join((self.subject, *how))

    @property
    def vram(self) -> int:
        """Bytes of VRAM at the most."""
        return max((phase.vram for phase in self.phases), default=0)

    @property
    def ram(self) -> int:
        """Bytes of its own RAM at the most."""
        return max((phase.ram for phase in self.phases), default=0)

    @property
    def seconds(self) -> float | None:
        """Of all phases; None if one isn't known. Loading and writing are not among them."""
        known = [phase.seconds for phase in self.phases if phase.seconds is not None]
        return sum(known) if len(known) == len(self.phases) else None

    def phase(self, name: str) -> Phase:
        """One of ``phases``."""
        return next(phase for phase in self.phases if phase.name == name)


def plan_for(
    model: Model,
    spec: ClipSpec,
    resources: Resources,
    *,
    offload: str = "auto",
    preset: str = "exact",
    device: str = "auto",
    dtype: str = "auto",
    measured: Measured | None = None,
) -> Plan:
    """The plan for a clip ``spec`` of ``model`` on a machine with ``resources``.

    Args:
        model: the checkpoint, from ``read_model``.
        spec: size, length, steps, guidance.
        resources: from ``read_resources``.
        offload: "auto" takes the fastest that fits; "none", "component" and "layer" are taken at their word.
        preset: of ``mova.presets``; what the device can't do of it is left out.
        device: "auto" (the card if there is one), "cpu" or "cuda".
        dtype: "auto" (as stored), "bfloat16" or "float32".
        measured: seconds of earlier clips under ``Plan.key``; they replace estimates.

    Raises:
        DoesNotFit: by how much, and what would fit.
        ValueError: no such offload mode, preset, device or dtype.
    """
    case = case_for(model, spec, resources, preset=preset, device=device, dtype=dtype)
    if offload not in OFFLOADS:
        raise ValueError(f"'{offload}' is no offload mode; choose {', '.join(OFFLOADS)}.")
    choice = choose(case, resources, offload)
    if isinstance(choice, Shortfall):
        remedies = remedies_for(case, resources, offload)
        raise DoesNotFit(choice.phase, choice.memory, choice.needed, choice.available, remedies)
    return _assemble(case, choice, resources, measured or {})


def notch_down(
    plan: Plan, phase: str, model: Model, spec: ClipSpec, resources: Resources, measured: Measured | None = None
) -> Plan | None:
    """The next plan after an out-of-memory in ``phase``: strictly less memory there. None: nothing is left to give."""
    case = case_for(model, spec, resources, preset=plan.preset, device=plan.device, dtype=plan.dtype)
    choice = Choice(
        slots=plan.slots,
        buffers=plan.buffers,
        direct=plan.direct,
        token_chunk=plan.token_chunk,
        text_kv=plan.text_kv,
        text=plan.text,
        vae_tile=plan.vae_tile,
        tiles_wait=plan.tiles_wait,
        kept=plan.offload == "none" and plan.device != "cpu",
    )
    lowered = lower(case, choice, phase)
    return None if lowered is None else _assemble(case, lowered, resources, measured or {})


def case_for(
    model: Model,
    spec: ClipSpec,
    resources: Resources,
    *,
    preset: str = "exact",
    device: str = "auto",
    dtype: str = "auto",
) -> Case:
    """What is to be planned; arguments and errors as ``plan_for``."""
    card, kind = resources.card, device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if card else "cpu"
    if kind not in ("cpu", "cuda") or (kind == "cuda" and card is None):
        raise ValueError(f"There is no device '{device}' here; choose auto or cpu.")
    if dtype != "auto" and dtype not in SIZES:
        raise ValueError(f"'{dtype}' is no dtype; choose auto, {', '.join(SIZES)}.")
    capability = card.capability if card and kind == "cuda" else None
    able = fitted(preset_named(preset), capability, sage=sage_installed())
    return Case(model, spec, able, dtype, kind)


def _assemble(case: Case, choice: Choice, resources: Resources, measured: Measured) -> Plan:
    card = resources.card if case.device == "cuda" else None
    plan = Plan(
        offload=_mode(case, choice),
        device=case.device,
        dtype=case.dtype,
        weights=case.preset.weights,
        slots=choice.slots,
        buffers=choice.buffers,
        direct=choice.direct,
        token_chunk=choice.token_chunk,
        text_kv=choice.text_kv,
        attention=attention_for(case, card),
        compiled=compiles(case, card),
        text=choice.text,
        vae_tile=choice.vae_tile,
        tiles_wait=choice.tiles_wait,
        preset=case.preset.name,
        reasons=reasons_for(case, choice, resources),
        subject=_subject(case, card),
    )
    rates = rates_for(case, card)
    estimated = estimate(case, choice, rates, resources.disk_speed) if rates else None
    return _timed(case, choice, plan, estimated, measured.get(plan.key, {}))


def _timed(case: Case, choice: Choice, plan: Plan, estimated: Seconds | None, measured: Mapping[str, float]) -> Plan:
    """``plan`` with its phases, measured seconds before estimated ones."""
    times = {name: getattr(estimated, name) for name in PHASES} if estimated else dict.fromkeys(PHASES)
    times |= {name: seconds for name, seconds in measured.items() if name in PHASES and name != "denoising"}
    step = estimated.step if estimated else None
    if STEP in measured:
        step = measured[STEP]
        times["denoising"] = step * case.spec.num_inference_steps
    known = {"denoising" if name == STEP else name for name in measured}
    ram, terms = phase_ram(case, choice), phase_terms(case, choice)
    phases = tuple(
        Phase(
            name=name,
            vram=0 if case.device == "cpu" else total(terms[name]),
            ram=ram[name],
            seconds=times[name],
            terms=tuple(term for term in terms[name] if term[1]),
            measured=name in known,
        )
        for name in PHASES
    )
    reasons = (*plan.reasons, Reason("measured")) if STEP in measured else plan.reasons
    return replace(plan, phases=phases, step_seconds=step, reasons=reasons)


def _mode(case: Case, choice: Choice) -> str:
    if choice.kept or case.device == "cpu":
        return "none"
    return "component" if choice.slots >= case.model.experts[0].layers else "layer"


def _subject(case: Case, card: Card | None) -> str:
    """What times depend on besides the plan itself."""
    spec = case.spec
    clip = f"{spec.width}x{spec.height}x{spec.num_frames}x{len(case.shape.branches)}"
    return "|".join((card.name if card else "CPU", case.model.name, clip))
