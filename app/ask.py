"""What a program asks for: the fields of ``POST /v1/videos``, read within limits and understood."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, BinaryIO, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message, Receive

from agents.sound import MAX_LINES
from app.apierrors import ApiError
from app.form import MOST_CANDIDATES, Line, Mode, Quality
from app.jobs import LOCAL, SGLANG, Offload, Preset, Step
from mova.spec import MAX_FRAMES, ClipSpec, problems

MAX_PICTURE, MAX_BODY, MAX_TEXT = 50 << 20, 70 << 20, 8 << 20  # bytes; of a text field of a form
IN_MEMORY = 1 << 20  # bytes of a body; the rest waits on disk
LONGEST_PROMPT = 32_000  # characters
MOST_MARKS = 200_000  # of JSON's , : [ and {: each may take a hundred bytes once read, and base64 has none
MOST_TOLD = 20  # things that are wrong; one body can have thousands

PICTURES = ("input_reference", "last_frame")
ALIASES = {"steps": "num_inference_steps", "reference_url": "input_reference"}
JSON_FIELDS = ("models", "dialogue", "review")  # in a form these are JSON text
TEXTS = ("prompt", "negative_prompt")  # where empty isn't the same as absent

_NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,3})?")
_DATA_URL = re.compile(r"data:[\w.+/-]{0,100}(;[\w.=+-]{1,100})*;base64,", re.ASCII)

Text = Annotated[str, Field(max_length=LONGEST_PROMPT)]
Percent = Annotated[int, Field(ge=0, le=100)]


# What a field of a form of its own looks like, where the pattern alone would be told.
FORMS = {
    "size": "it is width x height in pixels, such as 640x352",
    "engine": f"it is {LOCAL}, {SGLANG} or {SGLANG}:name",
}


class Ask(BaseModel):
    """The fields. What is left out is as the studio's Create form starts; a clip's limits are ``ClipSpec``'s."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    prompt: Text = Field(description="What is seen and heard; the idea, with workflow `full`.")
    model: Annotated[str, Field(max_length=300)] | None = Field(
        None, description="A checkpoint's name, as `/v1/models` lists them; by default the first that can be used."
    )
    size: Annotated[str, Field(pattern=r"^\d{1,5}[xX×*]\d{1,5}$")] | None = Field(
        None, description="`WIDTHxHEIGHT`; by default the checkpoint's own, landscape. The answer says what is made."
    )
    seconds: Annotated[float, Field(gt=0, le=MAX_FRAMES)] | None = Field(
        None, description="The clip's length, to the next possible number of frames. `num_frames` goes before it."
    )
    num_frames: int | None = Field(None, description="4n + 1; 193 at 24 frames a second are 8.04 seconds.")
    fps: float | None = Field(None, description="Frames per second; by default the checkpoint's own.")
    seed: int | None = Field(None, description="By default one is drawn; the answer names it.")
    num_inference_steps: int | None = Field(None, description="Denoising steps (also `steps`).")
    quality: Quality | None = Field(None, description="Steps as a share of the checkpoint's, where no number is given.")
    guidance_scale: float | None = Field(None, description="1 switches guidance off and halves the work.")
    bridge_guidance_scale: float | None = Field(None, description="Above 1: dual guidance, for lip sync.")
    video_shift: float | None = Field(None, description="By default the checkpoint's own.")
    audio_shift: float | None = Field(None, description="By default the checkpoint's own.")
    negative_prompt: Text | None = Field(None, description="By default the one that the checkpoints were sampled with.")
    engine: Annotated[str, Field(pattern=rf"^({LOCAL}|{SGLANG}(:.{{1,100}})?)$")] = Field(
        LOCAL, description="`local`; `sglang`: the first healthy server that has the model; `sglang:name`: that one."
    )
    offload: Offload | None = Field(
        None, description="Where weights wait; `auto` goes by this machine. By default the studio's setting."
    )
    preset: Preset | None = Field(
        None, description="What is given up for speed and memory: `exact` nothing. By default the studio's setting."
    )
    loudness: Annotated[float, Field(ge=-70, le=0)] | None = Field(None, description="LUFS to level the sound to.")
    first_frame_position: Percent = Field(50, description="Where the crop of the picture lies along its free axis.")
    last_frame_position: Percent = Field(50, description="The same for `last_frame`.")
    workflow: Mode = Field("simple", description="`full`: agents make prompt and first frame of the idea.")
    models: dict[Step, str] = Field({}, description="Full Workflow: `endpoint:model` for each step.")
    dialogue: Annotated[list[Line], Field(max_length=MAX_LINES)] = Field([], description="Full Workflow: spoken lines.")
    effects: Text = Field("", description="Full Workflow: sounds of what happens.")
    ambience: Text = Field("", description="Full Workflow: sounds of the place.")
    music: Text = Field("", description="Full Workflow: what is played.")
    no_music: bool = Field(False, description="Full Workflow: no music at all.")
    painted: bool = Field(True, description="Full Workflow: paint a first frame where none is sent.")
    candidates: int = Field(1, ge=1, le=MOST_CANDIDATES, description="Full Workflow: first frames to choose from.")
    review: list[Step] = Field([], description="Full Workflow: steps after which the job waits for its creator.")


FULL_ONLY = ("models", "dialogue", "effects", "ambience", "music", "no_music", "painted", "candidates", "review")
NUMBERS = tuple(name for name in ClipSpec.model_fields if name in Ask.model_fields and name != "negative_prompt")


@dataclass(frozen=True)
class Sent:
    """What came: fields by name, and pictures by the name of their field."""

    fields: Mapping[str, Any]
    pictures: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """The same for the same content, however it was wrapped; what isn't known here is no part of it."""
        fields = {name: value for name, value in self.fields.items() if name in Ask.model_fields}
        pictures = {name: hashlib.sha256(data).hexdigest() for name, data in self.pictures.items()}
        text = json.dumps([fields, pictures], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def unused(self) -> list[str]:
        """Fields that mean nothing here."""
        return sorted(set(self.fields) - set(Ask.model_fields))


Body = FormData | UploadFile


async def receive(request: Request) -> Body:
    """The body of a request as it came, whole: a form's fields and files, or the bytes of JSON.

    Raises:
        ApiError: it is too large, or of another kind.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY:
        raise _too_large()
    bounded = Request(request.scope, _bounded(request.receive))
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await bounded.form(max_files=8, max_fields=200, max_part_size=MAX_TEXT)
    if kind != "application/json":
        raise ApiError(415, "Send multipart/form-data or application/json.", code="unsupported_media_type")
    body = UploadFile(cast(BinaryIO, SpooledTemporaryFile(IN_MEMORY)))  # noqa: SIM115  closed by its reader
    async for piece in bounded.stream():
        await body.write(piece)
    await body.seek(0)
    return body


def unwrap(body: Body) -> Sent:
    """What a body holds; takes as much time and memory as pictures do.

    Raises:
        ApiError: it can't be read.
    """
    try:
        fields, files = _form(body) if isinstance(body, FormData) else (_object(body.file), {})
    finally:
        for _, value in body.multi_items() if isinstance(body, FormData) else (("", body),):
            if isinstance(value, UploadFile):
                value.file.close()
    for alias, name in ALIASES.items():
        if alias in fields:
            fields.setdefault(name, fields.pop(alias))
    if {"width", "height"} <= set(fields):
        fields["size"] = f"{fields.pop('width')}x{fields.pop('height')}"
    pictures = {}
    for name in PICTURES:
        given = fields.pop(name, None)
        if name in files or given is not None:
            pictures[name] = files.get(name) or _picture(name, given)
    empty = [name for name, value in fields.items() if value is None or (value == "" and name not in TEXTS)]
    given = {name: value for name, value in fields.items() if name not in empty}
    return Sent({name: _number(value) if name in NUMBERS else value for name, value in given.items()}, pictures)


def understand(sent: Sent) -> Ask:
    """What is asked for.

    Raises:
        ApiError: one sentence for each thing that is wrong.
    """
    wrong = list(_unusable(sent.fields))
    try:
        ask = Ask.model_validate(sent.fields)
    except ValidationError as error:
        known = {param for param, _ in wrong}
        told = error.errors(include_url=False, include_context=False, include_input=False)[:MOST_TOLD]
        wrong += [each for each in map(_sentence, told) if each[0] not in known]
    if not wrong and not ask.prompt.strip() and (ask.workflow == "simple" or not sent.pictures):
        wrong.append(("prompt", "prompt is required: say what is seen and heard."))
    if wrong:
        raise ApiError(
            400, "\n".join(dict.fromkeys(said for _, said in wrong)), param=wrong[0][0], code="invalid_value"
        )
    return ask


def _bounded(receive: Receive) -> Receive:
    came = 0

    async def bounded() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > MAX_BODY:
            raise _too_large()
        return message

    return bounded


def _too_large() -> ApiError:
    return ApiError(413, f"The request is larger than {MAX_BODY >> 20} MB. Send a smaller picture.", code="too_large")


def _form(form: FormData) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields and files of a form, where ``a[b]`` is an entry of ``a`` and ``a[]`` one of several."""
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files[ALIASES.get(name, name)] = _bytes(name, value.file)
        elif name.endswith("[]"):
            fields.setdefault(name[:-2], []).append(value)
        elif entry := re.fullmatch(r"(\w+)\[(\w+)\]", name):
            fields.setdefault(entry[1], {})[entry[2]] = value
        else:
            fields[name] = _from_json(name, value) if name in JSON_FIELDS and value else value
    return fields, files


def _bytes(name: str, file: IO[bytes]) -> bytes:
    data = file.read(MAX_PICTURE + 1)
    if len(data) > MAX_PICTURE:
        raise ApiError(413, f"The picture is larger than {MAX_PICTURE >> 20} MB.", param=name, code="too_large")
    return data


def _object(file: IO[bytes]) -> dict[str, Any]:
    came, marks = [], 0
    while piece := file.read(IN_MEMORY):  # by pieces: nobody else computes while one is counted
        marks += _marks(piece)
        if marks > MOST_MARKS:
            raise _too_intricate(None)
        came.append(piece)
    content = _from_json(None, b"".join(came))
    if not isinstance(content, dict):
        raise ApiError(400, "The JSON must be an object of fields.", code="invalid_json")
    return content


def _from_json(name: str | None, text: str | bytes) -> Any:
    if isinstance(text, str) and _marks(text.encode(errors="replace")) > MOST_MARKS:
        raise _too_intricate(name)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = str(error)[:200]
        raise ApiError(400, f"{name or 'The body'} isn't JSON ({why}).", param=name, code="invalid_json") from error


def _marks(text: bytes) -> int:
    return len(text) - len(text.translate(None, b",:[{"))


def _too_intricate(name: str | None) -> ApiError:
    said = f"{name or 'The body'} has more than {MOST_MARKS} fields and entries. Send those that /docs names."
    return ApiError(400, said, param=name, code="invalid_json")


def _picture(name: str, given: Any) -> bytes:
    """A picture that came as text."""
    url = given.get("image_url") if isinstance(given, dict) else given
    if not isinstance(url, str) or not (head := _DATA_URL.match(url)):
        raise ApiError(
            400,
            f"{name} must be a file, or a picture as data URL (data:image/png;base64,…); the studio fetches nothing "
            "from elsewhere and keeps no files by id.",
            param=name,
            code="invalid_image",
        )
    if len(url) > MAX_PICTURE * 4 // 3 + 200:
        raise ApiError(413, f"The picture is larger than {MAX_PICTURE >> 20} MB.", param=name, code="too_large")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{name} isn't base64 ({error}).", param=name, code="invalid_image") from error


def _number(value: Any) -> Any:
    """Numbers, also those that came as text; what is larger than any setting stays text, to be named as wrong."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value) if value.lstrip("+-").isdigit() else float(value)
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return value


def _unusable(fields: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What is wrong with the numbers of the clip, and with text that can't be written down."""
    for name, value in fields.items():
        if name in NUMBERS:
            try:
                ClipSpec.model_validate({name: value})
            except ValidationError as error:
                yield from ((name, said[:500]) for said in problems(error))
        elif name in Ask.model_fields and not _is_writable(value):
            yield name, f"{name} has characters that aren't Unicode text."


def _is_writable(value: Any) -> bool:
    """Whether it can be kept: a lone half of a character can't."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _sentence(item: Mapping[str, Any]) -> tuple[str, str]:
    """The field, and what is wrong with it."""
    place = ".".join(str(part) for part in item["loc"])
    field = str(item["loc"][0])
    if item["type"] == "missing" and field == "prompt":
        return field, "prompt is required: say what is seen and heard."
    return field, f"{place[:200]}: {FORMS.get(field or '') or item['msg']}."
