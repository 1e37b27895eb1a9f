"""What a creator fills in, made a brief; or the sentences that say why it can't be one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import ValidationError

from agents.models import Endpoint
from agents.sound import Sound
from app import agency
from app.jobs import LOCAL, Brief, Full, Offload, Orientation, Position, Preset, Step
from app.servers import MODELS, unable
from app.texts import Language, text, translated
from mova.layout import CheckpointInfo
from mova.spec import MAX_PROMPT_TOKENS, NEGATIVE_PROMPT, ClipSpec, frames_for, problems

Mode = Literal["full", "simple"]
Quality = Literal["draft", "standard", "fine"]
Field = Literal["speaker", "language", "words"]
Line = dict[Field, str]
MODES: tuple[Mode, ...] = get_args(Mode)
ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)
QUALITIES: tuple[Quality, ...] = get_args(Quality)
OFFLOADS: tuple[Offload, ...] = get_args(Offload)
PRESETS: tuple[Preset, ...] = get_args(Preset)

LONGEST = 8.0  # seconds; what the released checkpoints were trained on
MOST_TAKES = 8
MOST_CANDIDATES = 4
LONGEST_IDEA = 10_000  # characters
AS_MADE = "as made"
LOUDNESS = (AS_MADE, "-14", "-16", "-23")  # LUFS for the web, a podcast, broadcast

# Shares of the steps that the checkpoint was evaluated with (50 for the released ones). 20 of 50 is the safe first
# speed-up: it costs 0.01 of speech error.
STEP_SHARES: dict[Quality, float] = {"draft": 0.2, "standard": 0.4, "fine": 1.0}

NO_ENDPOINTS: Mapping[str, Endpoint] = MappingProxyType({})

# A sentencepiece tokenizer of UMT5's size makes about 4 tokens of 3 English words, and 2 of 3 Chinese characters.
TOKENS_PER_WORD, TOKENS_PER_IDEOGRAPH = 1.35, 0.7
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclass(frozen=True)
class Form:
    """The Create form as it stands. ``num_frames``, ``steps`` and ``fps`` overrule length, quality and checkpoint.

    Frames are paths relative to the data folder; a position is where the crop lies along its free axis, in percent.
    ``loudness`` is a number of LUFS as text, or ``AS_MADE``. ``prompt`` is Simple mode's, all from ``idea`` to
    ``review_steps`` is Full Workflow's: ``models`` are choices by step, empty for the usual one. Where ``engine`` is a
    server's, ``checkpoint`` stands for its ``model``.
    """

    checkpoint: CheckpointInfo
    engine: str = LOCAL
    model: str = next(iter(MODELS))
    mode: Mode = "full"
    prompt: str = ""
    idea: str = ""
    painted: bool = True
    candidates: int = 1
    lines: list[Line] = field(default_factory=list)
    effects: str = ""
    ambience: str = ""
    music: str = ""
    no_music: bool = False
    models: dict[Step, str] = field(default_factory=dict)
    review: bool = False
    review_steps: list[Step] = field(default_factory=lambda: [Step.FIRST_FRAME, Step.VIDEO_PROMPT])
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
    offload: Offload = "auto"
    preset: Preset = "exact"
    loudness: str = AS_MADE
    takes: int = 1
    first_frame: str | None = None
    last_frame: str | None = None
    first_frame_position: int = 50
    last_frame_position: int = 50

    @property
    def agent_steps(self) -> tuple[Step, ...]:
        """The agents' steps that its clip goes through."""
        return self._asked({}).steps

    @property
    def waits(self) -> frozenset[Step]:
        """The steps after which the creator looks on; several candidates are made to choose from, in Auto too."""
        ticked = set(self.review_steps) if self.review else set()
        if self.candidates > 1:
            ticked.add(Step.FIRST_FRAME)
        return frozenset(ticked.intersection(self.agent_steps))

    def choices(self, endpoints: Mapping[str, Endpoint]) -> dict[Step, str]:
        """By what each of these steps is done."""
        return {step: self.models.get(step) or agency.usual(step, endpoints) for step in self.agent_steps}

    def unable(self, endpoints: Mapping[str, Endpoint]) -> dict[Step, str]:
        """What keeps a step from being done by what was chosen for it: the sentences of the library, by step."""
        found = agency.problems(self._asked(self.choices(endpoints)), endpoints)
        return {step: str(error) for step, error in found.items()}

    def _asked(self, models: dict[Step, str]) -> Brief:
        full = Full(models=models, painted=self.painted) if self.mode == "full" else None
        spec = self.checkpoint.default_spec
        return Brief(prompt="", full=full, checkpoint="", spec=spec, first_frame=self.first_frame)

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


KEPT = tuple(each.name for each in fields(Form) if each.name != "checkpoint")  # what a draft of the form holds


def size_of(checkpoint: CheckpointInfo, orientation: Orientation) -> tuple[int, int]:
    """(width, height) of that orientation."""
    return checkpoint.sizes[ORIENTATIONS.index(orientation)]


def steps_of(checkpoint: CheckpointInfo, quality: Quality) -> int:
    """Denoising steps of that quality."""
    return max(1, round(checkpoint.default_spec.num_inference_steps * STEP_SHARES[quality]))


def length_of(checkpoint: CheckpointInfo) -> float:
    """The seconds that the form starts with."""
    return min(round(checkpoint.default_spec.duration * 2) / 2, LONGEST)


def compose(
    form: Form, *, data: Path, language: Language = Language.EN, endpoints: Mapping[str, Endpoint] = NO_ENDPOINTS
) -> Brief | list[str]:
    """The brief that the form asks for, or one sentence for each thing that is wrong with it."""
    spec, wrong = _spec(form)
    said = [translated(sentence, language) for sentence in (*form.checkpoint.problems, *wrong)]
    full = None
    if form.mode == "full":
        full, amiss = _full(form, endpoints, language)
        said += amiss
    if spec is None or said:
        return said
    brief = Brief(
        prompt=form.idea if full else form.prompt,
        full=full,
        engine=form.engine,
        checkpoint=_stored(form.checkpoint.path, data),
        spec=spec,
        random_seed=not form.seed.strip(),
        first_frame=form.first_frame,
        last_frame=form.last_frame,
        first_frame_position=_position(form.first_frame_position),
        last_frame_position=_position(form.last_frame_position),
        offload=form.offload,
        preset=form.preset,
        loudness=None if form.loudness == AS_MADE else float(form.loudness),
    )
    cannot = unable(brief) if brief.engine != LOCAL else []
    return [translated(str(error), language) for error in cannot] or brief


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
        "preset": say(f"preset_{brief.preset}"),
        "loudness": loudness_in_words(brief.loudness, language),
    }
    return {say(name): value for name, value in words.items()}


def loudness_in_words(loudness: float | None, language: Language = Language.EN) -> str:
    """What is done about the sound's loudness."""
    if loudness is None:
        return text("form.loudness_own", language)
    return text("form.loudness_is", language, lufs=f"{loudness:g}".replace("-", "−"))


def _spec(form: Form) -> tuple[ClipSpec | None, list[str]]:
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
        return ClipSpec(**asked), []
    except ValidationError as error:
        return None, problems(error)


def _full(form: Form, endpoints: Mapping[str, Endpoint], language: Language) -> tuple[Full, list[str]]:
    """What Full Workflow is asked for, and what is wrong with it."""
    said = []
    if not form.idea.strip() and form.first_frame is None:
        said.append(text("form.no_idea", language))
    if len(form.idea) > LONGEST_IDEA:
        said.append(text("form.idea_too_long", language, count=f"{len(form.idea):,}", most=f"{LONGEST_IDEA:,}"))
    sound, amiss = _sound(form, language)
    unable: dict[str, list[str]] = {}
    for step, sentence in form.unable(endpoints).items():
        unable.setdefault(sentence, []).append(text(f"form.step_{step}", language))
    comma = text("form.comma", language)
    said += amiss + [
        text("form.unable", language, steps=comma.join(steps), why=translated(sentence, language))
        for sentence, steps in unable.items()
    ]
    full = Full(
        models=form.choices(endpoints),
        sound=sound,
        review=form.waits,
        painted=form.painted,
        candidates=form.candidates,
    )
    return full, said


def _sound(form: Form, language: Language) -> tuple[Sound, list[str]]:
    """The sound desk, where rows that were left empty don't count and "no music" goes before what it would be."""
    rows = [(number, row) for number, row in enumerate(form.lines, 1) if any(map(str.strip, row.values()))]
    music = "" if form.no_music else form.music
    asked = {"effects": form.effects, "ambience": form.ambience, "music": music, "no_music": form.no_music}
    try:
        return Sound.model_validate({"dialogue": [row for _, row in rows], **asked}), []
    except ValidationError as error:
        said = []
        for wrong in error.errors():
            sentence = translated(wrong["msg"], language)
            match wrong["loc"]:
                case ("dialogue", int(place), *_):
                    sentence = text("form.in_line", language, number=rows[place][0], sentence=sentence)
            said.append(sentence)
        return Sound(), said


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
