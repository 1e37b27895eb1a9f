"""What a clip is asked to be: every limit and every default of a generation, in one place and without torch."""

from __future__ import annotations

import math
import numbers
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator
from pydantic_core import PydanticCustomError

SIZE_MULTIPLE = 16  # 8 (spatial compression of the VAE) x 2 (patch of the video DiT)
FRAME_GROUP = 4  # temporal compression of the VAE: one frame alone, then groups of four
MAX_SEED = 2**63 - 1
MAX_SIZE, MAX_FRAMES, MAX_STEPS = 4096, 4001, 1000  # beyond what any machine renders: a slip of the pen
MIN_FPS, MAX_FPS = 1, 240
MAX_PROMPT_TOKENS = 512

# The negative prompt that the released checkpoints were sampled with (17 items; see the model's report).
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指"
)


class ClipSpec(BaseModel, frozen=True, extra="forbid"):
    """The numbers of one clip. Building one validates it; the error names the nearest valid values.

    Units: ``height`` and ``width`` in pixels, ``num_frames`` in frames, ``fps`` in frames per second. A shift of
    ``None`` means the checkpoint's own. ``guidance_scale`` 1.0 needs one evaluation of the model instead of two.
    """

    height: int = 352
    width: int = 640
    num_frames: int = 193
    fps: float = 24.0
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    bridge_guidance_scale: float = 1.0
    video_shift: float | None = None
    audio_shift: float | None = None
    negative_prompt: str = NEGATIVE_PROMPT
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _limits(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
            found = [check(name, values[name]) for name, check in _CHECKS.items() if name in values]
            if sentences := [problem for problem in found if problem]:
                raise PydanticCustomError("clip", "{problems}", {"problems": "\n".join(sentences)})
        return values

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.fps

    def audio_samples(self, sample_rate: int) -> int:
        """Samples that belong to the clip: ``int(sample_rate * num_frames / fps)``."""
        return int(sample_rate * self.num_frames / self.fps)


def problems(error: ValidationError) -> list[str]:
    """The sentences of a validation error, without pydantic's frame around them."""
    sentences: list[str] = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        sentences += item["msg"].split("\n") if item["type"] == "clip" else [f"{place}: {item['msg']}"]
    return sentences


def nearest(value: float, step: int, offset: int = 0, lowest: int = 1) -> tuple[int, ...]:
    """The valid integers (``offset + k * step``, at least ``lowest``) next to ``value``: one or two of them."""
    below = offset + math.floor((value - offset) / step) * step
    return tuple(sorted({max(candidate, lowest) for candidate in (below, below + step)}))


def frames_for(seconds: float, fps: float) -> int:
    """The valid number of frames (4n + 1) closest to ``seconds``; 8 s at 24 fps are 193 frames."""
    return max(1, round(seconds * fps / FRAME_GROUP) * FRAME_GROUP + 1)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return isinstance(value, numbers.Integral) or math.isfinite(value)


def _or(values: tuple[int, ...]) -> str:
    return " and ".join(str(value) for value in values)


def _size(name: str, value: Any) -> str | None:
    if not _is_number(value):
        return f"{name} must be a whole number of pixels, not {value!r}."
    if value > MAX_SIZE:
        return f"{name} {value} is above {MAX_SIZE}; nearest valid: {MAX_SIZE}."
    if value > 0 and value % SIZE_MULTIPLE == 0:
        return None
    valid = nearest(value, SIZE_MULTIPLE, lowest=SIZE_MULTIPLE)
    return f"{name} {value} is not a positive multiple of {SIZE_MULTIPLE}; nearest valid: {_or(valid)}."


def _frames(name: str, value: Any) -> str | None:
    if not _is_number(value):
        return f"{name} must be a whole number of frames, not {value!r}."
    if value > MAX_FRAMES:
        return f"{name} {value} is above {MAX_FRAMES}; nearest valid: {MAX_FRAMES}."
    if value >= 1 and value % FRAME_GROUP == 1:
        return None
    return f"{name} {value} is not of the form 4n + 1; nearest valid: {_or(nearest(value, FRAME_GROUP, 1))}."


def _steps(name: str, value: Any) -> str | None:
    if not _is_number(value):
        return f"{name} must be a whole number, not {value!r}."
    if value % 1:
        return f"{name} {value} is not a whole number; nearest valid: {_or(nearest(value, 1))}."
    if not 1 <= value <= MAX_STEPS:
        return f"{name} {value} is outside 1 to {MAX_STEPS}; nearest valid: {1 if value < 1 else MAX_STEPS}."
    return None


def _scale(name: str, value: Any) -> str | None:
    if not _is_number(value):
        return f"{name} must be a finite number of 0 or more, not {value!r}."
    return f"{name} {value} is negative; nearest valid: 0 (1 switches guidance off)." if value < 0 else None


def _fps(name: str, value: Any) -> str | None:
    if not _is_number(value):
        return f"{name} must be a finite number of frames per second, not {value!r}."
    if not MIN_FPS <= value <= MAX_FPS:
        nearest_valid = MIN_FPS if value < MIN_FPS else MAX_FPS
        return f"{name} {value} is outside {MIN_FPS} to {MAX_FPS}; nearest valid: {nearest_valid}."
    return None


def _shift(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not _is_number(value):
        return f"{name} must be a finite number above 0, not {value!r}."
    return f"{name} {value} is not above 0; the model was trained with 5." if value <= 0 else None


def _seed(name: str, value: Any) -> str | None:
    if not _is_number(value) or value % 1:
        return f"{name} must be a whole number, not {value!r}."
    if not 0 <= value <= MAX_SEED:
        return f"{name} {value} is outside 0 to {MAX_SEED}; nearest valid: {0 if value < 0 else MAX_SEED}."
    return None


_CHECKS = {
    "height": _size,
    "width": _size,
    "num_frames": _frames,
    "fps": _fps,
    "num_inference_steps": _steps,
    "guidance_scale": _scale,
    "bridge_guidance_scale": _scale,
    "video_shift": _shift,
    "audio_shift": _shift,
    "seed": _seed,
}
