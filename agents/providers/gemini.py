"""Gemini through google-genai: text, text from pictures, and pictures by its image models (Nano Banana).

The base URL has no version: https://generativelanguage.googleapis.com. Nothing that google-genai would read from the
environment (keys, Vertex AI, base URL, API version, replays) is left to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Base64Bytes, BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from agents.addresses import key_of, unfit
from agents.exchange import check_length, check_picture, check_text
from agents.line import Line, trouble_of, wait_asked
from agents.models import Ability, Address, Ask, Painted, Painter, Provider, Writer, Written, picture_type
from agents.troubles import AgentError, Trouble

if TYPE_CHECKING:
    from google.genai import errors

BASE_URL = "https://generativelanguage.googleapis.com"
API_VERSION = "v1beta"  # some names, such as gemini-flash-latest, exist only there (release notes of google-genai 3.0)
NO_KEY = "none"  # for a gateway that wants none; without one google-genai takes a key from the environment
LIVE_KEYS = "auth_tokens/"  # ephemeral tokens, which are good for live sessions only
MODEL_NAME = re.compile(r"(?!.*\.\.)[\w./-]+", re.ASCII)
SEEDS = 2**31
# Those that every image model takes: https://ai.google.dev/gemini-api/docs/image-generation
RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
CUT_OFF = ("MAX_TOKENS", "CONTINUATION")
REFUSALS = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "ESCALATION",
        "PUP_LIMITED_DISABLED",
        "MODEL_ARMOR",
    }
)


class Gemini:
    """A model of the Gemini API; both kinds of it make one call, ``generateContent``."""

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._model = model
        self._line = Line(address, model)

    def close(self) -> None:
        self._line.hang_up(said="the call was cancelled")

    def _answer(self, contents: Sequence[bytes | str], **settings: Any) -> _Generated:
        """What the model says to pictures and texts. Raises ``AgentError`` where it says that it won't."""
        if not MODEL_NAME.fullmatch(self._model):
            raise self._line.error(Trouble.NO_SUCH_MODEL, said="no model can have this name")
        if key_of(self._address).startswith(LIVE_KEYS):
            raise self._line.error(Trouble.BAD_KEY)
        body = self._line.insist(lambda: self._generate(contents, settings))
        try:
            answer = _Generated.model_validate_json(body)
        except ValidationError:
            raise self._line.error(Trouble.UNREADABLE, said="its server sent no answer of this API") from None
        if blocked := answer.prompt_feedback.block_reason:
            raise self._line.error(Trouble.REFUSED, said=blocked)
        if answer.first.finish_reason in REFUSALS:
            raise self._line.error(Trouble.REFUSED, said=answer.first.finish_message or answer.first.finish_reason)
        return answer

    def _generate(self, contents: Sequence[bytes | str], settings: dict[str, Any]) -> str:
        """The answer as it came: what google-genai makes of one that isn't of its API can be any error, or nothing."""
        from google import genai  # noqa: PLC0415 - takes a third of a second, and pages import this file
        from google.genai import client, errors, types  # noqa: PLC0415

        base = self._address.base_url or BASE_URL
        config = types.GenerateContentConfig(
            should_return_http_response=True,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            **settings,
        )
        parts = [
            types.Part.from_text(text=each)
            if isinstance(each, str)
            else types.Part.from_bytes(data=each, mime_type=picture_type(each))
            for each in contents
        ]
        content = types.Content(role="user", parts=parts)
        with self._line.open(base) as http:
            options = types.HttpOptions(
                base_url=base,
                api_version=API_VERSION,
                timeout=math.ceil(self._address.timeout * 1000),  # milliseconds; told to the server too
                retry_options=types.HttpRetryOptions(attempts=1),
                httpx_client=http,
            )
            gemini = genai.Client(
                api_key=key_of(self._address) or NO_KEY,
                vertexai=False,
                debug_config=client.DebugConfig(client_mode=None, replays_directory=None, replay_id=None),
                http_options=options,
            )
            try:
                answer = gemini.models.generate_content(model=self._model, contents=content, config=config)
            except errors.APIError as error:
                raise self._refusal(error) from None
        return (answer.sdk_http_response and answer.sdk_http_response.body) or ""

    def _refusal(self, error: errors.APIError) -> AgentError:
        try:
            failure = _Failure.model_validate(error.details).error
        except ValidationError:  # the page of a proxy or a gateway
            failure = _Error(message=f"HTTP {error.code}")
        reasons = {detail.reason for detail in failure.details}
        trouble = Trouble.BAD_KEY if "API_KEY_INVALID" in reasons else trouble_of(error.code)
        delays = [detail.retry_delay for detail in failure.details if detail.retry_delay]
        headers = error.response.headers if error.response is not None else {}
        wait = _seconds(delays[0]) if delays else wait_asked(headers)
        return self._line.error(trouble, wait=wait, said=failure.message or f"HTTP {error.code}")


class GeminiWriter(Gemini):
    """A ``Writer``."""

    def write(self, ask: Ask) -> Written:
        answer = self._answer(
            [*ask.images, *([ask.user] if ask.user else [])],
            system_instruction=ask.system or None,
            response_mime_type="application/json" if ask.json else None,
        )
        text = answer.text
        check_text(self._line, text)
        if answer.first.finish_reason in CUT_OFF:
            raise self._line.error(Trouble.UNREADABLE, said="it was cut off")
        usage = answer.usage_metadata
        return Written(text, answer.model_version, usage.prompt_token_count, usage.tokens_out)


class GeminiPainter(Gemini):
    """A ``Painter``."""

    @property
    def longest(self) -> int | None:
        return self._address.longest

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        check_length(self._line, prompt, self.longest)
        answer = self._answer(
            [prompt],
            response_modalities=["IMAGE"],
            image_config={"aspect_ratio": nearest_ratio(width, height)},
            seed=None if seed is None else seed % SEEDS,
        )
        picture = answer.picture
        if picture is None:
            said = answer.text or answer.first.finish_message or "its answer has no picture"
            raise self._line.error(Trouble.NOT_AN_IMAGE, said=said)
        check_picture(self._line, picture)
        usage = answer.usage_metadata
        return Painted(picture, answer.model_version, usage.prompt_token_count, usage.tokens_out)


def nearest_ratio(width: int, height: int) -> str:
    """The aspect ratio of the API that is nearest to ``width:height``."""

    def distance(ratio: str) -> float:
        across, down = map(int, ratio.split(":"))
        return abs(math.log(across / down * height / width))

    return min(RATIOS, key=distance)


class _Wire(BaseModel):
    """A message of the API, as far as it is read here; its names are in camel case."""

    model_config = ConfigDict(alias_generator=to_camel)


class _Blob(_Wire):
    data: Base64Bytes


class _Part(_Wire):
    text: str = ""
    inline_data: _Blob | None = None
    thought: bool = False


class _Content(_Wire):
    parts: list[_Part] = []


class _Candidate(_Wire):
    content: _Content = _Content()
    finish_reason: str = ""
    finish_message: str = ""


class _Feedback(_Wire):
    block_reason: str = ""


class _Usage(_Wire):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None

    @property
    def tokens_out(self) -> int | None:
        """Tokens of the answer and of thinking, which are paid alike, as far as they were reported."""
        counts = [each for each in (self.candidates_token_count, self.thoughts_token_count) if each is not None]
        return sum(counts) if counts else None


class _Generated(_Wire):
    """A GenerateContentResponse. Thoughts, of which some models send texts and sketches, are no part of its answer."""

    candidates: list[_Candidate] = []
    prompt_feedback: _Feedback = _Feedback()
    usage_metadata: _Usage = _Usage()
    model_version: str = ""

    @property
    def first(self) -> _Candidate:
        """The only candidate that is asked for."""
        return self.candidates[0] if self.candidates else _Candidate()

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.first.content.parts if not part.thought).strip()

    @property
    def picture(self) -> bytes | None:
        parts = [part for part in self.first.content.parts if not part.thought]
        return next((part.inline_data.data for part in parts if part.inline_data), None)


class _Detail(_Wire):
    """Of ``google.rpc``: an ErrorInfo has a reason, a RetryInfo a delay."""

    reason: str = ""
    retry_delay: str = ""


class _Error(_Wire):
    message: str = ""
    details: list[_Detail] = []


class _Failure(_Wire):
    error: _Error


def _seconds(delay: str) -> float | None:
    """A ``google.protobuf.Duration`` in JSON, such as "3s" or "53.01s"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)s", delay)
    return float(found[1]) if found else None


def _connect(address: Address, model: str, ability: Ability) -> Writer | Painter:
    return GeminiPainter(address, model) if ability is Ability.IMAGE else GeminiWriter(address, model)


PROVIDER = Provider(
    abilities=frozenset(Ability), connect=_connect, missing=lambda address, model, ability: unfit(address)
)
