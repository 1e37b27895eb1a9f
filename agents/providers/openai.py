"""Any server that speaks OpenAI's API: text and vision by chat completions, pictures by image generation."""

from __future__ import annotations

import base64
import binascii
import importlib.util
import io
import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from agents.line import Line
from agents.models import Ability, Address, Ask, Painted, Painter, Provider, Writer, Written, picture_type
from agents.troubles import AgentError, Trouble, insist
from agents.unload import unload

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam

logger = logging.getLogger(__name__)

LONGEST_TEXT = 20_000  # characters of an answer
LARGEST_PICTURE = 64 * 2**20  # bytes
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")

# What models of fixed sizes take; later ones (gpt-image-2 and on) and other servers take any multiple of 16.
GPT_IMAGE_1 = ((1024, 1024), (1536, 1024), (1024, 1536))
DALL_E_3 = ((1024, 1024), (1792, 1024), (1024, 1792))
SIZES = (("gpt-image-1", GPT_IMAGE_1), ("chatgpt-image", GPT_IMAGE_1), ("dall-e-3", DALL_E_3))
FEWEST_PIXELS = 655_360  # of gpt-image-2 and gpt-image-2.5
GRAIN = 16  # pixels

# All that is sent besides the body: the SDK would add what it finds in OPENAI_CUSTOM_HEADERS, and what machine this is.
SENT = frozenset(("host", "connection", "content-length", "transfer-encoding", "authorization"))
HEADERS = {"accept": "application/json", "content-type": "application/json", "user-agent": "mova-studio"}

NO_KEY = "none"  # the SDK wants one

NO_SUCH_MODEL = frozenset(("model_not_found", "modelnotfound", "model_not_supported", "invalid_model"))
REFUSED = frozenset(("content_policy_violation", "moderation_blocked", "content_filter", "data_inspection_failed"))
USED_UP = frozenset(("insufficient_quota", "insufficient_balance"))
# MiniMax says these with HTTP 200: https://platform.minimax.io/docs/api-reference/errorcode
MINIMAX = {
    1002: Trouble.RATE_LIMIT,
    1004: Trouble.BAD_KEY,
    1008: Trouble.RATE_LIMIT,
    1026: Trouble.REFUSED,
    1027: Trouble.REFUSED,
}
MINIMAX_USED_UP = 1008
# A leading block of thoughts; some templates open it in the prompt, so that the answer only closes it.
THINKING = re.compile(r"\A(?:\s*<think>.*?(?:</think>|\Z)|.*?^</think>$)", re.DOTALL | re.MULTILINE)

Answer = TypeVar("Answer")
Form = TypeVar("Form", bound=BaseModel)


def connect(address: Address, model: str, ability: Ability) -> Writer | Painter:
    """The model of that name at that address."""
    return OpenAIPainter(address, model) if ability is Ability.IMAGE else OpenAIWriter(address, model)


def missing(address: Address, model: str, ability: Ability) -> str | None:
    """What keeps the address from being used, as far as it can be seen from here."""
    if importlib.util.find_spec("openai") is None:
        return f"{address.title} needs the openai package: pip install openai."
    variable = address.variable.replace("API_KEY", "BASE_URL")
    if not address.base_url:
        return f"{address.title} has no address: set {variable}."
    try:
        host = httpx.URL(address.base_url).host
    except httpx.InvalidURL:
        host = ""
    if not host:
        return f"The address of {address.title} can't be read: check {variable}."
    if not (address.key.isascii() and all(sign.isprintable() and sign != " " for sign in address.key)):
        return f"The key of {address.title} has signs that no key has: check {address.variable}."
    return None


PROVIDER = Provider(abilities=frozenset(Ability), connect=connect, missing=missing)


class _Server:
    """What the writer and the painter share: a server, its errors, and how one leaves it."""

    def __init__(self, address: Address, model: str) -> None:
        import openai  # noqa: PLC0415 - half a second, which pages shall not wait

        self._address = address
        self._model = model
        self._openai = openai
        self._line = Line()
        self._client = openai.OpenAI(
            api_key=address.key or NO_KEY,
            admin_api_key="",  # none of these is to be looked for in the environment
            organization="",
            project="",
            webhook_secret="",
            base_url=address.base_url,
            timeout=address.timeout,
            max_retries=0,  # insist() does that
            default_headers={"Authorization": f"Bearer {address.key or NO_KEY}"},
            http_client=openai.DefaultHttpxClient(
                timeout=address.timeout,
                follow_redirects=False,  # the key and the words go to that address alone
                event_hooks={"request": [self._line.watch, _only_what_is_needed]},
            ),
        )

    def close(self) -> None:
        """End what is under way, and ask Ollama and LM Studio to give back the memory that the model takes.

        No connection outlives its call, so that there is nothing else to close.
        """
        if not self._line.hung_up.is_set():
            self._line.hang_up()
            unload(self._address, self._model)

    def _insist(self, call: Callable[[], Answer]) -> Answer:
        """Make a call again where that helps, unless it is closed meanwhile."""
        started = time.monotonic()
        answer = insist(lambda: self._once(call), sleep=self._line.hung_up.wait)
        logger.info("%s at %s: %.1f s", self._model, self._address.title, time.monotonic() - started)
        return answer

    def _once(self, call: Callable[[], Answer]) -> Answer:
        if self._line.hung_up.is_set():
            raise self._unreachable("it was closed")
        with self._line.call(self._address.timeout) as late:
            try:
                return call()
            except self._openai.APIStatusError as error:
                raise self._status(error) from None
            except (self._openai.APIError, httpx.HTTPError, httpx.InvalidURL) as error:
                raise self._failure(error, late.is_set()) from None
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                if late.is_set() or self._line.hung_up.is_set():  # cut off in the middle
                    raise self._failure(error, late.is_set()) from None
                raise self._error(Trouble.UNREADABLE, said="it is no JSON") from None

    def _form(self, answer: object, form: type[Form]) -> Form:
        """A server's answer with what is needed of it; servers leave out much of what the SDK's types promise."""
        if not isinstance(answer, self._openai.BaseModel):
            raise self._unreachable("it answers with something else than JSON: is its base_url right?")
        fields = answer.to_dict(warnings=False)
        said = fields.get("base_resp")
        code = said.get("status_code") if isinstance(said, dict) else None
        if code in MINIMAX:
            wait = math.inf if code == MINIMAX_USED_UP else None
            raise self._error(MINIMAX[code], wait=wait, said=_said(said, "no reason is given"))
        if error := fields.get("error"):
            raise self._error(Trouble.REJECTED, said=_said(error, "no reason is given"))
        try:
            return form.model_validate(fields)
        except ValidationError:
            raise self._error(Trouble.UNREADABLE, said="it isn't what OpenAI's API answers") from None

    def _status(self, error: APIStatusError) -> AgentError:
        """An answer with an HTTP status that isn't 200."""
        status, trouble = error.status_code, _trouble(error)
        said = _said(error.body, f"HTTP {status}")
        if trouble is Trouble.UNREACHABLE and status < 400:
            to = _shown(error.response.headers.get("location", ""))
            return self._unreachable(f"it sends on to {to}: set that as its base_url")
        if trouble is Trouble.UNREACHABLE:
            path = error.request.url.path
            return self._unreachable(f"nothing answers to {path} there: is its base_url right, and can it do this?")
        if status == 403 and trouble is Trouble.NO_SUCH_MODEL:
            said = "the key may not use it"  # the server's own words may repeat the key
        # No wait fills an account.
        wait = math.inf if status == 402 or _code(error) in USED_UP else _wait(error.response.headers)
        return self._error(trouble, wait=wait, said=said)

    def _failure(self, error: Exception, late: bool) -> AgentError:
        """The trouble behind a call to which no answer came."""
        if self._line.hung_up.is_set():
            return self._unreachable("it was closed")
        if late or isinstance(error, (self._openai.APITimeoutError, httpx.TimeoutException)):
            return self._error(Trouble.TIMEOUT, seconds=f"{self._address.timeout:g}")
        return self._unreachable(str(error.__cause__ or error))

    def _unreachable(self, said: str) -> AgentError:
        return self._error(Trouble.UNREACHABLE, address=_shown(self._address.base_url or ""), said=said)

    def _error(self, trouble: Trouble, *, wait: float | None = None, **values: object) -> AgentError:
        return AgentError(
            trouble,
            secret=self._address.key,
            wait=wait,
            endpoint=self._address.title,
            model=self._model,
            variable=self._address.variable,
            **values,
        )


class OpenAIWriter(_Server):
    """A model that writes, reached by chat completions, which every compatible server has.

    Nothing is sent that some server refuses: no temperature and no limit of tokens, which newer models of OpenAI's know
    by another name than older servers do.
    """

    def write(self, ask: Ask) -> Written:
        """The answer to one request. A server that knows no JSON mode is asked without it."""
        answer = self._asked(_messages(ask), ask.json)
        choice = answer.choices[0] if answer.choices else _Choice()
        if choice.message.refusal:
            raise self._error(Trouble.REFUSED, said=choice.message.refusal)
        if choice.finish_reason == "content_filter":
            raise self._error(Trouble.REFUSED, said="its content filter held the answer back")
        text = THINKING.sub("", choice.message.content or "").strip()
        if not text:
            raise self._error(Trouble.EMPTY_ANSWER)
        if len(text) > LONGEST_TEXT:
            raise self._error(Trouble.UNREADABLE, said=f"it is {len(text)} characters long")
        usage = answer.usage or _Usage()
        return Written(text, answer.model or "", usage.prompt_tokens, usage.completion_tokens)

    def _asked(self, messages: list[ChatCompletionMessageParam], as_json: bool) -> _Completion:
        create = self._client.chat.completions.create
        if as_json:
            try:
                return self._insist(
                    lambda: self._form(
                        create(model=self._model, messages=messages, response_format={"type": "json_object"}),
                        _Completion,
                    )
                )
            except AgentError as error:
                if error.trouble is not Trouble.REJECTED:
                    raise
            logger.info("%s is asked again without JSON mode", self._address.title)
        return self._insist(lambda: self._form(create(model=self._model, messages=messages), _Completion))


class OpenAIPainter(_Server):
    """A model that paints, reached by image generation."""

    @property
    def longest(self) -> int | None:
        """The characters that its prompt may have."""
        return self._address.longest

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        """One picture of about that ratio. The seed has no effect: OpenAI's API has none for pictures."""
        if self.longest is not None and len(prompt) > self.longest:
            raise self._error(Trouble.TOO_LONG, count=len(prompt), longest=self.longest)
        size = "{}x{}".format(*_size(self._model, width, height))
        answer = self._insist(
            lambda: self._form(
                self._client.images.generate(model=self._model, prompt=prompt, size=size),
                _Pictures,
            )
        )
        picture = self._picture(answer.data[0] if answer.data else _Picture())
        try:
            with Image.open(io.BytesIO(picture), formats=PICTURE_FORMATS) as image:
                image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise self._error(Trouble.NOT_AN_IMAGE, said=f"what came can't be opened ({error})") from None
        usage = answer.usage or _PictureUsage()
        return Painted(picture, answer.model or "", usage.input_tokens, usage.output_tokens)

    def _picture(self, answer: _Picture) -> bytes:
        """The file: within the answer, or at an address that the answer names."""
        if answer.b64_json:
            try:
                return base64.b64decode(answer.b64_json.rpartition(",")[2])  # after "data:image/png;base64,", if any
            except binascii.Error:
                raise self._error(Trouble.NOT_AN_IMAGE, said="what came is no base64") from None
        url = answer.url
        if not url:
            raise self._error(Trouble.NOT_AN_IMAGE, said="the answer holds none")
        return self._insist(lambda: self._fetched(url))

    def _fetched(self, url: str) -> bytes:
        """The file at an address, which may be anybody's: it isn't told the key."""
        hooks = {"request": [self._line.watch]}
        with (
            httpx.Client(timeout=self._address.timeout, follow_redirects=True, event_hooks=hooks) as http,
            http.stream("GET", url, headers={"user-agent": HEADERS["user-agent"]}) as answer,
        ):
            status = answer.status_code
            if status == 429 or status >= 500:
                raise self._error(Trouble.OVERLOADED, wait=_wait(answer.headers), said=f"the picture: HTTP {status}")
            if status != 200:
                raise self._error(Trouble.NOT_AN_IMAGE, said=f"where it is said to lie: HTTP {status}")
            picture = bytearray()
            for part in answer.iter_bytes():
                picture += part
                if len(picture) > LARGEST_PICTURE:
                    raise self._error(Trouble.NOT_AN_IMAGE, said=f"it has more than {LARGEST_PICTURE} bytes")
            return bytes(picture)


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Message(_Lenient):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Lenient):
    message: _Message = _Message()
    finish_reason: str | None = None


class _Usage(_Lenient):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(_Lenient):
    choices: tuple[_Choice, ...] | None = None
    model: str | None = None
    usage: _Usage | None = None


class _Picture(_Lenient):
    b64_json: str | None = None
    url: str | None = None


class _PictureUsage(_Lenient):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Pictures(_Lenient):
    data: tuple[_Picture, ...] | None = None
    model: str | None = None
    usage: _PictureUsage | None = None


def _only_what_is_needed(request: Any) -> None:
    for name in set(request.headers) - SENT:
        del request.headers[name]
    if request.headers.get("authorization") == f"Bearer {NO_KEY}":
        del request.headers["authorization"]
    request.headers.update(HEADERS)


def _messages(ask: Ask) -> list[ChatCompletionMessageParam]:
    parts: list[ChatCompletionContentPartParam] = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:{picture_type(image)};base64,{base64.b64encode(image).decode()}"},
        }
        for image in ask.images
    ]
    if parts and ask.user:
        parts.append({"type": "text", "text": ask.user})
    return [
        {"role": "system", "content": ask.system},
        {"role": "user", "content": parts or ask.user},  # without pictures as a string, which is all that some take
    ]


def _size(model: str, width: int, height: int) -> tuple[int, int]:
    """A size that the model makes: the nearest ratio of a few, or else that very ratio with enough pixels."""
    for start, sizes in SIZES:
        if model.startswith(start):
            return min(sizes, key=lambda size: abs(math.log(size[0] / size[1] * height / width)))
    times = math.ceil(math.sqrt(FEWEST_PIXELS / (width * height)))
    return tuple(math.ceil(edge * max(times, 1) / GRAIN) * GRAIN for edge in (width, height))  # type: ignore[return-value]


def _trouble(error: APIStatusError) -> Trouble:
    """What an HTTP status and a body mean; the first rule that holds."""
    status, code, body = error.status_code, _code(error), error.body
    nothing_there = not isinstance(body, dict) or _said(body, "Not Found") == "Not Found"
    rules = (
        (status < 400, Trouble.UNREACHABLE),
        (status == 401, Trouble.BAD_KEY),
        (code in REFUSED, Trouble.REFUSED),
        (code in NO_SUCH_MODEL or error.param == "model", Trouble.NO_SUCH_MODEL),
        (status == 403, Trouble.BAD_KEY),
        (status == 404 and nothing_there, Trouble.UNREACHABLE),
        (status == 404, Trouble.NO_SUCH_MODEL),
        (status in (402, 429), Trouble.RATE_LIMIT),
        (status >= 500, Trouble.OVERLOADED),
    )
    return next((trouble for holds, trouble in rules if holds), Trouble.REJECTED)


def _code(error: APIStatusError) -> str:
    return (error.code or "").lower()


def _said(body: object, otherwise: str) -> str:
    """The sentence in an error's body, of which there are as many forms as servers."""
    if isinstance(body, str):
        return body if body.strip() and not body.lstrip().startswith("<") else otherwise  # not a web page
    if not isinstance(body, dict):
        return otherwise
    found = next((body[name] for name in ("message", "detail", "error", "status_msg") if body.get(name)), otherwise)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks for, which it tells as a number or as a time of day."""
    said = headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _shown(url: str) -> str:
    """An address without what may be secret in it."""
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        return "another address"
    return str(found.copy_with(username=None, password=None, query=None, fragment=None)) if found.host else found.path
