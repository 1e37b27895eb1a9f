"""What a creator fills in, made a brief; or the sentences that say why it can't be one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from app.jobs import Brief, Offload, Orientation, Position
from app.texts import Language, text, translated
from mova.layout import CheckpointInfo
from mova.spec import MAX_PROMPT_TOKENS, NEGATIVE_PROMPT, ClipSpec, frames_for, problems

Quality = Literal["draft", "standard", "fine"]
ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)
QUALITIES: tuple[Quality, ...] = get_args(Quality)
OFFLOADS: tuple[Offload, ...] = get_args(Offload)

LONGEST = 8.0  # seconds; what the released checkpoints were trained on
MOST_TAKES = 8
AS_MADE = "as made"
LOUDNESS = (AS_MADE, "-14", "-16", "-23")  # LUFS for the web, a podcast, broadcast

# Shares of the steps that the checkpoint was evaluated with (50 for the released ones). 20 of 50 is the safe first
# speed-up: it costs 0.01 of speech error.
STEP_SHARES: dict[Quality, float] = {"draft": 0.2, "standard": 0.4, "fine": 1.0}

# A sentencepiece tokenizer of UMT5's size makes about 4 tokens of 3 English words, and 2 of 3 Chinese characters.
TOKENS_PER_WORD, TOKENS_PER_IDEOGRAPH = 1.35, 0.7
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclass(frozen=True)
class Form:
    """The Create form as it stands. ``num_frames``, ``steps`` and ``fps`` overrule length, quality and checkpoint.

    Frames are paths relative to the data folder; a position is where the crop lies along its free axis, in percent.
    ``loudness`` is a number of LUFS as text, or ``AS_MADE``.
    """

    checkpoint: CheckpointInfo
    prompt: str = ""
    orientation: Orientation = "landscape"
    seconds: float | None = 2.0
    quality: Quality = "standard"
    guidance_scale: float | None = 5.0
    bridge_guidance_scale: float | None = 1.0
    negative_prompt: str = NEGATIVE_PROMPT
    seed: str = ""
    num_frames: int | None = None
    steps: int | None = None
    fps: float | None = None
    video_shift: float | None = None
    audio_shift: float | None = None
    offload: Offload = "none"
    loudness: str = AS_MADE
    takes: int = 1
    first_frame: str | None = None
    last_frame: str | None = None
    first_frame_position: int = 50
    last_frame_position: int = 50

    @property
    def frames_per_second(self) -> float:
        """The rate that was given, or the checkpoint's own."""
        return self.checkpoint.default_spec.fps if self.fps is None else self.fps

    @property
    def frames(self) -> int:
        """The number that was given, or the valid one closest to the length."""
        if self.num_frames is not None:
            return self.num_frames
        if not self.seconds or self.frames_per_second <= 0:
            return self.checkpoint.default_spec.num_frames
        return frames_for(self.seconds, self.frames_per_second)


KEPT = tuple(field.name for field in fields(Form) if field.name != "checkpoint")  # what a draft of the form holds


def size_of(checkpoint: CheckpointInfo, orientation: Orientation) -> tuple[int, int]:
    """(width, height) of that orientation."""
    return checkpoint.sizes[ORIENTATIONS.index(orientation)]


def steps_of(checkpoint: CheckpointInfo, quality: Quality) -> int:
    """Denoising steps of that quality."""
    return max(1, round(checkpoint.default_spec.num_inference_steps * STEP_SHARES[quality]))


def length_of(checkpoint: CheckpointInfo) -> float:
    """The seconds that the form starts with."""
    return min(round(checkpoint.default_spec.duration * 2) / 2, LONGEST)


def compose(form: Form, *, data: Path, language: Language = Language.EN) -> Brief | list[str]:
    """The brief that the form asks for, or one sentence for each thing that is wrong with it."""
    width, height = size_of(form.checkpoint, form.orientation)
    asked: dict[str, Any] = {
        "width": width,
        "height": height,
        "num_frames": form.frames,
        "fps": form.frames_per_second,
        "num_inference_steps": steps_of(form.checkpoint, form.quality) if form.steps is None else form.steps,
        "guidance_scale": form.guidance_scale,
        "bridge_guidance_scale": form.bridge_guidance_scale,
        "video_shift": form.video_shift,
        "audio_shift": form.audio_shift,
        "negative_prompt": form.negative_prompt,
        "seed": _seed(form.seed),
    }
    wrong = list(form.checkpoint.problems)
    try:
        spec = ClipSpec(**asked)
    except ValidationError as error:
        wrong += problems(error)
    if wrong:
        return [translated(sentence, language) for sentence in wrong]
    return Brief(
        prompt=form.prompt,
        checkpoint=_stored(form.checkpoint.path, data),
        spec=spec,
        random_seed=not form.seed.strip(),
        first_frame=form.first_frame,
        last_frame=form.last_frame,
        first_frame_position=_position(form.first_frame_position),
        last_frame_position=_position(form.last_frame_position),
        offload=form.offload,
        loudness=None if form.loudness == AS_MADE else float(form.loudness),
    )


def as_content(brief: Brief, data: Path) -> dict[str, Any]:
    """What the form would hold to ask for this brief again: with another seed where that was drawn, without frames."""
    spec = brief.spec
    return {
        "checkpoint": str(data / brief.checkpoint),
        "prompt": brief.prompt,
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
    found = {name: _usable(name, content.get(name, defaults[name]), defaults[name]) for name in KEPT}
    for quality in QUALITIES:
        if "quality" not in content and found["steps"] == steps_of(checkpoint, quality):
            found |= {"quality": quality, "steps": None}
    if found["fps"] == checkpoint.default_spec.fps:
        found["fps"] = None
    if found["num_frames"] == Form(checkpoint, seconds=found["seconds"], fps=found["fps"]).frames:
        found["num_frames"] = None
    return found


def _usable(name: str, value: Any, otherwise: Any) -> Any:
    try:
        return _field(name).validate_python(value)
    except ValidationError:
        return otherwise


@cache
def _field(name: str) -> TypeAdapter[Any]:
    limits = {
        "takes": Field(ge=1, le=MOST_TAKES),
        "seconds": Field(ge=0.5, le=LONGEST),
        "loudness": Field(pattern=rf"^({AS_MADE}|-\d{{1,2}}(\.\d+)?)$"),
    }
    percent = Field(ge=0, le=100) if name.endswith("position") else None
    kind: Any = Annotated[get_type_hints(Form)[name], limits.get(name, percent)]
    return TypeAdapter(kind)


def too_long(prompt: str, language: Language = Language.EN) -> str | None:
    """What to say about a prompt that the model won't read to its end. An estimate: the tokens are the engine's."""
    ideographs = len(_IDEOGRAPHS.findall(prompt))
    words = len(_IDEOGRAPHS.sub(" ", prompt).split())
    tokens = round(words * TOKENS_PER_WORD + ideographs * TOKENS_PER_IDEOGRAPH)
    if tokens <= MAX_PROMPT_TOKENS:
        return None
    return text(
        "form.too_long",
        language,
        tokens=f"{tokens:,}",
        most=MAX_PROMPT_TOKENS,
        words=f"{MAX_PROMPT_TOKENS / TOKENS_PER_WORD:.0f}",
        characters=f"{MAX_PROMPT_TOKENS / TOKENS_PER_IDEOGRAPH:.0f}",
    )


def level(loudness: float | None) -> str:
    """A loudness as the form holds it."""
    return AS_MADE if loudness is None else f"{loudness:g}"


def in_words(brief: Brief, language: Language = Language.EN) -> dict[str, str]:
    """A brief's settings, each by the name and in the unit that a creator knows."""
    spec = brief.spec

    def say(name: str, **values: Any) -> str:
        return text(f"form.{name}", language, **values)

    def shift(value: float | None) -> str:
        return say("own") if value is None else f"{value:g}"

    words = {
        "checkpoint": Path(brief.checkpoint).name,
        "size": f"{spec.width} × {spec.height}",
        "length": say("length_is", seconds=f"{spec.duration:.2f}", frames=spec.num_frames, fps=f"{spec.fps:g}"),
        "steps": str(spec.num_inference_steps),
        "guidance_scale": f"{spec.guidance_scale:g}",
        "bridge_guidance_scale": f"{spec.bridge_guidance_scale:g}",
        "shift": say("shift_is", video=shift(spec.video_shift), audio=shift(spec.audio_shift)),
        "seed": say("seed_drawn", seed=spec.seed) if brief.random_seed else str(spec.seed),
        "negative_prompt": spec.negative_prompt or say("none"),
        "offload": say(f"offload_{brief.offload}"),
        "loudness": loudness_in_words(brief.loudness, language),
    }
    return {say(name): value for name, value in words.items()}


def loudness_in_words(loudness: float | None, language: Language = Language.EN) -> str:
    """What is done about the sound's loudness."""
    if loudness is None:
        return text("form.loudness_own", language)
    return text("form.loudness_is", language, lufs=f"{loudness:g}".replace("-", "−"))


def _seed(text: str) -> int | str:
    text = text.strip()
    if not text:
        return 0  # drawn when the job is submitted
    return int(text) if re.fullmatch(r"[+-]?\d{1,40}", text) else text


def _stored(checkpoint: Path, data: Path) -> str:
    return checkpoint.relative_to(data).as_posix() if checkpoint.is_relative_to(data) else str(checkpoint)


def _position(percent: int) -> Position:
    """Along the free axis; the other one has no room, so that any position on it is the same."""
    share = min(max(percent, 0), 100) / 100
    return share, share


def _percent(position: Position) -> int:
    return round(position[0] * 100)
