"""What would fit where nothing does: each remedy is tried before it is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mova.choosing import Shortfall, choose
from mova.footprint import Case
from mova.layout import SIZES_360P
from mova.presets import fitted, preset_named, sage_installed
from mova.reasons import Reason, reason
from mova.resources import Resources
from mova.spec import FRAME_GROUP


def remedies_for(case: Case, resources: Resources, offload: str) -> tuple[Reason, ...]:
    """What would fit: one change, or where none helps, a smaller size and fewer frames together."""
    single = [*_other_settings(case, resources, offload), *_fewer_frames(case, resources, offload)]
    smaller = _smaller(case)
    if smaller and _fits(smaller, resources, offload):
        single.append(reason("smaller", width=smaller.spec.width, height=smaller.spec.height))
    single += _lighter(case, resources, offload)
    if not single and smaller:
        single += _fewer_frames(smaller, resources, offload, code="smaller-fewer")
    if case.device != "cpu" and not single and _fits(replace(case, device="cpu"), resources, "auto"):
        single.append(reason("cpu-device"))
    return (*single, reason("remote"))


def _fits(case: Case, resources: Resources, offload: str) -> bool:
    return not isinstance(choose(case, resources, offload), Shortfall)


def _other_settings(case: Case, resources: Resources, offload: str) -> Iterator[Reason]:
    if offload != "auto" and case.device != "cpu" and _fits(case, resources, "auto"):
        yield reason("other-mode", offload="auto")
    if case.dtype != "auto" and _fits(replace(case, dtype="auto"), resources, offload):
        yield reason("stored-dtype", dtype="auto")


def _fewer_frames(case: Case, resources: Resources, offload: str, code: str = "fewer-frames") -> Iterator[Reason]:
    """The most frames (4 n + 1) that fit: halving the range, since more frames never take less."""

    def fits(groups: int) -> bool:
        frames = FRAME_GROUP * groups + 1
        spec = case.spec.model_copy(update={"num_frames": frames})
        return _fits(replace(case, spec=spec), resources, offload)

    low, high = 1, (case.spec.num_frames - 1) // FRAME_GROUP
    if high <= low or not fits(low):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    frames = FRAME_GROUP * low + 1
    size = {"width": case.spec.width, "height": case.spec.height} if code == "smaller-fewer" else {}
    yield reason(code, **size, num_frames=frames, seconds=frames / case.spec.fps)


def _smaller(case: Case) -> Case | None:
    """The clip at 360p, its side up; None if it is no larger."""
    spec = case.spec
    width, height = SIZES_360P[spec.height > spec.width]
    if width * height >= spec.width * spec.height:
        return None
    return replace(case, spec=spec.model_copy(update={"width": width, "height": height}))


def _lighter(case: Case, resources: Resources, offload: str) -> Iterator[Reason]:
    if case.preset.weights != "stored":
        return
    capability = resources.card.capability if resources.card else None
    light = fitted(preset_named("light"), capability, sage=sage_installed())
    if _fits(replace(case, preset=light), resources, offload):
        yield reason("preset", preset=light.name)
