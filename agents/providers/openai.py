"""Any server that speaks OpenAI's API: text and vision by chat completions, pictures by image generation."""

from __future__ import annotations

import base64
import binascii
import importlib.util
import json
import logging
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from agents.addresses import key_of, shown, unfit
from agents.exchange import check_length, check_picture, check_text, fetched
from agents.line import USER_AGENT, Line, trouble_of, wait_asked
from agents.models import Ability, Address, Ask, Painted, Painter, Provider, Writer, Written, picture_type
from agents.troubles import AgentError, Trouble
from agents.unload import unload

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam

logger = logging.getLogger(__name__)

# What models of fixed sizes take; later ones (gpt-image-2 and on) and other servers take any multiple of 16.
GPT_IMAGE_1 = ((1024, 1024), (1536, 1024), (1024, 1536))
DALL_E_3 = ((1024, 1024), (1792, 1024), (1024, 1792))
SIZES = (("gpt-image-1", GPT_IMAGE_1), ("chatgpt-image", GPT_IMAGE_1), ("dall-e-3", DALL_E_3))
FEWEST_PIXELS = 655_360  # of gpt-image-2 and gpt-image-2.5
GRAIN = 16  # pixels

# All that is sent besides the body: the SDK would add what it finds in OPENAI_CUSTOM_HEADERS, and what machine this is.
SENT = frozenset(("host", "connection", "content-length", "transfer-encoding", "authorization"))
HEADERS = {"accept": "application/json", "content-type": "application/json", "user-agent": USER_AGENT}

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

Form = TypeVar("Form", bound=BaseModel)


def connect(address: Address, model: str, ability: Ability) -> Writer | Painter:
    """The model of that name at that address."""
    return OpenAIPainter(address, model) if ability is Ability.IMAGE else OpenAIWriter(address, model)


def missing(address: Address, model: str, ability: Ability) -> str | None:
    """What keeps the address from being used, as far as it can be seen from here."""
    if importlib.util.find_spec("openai") is None:
        return f"{address.title} needs the openai package: pip install openai."
    if not address.base_url:
        return f"{address.title} has no address: set {address.base_url_variable}."
    return unfit(address)


PROVIDER = Provider(abilities=frozenset(Ability), connect=connect, missing=missing)


class _Server:
    """What the writer and the painter share: a server, its errors, and how one leaves it."""

    def __init__(self, address: Address, model: str) -> None:
        import openai  # noqa: PLC0415 - half a second, which pages shall not wait

        self._address = address
        self._model = model
        self._openai = openai
        self._line = Line(address, model)
        key = key_of(address) or NO_KEY
        self._client = openai.OpenAI(
            api_key=key,
            admin_api_key="",  # none of these is to be looked for in the environment
            organization="",
            project="",
            webhook_secret="",
            base_url=address.base_url,
            max_retries=0,  # insist() does that
            default_headers={"Authorization": f"Bearer {key}"},
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,  # the key and the words go to that address alone
                event_hooks={"request": [self._line.watch, _only_what_is_needed]},
            ),
        )

    def close(self) -> None:
        """End what is under way, and ask Ollama and LM Studio to give back the memory that the model takes.

        No connection outlives its call, so that there is nothing else to close.
        """
        if not self._line.hung_up:
            self._line.hang_up(said="it was closed")
            unload(self._address, self._model)

    def _answer(self, call: Callable[[], object], form: type[Form]) -> Form:
        return self._line.insist(lambda: self._once(call, form))

    def _once(self, call: Callable[[], object], form: type[Form]) -> Form:
        """One call. The SDK's errors of connections are made httpx's, which the line knows."""
        with self._line.call(shown(self._address.base_url or "")):
            try:
                return self._read(call(), form)
            except self._openai.APIStatusError as error:
                raise self._refusal(error) from None
            except self._openai.APITimeoutError as error:  # only connecting has a time limit of the client's
                raise httpx.ConnectTimeout(str(error)) from None
            except self._openai.APIError as error:
                raise httpx.TransportError(str(error.__cause__ or error)) from None
            except (json.JSONDecodeError, UnicodeDecodeError):
                raise self._line.error(Trouble.UNREADABLE, said="it is no JSON") from None

    def _read(self, answer: object, form: type[Form]) -> Form:
        """A server's answer with what is needed of it; servers leave out much of what the SDK's types promise."""
        if not isinstance(answer, self._openai.BaseModel):
            raise self._unreachable("it answers with something else than JSON: is its base_url right?")
        fields = answer.to_dict(warnings=False)
        said = fields.get("base_resp")
        code = said.get("status_code") if isinstance(said, dict) else None
        if code in MINIMAX:
            wait = math.inf if code == MINIMAX_USED_UP else None
            raise self._line.error(MINIMAX[code], wait=wait, said=_said(said, "no reason is given"))
        if error := fields.get("error"):
            raise self._line.error(Trouble.REJECTED, said=_said(error, "no reason is given"))
        try:
            return form.model_validate(fields)
        except ValidationError:
            raise self._line.error(Trouble.UNREADABLE, said="it isn't what OpenAI's API answers") from None

    def _refusal(self, error: APIStatusError) -> AgentError:
        """An answer with an HTTP status that isn't 200."""
        status, trouble = error.status_code, _trouble(error)
        said = _said(error.body, f"HTTP {status}")
        if trouble is Trouble.UNREACHABLE and status < 400:
            to = shown(error.response.headers.get("location", ""))
            return self._unreachable(f"it sends on to {to}: set that as its base_url")
        if trouble is Trouble.UNREACHABLE:
            path = error.request.url.path
            return self._unreachable(f"nothing answers to {path} there: is its base_url right, and can it do this?")
        if status == 403 and trouble is Trouble.NO_SUCH_MODEL:
            said = "the key may not use it"  # the server's own words may repeat the key
        # No wait fills an account.
        wait = math.inf if status == 402 or _code(error) in USED_UP else wait_asked(error.response.headers)
        return self._line.error(trouble, wait=wait, said=said)

    def _unreachable(self, said: str) -> AgentError:
        return self._line.error(Trouble.UNREACHABLE, address=shown(self._address.base_url or ""), said=said)


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
            raise self._line.error(Trouble.REFUSED, said=choice.message.refusal)
        if choice.finish_reason == "content_filter":
            raise self._line.error(Trouble.REFUSED, said="its content filter held the answer back")
        text = THINKING.sub("", choice.message.content or "").strip()
        check_text(self._line, text)
        usage = answer.usage or _Usage()
        return Written(text, answer.model or "", usage.prompt_tokens, usage.completion_tokens)

    def _asked(self, messages: list[ChatCompletionMessageParam], as_json: bool) -> _Completion:
        create = self._client.chat.completions.create
        if as_json:
            try:
                return self._answer(
                    lambda: create(model=self._model, messages=messages, response_format={"type": "json_object"}),
                    _Completion,
                )
            except AgentError as error:
                if error.trouble is not Trouble.REJECTED:
                    raise
            logger.info("%s is asked again without JSON mode", self._address.title)
        return self._answer(lambda: create(model=self._model, messages=messages), _Completion)


class OpenAIPainter(_Server):
    """A model that paints, reached by image generation."""

    @property
    def longest(self) -> int | None:
        """The characters that its prompt may have."""
        return self._address.longest

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        """One picture of about that ratio. The seed has no effect: OpenAI's API has none for pictures."""
        check_length(self._line, prompt, self.longest)
        size = "{}x{}".format(*_size(self._model, width, height))
        generate = self._client.images.generate
        answer = self._answer(lambda: generate(model=self._model, prompt=prompt, size=size), _Pictures)
        picture = self._picture(answer.data[0] if answer.data else _Picture())
        check_picture(self._line, picture)
        usage = answer.usage or _PictureUsage()
        return Painted(picture, answer.model or "", usage.input_tokens, usage.output_tokens)

    def _picture(self, answer: _Picture) -> bytes:
        """The file: within the answer, or at an address that the answer names."""
        if answer.b64_json:
            try:
                return base64.b64decode(answer.b64_json.rpartition(",")[2])  # after "data:image/png;base64,", if any
            except binascii.Error:
                raise self._line.error(Trouble.NOT_AN_IMAGE, said="what came is no base64") from None
        if answer.url:
            return fetched(self._line, answer.url)
        raise self._line.error(Trouble.NOT_AN_IMAGE, said="the answer holds none")


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
        (status == 404 and nothing_there, Trouble.UNREACHABLE),
        (status == 402, Trouble.RATE_LIMIT),
    )
    return next((trouble for holds, trouble in rules if holds), trouble_of(status))


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
