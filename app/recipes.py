"""Recipes: what a clip is asked to be, as a file (TOML or JSON) or flags, made what the store queues."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from agents.sound import Line, Sound
from app.checkpoints import find_checkpoints, on_servers
from app.form import MOST_CANDIDATES, MOST_TAKES, Form, Mode, Quality, compose, length_of, level
from app.jobs import LOCAL, SGLANG, Brief, Offload, Orientation, Preset, Step
from app.servers import MODELS
from app.settings import Settings
from app.texts import Language, translated
from mova.layout import CheckpointInfo
from mova.picture import PictureError, open_picture
from mova.spec import MAX_FRAMES, MAX_SEED, ClipSpec, problems

FULL_ONLY = ("idea", "models", "sound", "review", "painted", "candidates")
FRAMES = ("first_frame", "last_frame")
NAMED_ELSEWHERE = {
    "guidance": "guidance_scale",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "num_inference_steps": "steps",
    "duration": "seconds",
    "frames": "num_frames",
    "image": "first_frame",
    "input_reference": "first_frame",
    "model": "checkpoint",
    "mode": "workflow",
    "lufs": "loudness",
}
FORM_FIELDS = (
    *("painted", "candidates", "quality", "guidance_scale", "bridge_guidance_scale", "negative_prompt", "num_frames"),
    *("steps", "fps", "video_shift", "audio_shift", "first_frame_position", "last_frame_position", "seconds"),
)


class RecipeError(Exception):
    """A recipe can't be used; the message is one sentence for each thing that is wrong with it."""


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) == inf:
        raise PydanticCustomError("number", "it must be a number")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]
Percent = Annotated[int, Field(ge=0, le=100)]


class Recipe(BaseModel, frozen=True, extra="forbid"):
    """What may stand in a recipe. What is left out is as the Create form starts; limits of a clip are ``ClipSpec``'s.

    ``size`` is ``WIDTHxHEIGHT``; ``checkpoint`` a name or a path; ``review`` true, or the steps to look on after.
    """

    workflow: Mode | None = None
    prompt: str | None = None
    idea: str | None = None
    first_frame: Path | None = None
    last_frame: Path | None = None
    first_frame_position: Percent | None = None
    last_frame_position: Percent | None = None
    engine: str = Field(LOCAL, pattern=rf"^({LOCAL}|{SGLANG}(:\w[\w.-]*)?)$")
    checkpoint: str | None = None
    size: str | None = Field(None, pattern=r"^\d{1,6}[x×X*]\d{1,6}$")
    orientation: Orientation | None = None
    seconds: Annotated[Number, Field(gt=0, le=MAX_FRAMES)] | None = None
    num_frames: Number | None = None
    fps: Annotated[Number, Field(le=MAX_FRAMES)] | None = None
    quality: Quality | None = None
    steps: Number | None = None
    guidance_scale: Number | None = None
    bridge_guidance_scale: Number | None = None
    video_shift: Number | None = None
    audio_shift: Number | None = None
    negative_prompt: str | None = None
    seed: Number | None = None
    takes: int = Field(1, ge=1, le=MOST_TAKES)
    offload: Offload | None = None
    preset: Preset | None = None
    loudness: Annotated[Number, Field(ge=-70, le=0)] | None = None
    models: dict[Step, str] = {}
    sound: Sound = Sound()
    review: bool | list[Step] = False
    painted: bool | None = None
    candidates: int | None = Field(None, ge=1, le=MOST_CANDIDATES)

    @property
    def mode(self) -> Mode:
        """Full Workflow where there is an idea, unless it is said."""
        return self.workflow or ("simple" if self.idea is None else "full")


@dataclass(frozen=True)
class Order:
    """One clip to queue, checked. Its frames are paths anywhere on this machine."""

    brief: Brief
    takes: int

    def each(self) -> Iterable[Brief]:
        """A brief a take: a given seed is that of the first, and each other has the next."""
        for take in range(self.takes):
            seed = (self.brief.spec.seed + take) % (MAX_SEED + 1)
            yield self.brief.model_copy(update={"spec": self.brief.spec.model_copy(update={"seed": seed})})


def read(file: Path) -> dict[str, Any]:
    """What stands in a recipe file; its paths are relative to its folder, and absolute here.

    Raises:
        RecipeError: it can't be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        content = json.loads(text) if file.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise RecipeError(f"{file} can't be read ({error.strerror or error}).") from error
    except ValueError as error:
        kind = "JSON" if file.suffix.lower() == ".json" else "TOML"
        raise RecipeError(f"{file} can't be read as {kind} ({error}). Mend that place.") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{file} holds no JSON object. Write the recipe as {{…}}.")
    return absolute(content, file.absolute().parent)


def absolute(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same, with paths that are relative to that folder made absolute; a checkpoint's only if it is there."""
    found = dict(content)
    for name in (*FRAMES, "checkpoint"):
        value = found.get(name)
        if isinstance(value, str) and (name in FRAMES or (folder / Path(value).expanduser()).is_dir()):
            found[name] = str(folder / Path(value).expanduser())
    return found


def merged(content: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with another's keys in place of its own; tables are merged too."""
    both = {
        name: {**content[name], **new}
        for name, new in over.items()
        if isinstance(new, dict) and isinstance(content.get(name), dict)
    }
    return {**content, **over, **both}


def order(content: Mapping[str, Any], settings: Settings) -> Order:
    """What is to be queued.

    Raises:
        RecipeError: one sentence for each thing that is wrong, in the words of the Create form where it knows them.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError("\n".join(dict.fromkeys(_sentence(item) for item in error.errors()))) from None
    if said := [*_amiss(recipe, settings), *_unusable_frames(recipe)]:
        raise RecipeError("\n".join(said))
    remote = recipe.engine != LOCAL
    checkpoint = (_served if remote else _checkpoint)(recipe.checkpoint, settings)
    brief = compose(_form(recipe, checkpoint, settings), data=settings.data, endpoints=settings.providers)
    if not isinstance(brief, Brief):
        raise RecipeError("\n".join(brief))
    brief = brief.model_copy(update={"spec": _sized(brief.spec, recipe.size)})
    if remote:
        _check_size(brief.spec, checkpoint)
    return Order(brief, recipe.takes)


def _form(recipe: Recipe, checkpoint: CheckpointInfo, settings: Settings) -> Form:
    given = {name: value for name in FORM_FIELDS if (value := getattr(recipe, name)) is not None}
    frames = {name: str(path) for name in FRAMES if (path := getattr(recipe, name))}
    width, height = _parsed(recipe.size) or checkpoint.sizes[0]
    loudness = settings.loudness if recipe.loudness is None else recipe.loudness
    steps = {"review_steps": recipe.review} if isinstance(recipe.review, list) else {}
    sound = recipe.sound
    return Form(
        checkpoint,
        **{"seconds": length_of(checkpoint)} | given | frames | steps,
        engine=recipe.engine,
        model=checkpoint.name,
        mode=recipe.mode,
        prompt=recipe.prompt or "",
        idea=recipe.idea or "",
        lines=[_row(line) for line in sound.dialogue],
        **sound.model_dump(exclude={"dialogue"}),
        models=recipe.models,
        review=bool(recipe.review),
        orientation=recipe.orientation or ("portrait" if height > width else "landscape"),
        seed="" if recipe.seed is None else str(recipe.seed),
        offload=recipe.offload or (settings.offload if recipe.engine == LOCAL else "auto"),
        preset=recipe.preset or (settings.preset if recipe.engine == LOCAL else "exact"),
        loudness=level(loudness),
    )


def _row(line: Line) -> dict[Any, str]:
    return line.model_dump()


def _amiss(recipe: Recipe, settings: Settings) -> Iterable[str]:
    """What each field alone can't tell: what is missing, and what would have no effect."""
    given = recipe.model_fields_set
    if recipe.mode == "simple":
        if recipe.prompt is None:
            yield "There is nothing to make. Give a prompt, or an idea for Full Workflow."
        for name in FULL_ONLY:
            if name in given and recipe.prompt is not None:
                yield f"{name} has no effect in Simple mode. Leave it out, or give an idea in place of the prompt."
    elif recipe.prompt is not None:
        yield 'Full Workflow writes the prompt itself. Give an idea in its place, or workflow = "simple".'
    if recipe.size and recipe.orientation:
        yield "Either size or orientation: one of them has no effect. Leave one out."
    for more, less in (("num_frames", "seconds"), ("steps", "quality")):
        if {more, less} <= given:
            yield f"Either {more} or {less}: one of them has no effect. Leave one out."
    server = recipe.engine.partition(":")[2]
    if (server and server not in settings.sglang) or (recipe.engine != LOCAL and not settings.sglang):
        known = ", ".join(settings.sglang) or "none"
        yield (
            f"The engine {recipe.engine!r} is not set up (servers: {known}). "
            "Set STUDIO_SGLANG__NAME__BASE_URL, or use the engine local."
        )


def _unusable_frames(recipe: Recipe) -> Iterable[str]:
    for name in FRAMES:
        path = getattr(recipe, name)
        try:
            if path:
                open_picture(path)
        except (PictureError, OSError) as error:
            yield f"{name} = {str(path)!r} can't be used: {error}"


def _checkpoint(wanted: str | None, settings: Settings) -> CheckpointInfo:
    """The one that is named, by name, folder or path; else the one that the Create form starts with."""
    found = find_checkpoints(settings.data, settings.checkpoint)
    if wanted is None:
        return next((info for info in found if settings.checkpoint or not info.problems), found[0])
    for info in found:
        if wanted.casefold() in (info.name.casefold(), info.path.name.casefold()) or Path(wanted) == info.path:
            return info
    if Path(wanted).is_dir():
        return find_checkpoints(settings.data, Path(wanted))[0]
    names = [info.name for info in found]
    near = get_close_matches(wanted, names, 1, 0.5)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}."
    raise RecipeError(f"There is no checkpoint {wanted!r}. {hint}")


def _served(wanted: str | None, settings: Settings) -> CheckpointInfo:
    """The model that a server is to have; without a name, the one that clips are made with on this machine."""
    if wanted is None:
        here = _checkpoint(None, settings).name
        wanted = here if here in MODELS else next(iter(MODELS))
    name = next((name for name in MODELS if name.casefold() == Path(wanted).name.casefold()), None)
    if name is None:
        raise RecipeError(f"A server makes clips by {' or '.join(MODELS)}, not by {wanted!r}.")
    return on_servers(name)


def _check_size(spec: ClipSpec, checkpoint: CheckpointInfo) -> None:
    """A server's model makes two sizes, whatever it is asked for."""
    if (spec.width, spec.height) not in checkpoint.sizes:
        sizes = " and ".join(f"{width}x{height}" for width, height in checkpoint.sizes)
        raise RecipeError(f"A server with {checkpoint.name} makes {sizes}, and no {spec.width}x{spec.height}.")


def _sized(spec: ClipSpec, size: str | None) -> ClipSpec:
    wanted = _parsed(size)
    if wanted is None:
        return spec
    try:
        return ClipSpec(**spec.model_dump() | {"width": wanted[0], "height": wanted[1]})
    except ValidationError as error:
        raise RecipeError("\n".join(translated(each, Language.EN) for each in problems(error))) from error


def _parsed(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    width, height = map(int, re.split(r"\D", size))
    return width, height


def _sentence(item: ErrorDetails) -> str:
    place = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        return _unknown(place)
    name = ".".join(part for part in place if not part.startswith(("function-", "list[", "bool", "dict[")))
    said = item["msg"].rstrip(".")
    if item["type"] == "sound":
        return item["msg"]
    return f"{name} = {item['input']!r} can't be used: {said[:1].lower()}{said[1:]}."


def _unknown(place: list[str]) -> str:
    """A key that nothing is made of, and the one that was perhaps meant."""
    *parents, key = place
    forms: dict[str, type[BaseModel]] = {"sound": Sound, "dialogue": Line}
    form = next((forms[parent] for parent in reversed(parents) if parent in forms), Recipe)
    names = list(form.model_fields)
    near = (
        [NAMED_ELSEWHERE[key]] if form is Recipe and key in NAMED_ELSEWHERE else get_close_matches(key, names, 1, 0.6)
    )
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
    return f"There is nothing called {'.'.join(place)!r} in a recipe. {hint}"
