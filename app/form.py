"""What a creator fills in, made a brief; or the sentences that say why it can't be one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from app.jobs import Brief, Offload
from mova.layout import CheckpointInfo
from mova.spec import MAX_PROMPT_TOKENS, ClipSpec, frames_for, problems

Orientation = Literal["landscape", "portrait"]
Quality = Literal["draft", "standard", "fine"]
ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)
QUALITIES: tuple[Quality, ...] = get_args(Quality)

LONGEST = 8.0  # seconds; what the released checkpoints were trained on

# Shares of the steps that the checkpoint was evaluated with (50 for the released ones). 20 of 50 is the safe first
# speed-up: it costs 0.01 of speech error.
STEP_SHARES: dict[Quality, float] = {"draft": 0.2, "standard": 0.4, "fine": 1.0}

# Where the weights wait while they are not needed.
WAITING: dict[Offload, str] = {
    "none": "on the device, all of them",
    "component": "in main memory, by component",
    "layer": "in main memory, layer by layer",
}

# A sentencepiece tokenizer of UMT5's size makes about 4 tokens of 3 English words, and 2 of 3 Chinese characters.
TOKENS_PER_WORD, TOKENS_PER_IDEOGRAPH = 1.35, 0.7
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclass(frozen=True)
class Form:
    """The Create form as it stands. ``num_frames``, ``steps`` and ``fps`` overrule length, quality and checkpoint."""

    checkpoint: CheckpointInfo
    prompt: str = ""
    orientation: Orientation = "landscape"
    seconds: float | None = 2.0
    quality: Quality = "standard"
    guidance_scale: float | None = 5.0
    bridge_guidance_scale: float | None = 1.0
    negative_prompt: str = ""
    seed: str = ""
    num_frames: int | None = None
    steps: int | None = None
    fps: float | None = None
    video_shift: float | None = None
    audio_shift: float | None = None
    offload: Offload = "none"

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


def size_of(checkpoint: CheckpointInfo, orientation: Orientation) -> tuple[int, int]:
    """(width, height) of that orientation."""
    return checkpoint.sizes[ORIENTATIONS.index(orientation)]


def steps_of(checkpoint: CheckpointInfo, quality: Quality) -> int:
    """Denoising steps of that quality."""
    return max(1, round(checkpoint.default_spec.num_inference_steps * STEP_SHARES[quality]))


def compose(form: Form, *, data: Path, loudness: float | None = None) -> Brief | list[str]:
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
    try:
        spec = ClipSpec(**asked)
    except ValidationError as error:
        return [*form.checkpoint.problems, *problems(error)]
    if form.checkpoint.problems:
        return list(form.checkpoint.problems)
    return Brief(
        prompt=form.prompt,
        checkpoint=_stored(form.checkpoint.path, data),
        spec=spec,
        random_seed=not form.seed.strip(),
        offload=form.offload,
        loudness=loudness,
    )


def too_long(prompt: str) -> str | None:
    """What to say about a prompt that the model won't read to its end. An estimate: the tokens are the engine's."""
    ideographs = len(_IDEOGRAPHS.findall(prompt))
    words = len(_IDEOGRAPHS.sub(" ", prompt).split())
    tokens = round(words * TOKENS_PER_WORD + ideographs * TOKENS_PER_IDEOGRAPH)
    if tokens <= MAX_PROMPT_TOKENS:
        return None
    return (
        f"This prompt has about {tokens:,} tokens. The model reads only the first {MAX_PROMPT_TOKENS} "
        f"(some {MAX_PROMPT_TOKENS / TOKENS_PER_WORD:.0f} English words) and never sees the rest."
    )


def _seed(text: str) -> int | str:
    text = text.strip()
    if not text:
        return 0  # drawn when the job is submitted
    return int(text) if re.fullmatch(r"[+-]?\d{1,40}", text) else text


def _stored(checkpoint: Path, data: Path) -> str:
    return checkpoint.relative_to(data).as_posix() if checkpoint.is_relative_to(data) else str(checkpoint)


def in_words(brief: Brief) -> dict[str, str]:
    """A brief's settings, each by the name and in the unit that a creator knows."""
    spec = brief.spec
    return {
        "Checkpoint": Path(brief.checkpoint).name,
        "Size": f"{spec.width} × {spec.height}",
        "Length": f"{spec.duration:.2f} s, {spec.num_frames} frames at {spec.fps:g} fps",
        "Steps": str(spec.num_inference_steps),
        "Guidance": f"{spec.guidance_scale:g}",
        "Bridge guidance": f"{spec.bridge_guidance_scale:g}",
        "Shift": f"video {_shift(spec.video_shift)}, audio {_shift(spec.audio_shift)}",
        "Seed": f"{spec.seed}{' (drawn)' if brief.random_seed else ''}",
        "Negative prompt": spec.negative_prompt or "none",
        "Weights wait": WAITING[brief.offload],
        "Loudness": "as the model made it" if brief.loudness is None else f"levelled to {brief.loudness:g} LUFS",
    }


def _shift(value: float | None) -> str:
    return "the checkpoint's own" if value is None else f"{value:g}"
