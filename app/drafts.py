"""A draft of the Create form: what is kept of it, as it was left, or as an earlier job's brief fills it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from agents.sound import MAX_LINES
from app.form import (
    AS_MADE,
    KEPT,
    LONGEST,
    MOST_CANDIDATES,
    MOST_TAKES,
    QUALITIES,
    Form,
    length_of,
    level,
    steps_of,
)
from app.jobs import LOCAL, Brief, Position, Step
from mova.layout import CheckpointInfo


def as_content(brief: Brief, data: Path) -> dict[str, Any]:
    """What the form would hold to ask for this brief again: with another seed where that was drawn, without frames."""
    spec = brief.spec
    return {
        "checkpoint": str(data / brief.checkpoint),
        "engine": brief.engine,
        **({} if brief.engine == LOCAL else {"model": brief.checkpoint}),
        **_words(brief),
        "orientation": brief.orientation,
        "seconds": min(max(round(spec.duration * 2) / 2, 0.5), LONGEST),
        "num_frames": spec.num_frames,
        "steps": spec.num_inference_steps,
        "fps": spec.fps,
        "guidance_scale": spec.guidance_scale,
        "bridge_guidance_scale": spec.bridge_guidance_scale,
        "video_shift": spec.video_shift,
        "audio_shift": spec.audio_shift,
        "negative_prompt": spec.negative_prompt,
        "seed": "" if brief.random_seed else str(spec.seed),
        "offload": brief.offload,
        "preset": brief.preset,
        "loudness": level(brief.loudness),
        "first_frame_position": _percent(brief.first_frame_position),
        "last_frame_position": _percent(brief.last_frame_position),
    }


def fitting(content: Mapping[str, Any], checkpoint: CheckpointInfo, start: Mapping[str, Any]) -> dict[str, Any]:
    """Every field as a draft of the form has it, or as the form starts where the draft says nothing usable.

    What an earlier job's brief overrules without need (its frames are those of its length, its steps those of a
    quality) is said as length and quality again, so that a creator finds the form as it was filled in.
    """
    first = Form(checkpoint, seconds=length_of(checkpoint))
    defaults = {name: getattr(first, name) for name in KEPT} | dict(start)
    if isinstance(content.get("prompt"), str):  # kept before there was a choice
        defaults["mode"] = "simple"
    found = {name: _usable(name, content.get(name, defaults[name]), defaults[name]) for name in KEPT}
    for quality in QUALITIES:
        if "quality" not in content and found["steps"] == steps_of(checkpoint, quality):
            found |= {"quality": quality, "steps": None}
    if found["fps"] == checkpoint.default_spec.fps:
        found["fps"] = None
    if found["num_frames"] == Form(checkpoint, seconds=found["seconds"], fps=found["fps"]).frames:
        found["num_frames"] = None
    return found


def _words(brief: Brief) -> dict[str, Any]:
    """What the form holds of a brief's words, and of what agents are to do with them."""
    full = brief.full
    if full is None:
        return {"mode": "simple", "prompt": brief.prompt}
    waits = [step for step in Step if step in full.review and (step is not Step.FIRST_FRAME or full.candidates == 1)]
    return {
        "mode": "full",
        "idea": brief.prompt,
        "painted": full.painted,
        "candidates": full.candidates,
        "lines": [line.model_dump() for line in full.sound.dialogue],
        **full.sound.model_dump(exclude={"dialogue"}),
        "models": dict(full.models),
        "review": bool(waits),
        **({"review_steps": waits} if waits else {}),
    }


def _usable(name: str, value: Any, otherwise: Any) -> Any:
    try:
        return _field(name).validate_python(value)
    except ValidationError:
        return otherwise


@cache
def _field(name: str) -> TypeAdapter[Any]:
    limits = {
        "takes": Field(ge=1, le=MOST_TAKES),
        "lines": Field(max_length=MAX_LINES),
        "candidates": Field(ge=1, le=MOST_CANDIDATES),
        "seconds": Field(ge=0.5, le=LONGEST),
        "loudness": Field(pattern=rf"^({AS_MADE}|-\d{{1,2}}(\.\d+)?)$"),
    }
    percent = Field(ge=0, le=100) if name.endswith("position") else None
    kind: Any = Annotated[get_type_hints(Form)[name], limits.get(name, percent)]
    return TypeAdapter(kind)


def _percent(position: Position) -> int:
    return round(position[0] * 100)
