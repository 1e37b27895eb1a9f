"""DashScope's own wire format, in which Z-Image paints: one request for the picture, one that fetches it.

The base URL goes up to and including ``/api/v1``: https://dashscope-intl.aliyuncs.com/api/v1 (Singapore) or
https://dashscope.aliyuncs.com/api/v1 (Beijing); a key is good for one region. Limits and answers are those of
https://www.alibabacloud.com/help/en/model-studio/z-image-api-reference, errors those of …/model-studio/error-code.
"""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from agents.models import Ability, Address, Painted, Provider
from agents.troubles import AgentError, Trouble, insist

PATH = "/services/aigc/multimodal-generation/generation"
FEWEST_PIXELS, MOST_PIXELS = 1024**2, 1536**2  # where the model is at its best; 512 x 512 to 2048 x 2048 are taken
SIZE_STEP = 16  # every size that the documentation recommends is a multiple
SEEDS = 2**31
LARGEST_PICTURE = 30_000_000  # bytes; 2048 x 2048 as PNG are about 8 million
CONNECT_SECONDS = 10.0

# What a code begins with -> what it means. Codes say more than statuses: credit that is used up is a 400 or a 403.
CODES = {
    "InvalidApiKey": Trouble.BAD_KEY,
    "DataInspectionFailed": Trouble.REFUSED,
    "data_inspection_failed": Trouble.REFUSED,
    "IPInfringementSuspect": Trouble.REFUSED,
    "Throttling": Trouble.RATE_LIMIT,
    "AllocationQuota": Trouble.RATE_LIMIT,
    "Arrearage": Trouble.RATE_LIMIT,
    "ModelNotFound": Trouble.NO_SUCH_MODEL,
    "Model.AccessDenied": Trouble.NO_SUCH_MODEL,
}
CREDIT = ("AllocationQuota", "Arrearage")  # no waiting helps
STATUSES = {
    401: Trouble.BAD_KEY,
    403: Trouble.BAD_KEY,
    404: Trouble.NO_SUCH_MODEL,
    429: Trouble.RATE_LIMIT,
}

Answer = TypeVar("Answer")


class ZImage:
    """A ``Painter``."""

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._model = model
        self._line = Line(address, model)

    @property
    def longest(self) -> int | None:
        return self._address.longest

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        if self.longest is not None and len(prompt) > self.longest:
            raise self._line.trouble(Trouble.TOO_LONG, count=len(prompt), longest=self.longest)
        across, down = painted_size(width, height)
        parameters: dict[str, object] = {"size": f"{across}*{down}", "prompt_extend": False}
        if seed is not None:
            parameters["seed"] = seed % SEEDS
        messages = [{"role": "user", "content": [{"text": prompt}]}]
        body = {"model": self._model, "input": {"messages": messages}, "parameters": parameters}
        answer = self._line.insist(lambda: self._ask(body))
        picture = self._line.insist(lambda: self._fetch(answer.pictures[0]))  # apart: no picture is paid twice
        if wrong := flaw(picture):
            raise self._line.trouble(Trouble.NOT_AN_IMAGE, said=wrong)
        return Painted(picture, tokens_in=answer.usage.input_tokens, tokens_out=answer.usage.output_tokens)

    def close(self) -> None:
        self._line.close()

    def _ask(self, body: Mapping[str, object]) -> _Generated:
        key = self._line.key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with self._line.open(self._address.base_url or "") as client:
            response = client.post(PATH, json=body, headers=headers)
        if response.status_code != httpx.codes.OK:
            raise self._refusal(response)
        with suppress(ValidationError):
            answer = _Generated.model_validate_json(response.content)
            if answer.pictures:
                return answer
        raise self._line.trouble(Trouble.NOT_AN_IMAGE, said="its answer names no picture")

    def _fetch(self, address: str) -> bytes:
        """The picture, from a storage server that is not told the key. The address is signed: no error repeats it."""
        picture = bytearray()
        with self._line.open("the address of its picture") as client, client.stream("GET", address) as response:
            status = response.status_code
            if status != httpx.codes.OK:
                trouble = Trouble.OVERLOADED if response.is_server_error else Trouble.NOT_AN_IMAGE
                raise self._line.trouble(trouble, said=f"the picture's own server answered {status}")
            for chunk in response.iter_bytes():
                picture += chunk
                if len(picture) > LARGEST_PICTURE:
                    said = f"it is larger than {LARGEST_PICTURE // 1_000_000} MB"
                    raise self._line.trouble(Trouble.NOT_AN_IMAGE, said=said)
        return bytes(picture)

    def _refusal(self, response: httpx.Response) -> AgentError:
        try:
            failure = _Failure.model_validate_json(response.content)
        except ValidationError:  # the page of a proxy or a gateway
            failure = _Failure()
        status = response.status_code
        trouble = next((found for code, found in CODES.items() if failure.code.startswith(code)), None)
        if trouble is None and "model not exist" in failure.message.lower():
            trouble = Trouble.NO_SUCH_MODEL
        if trouble is None:
            other = Trouble.OVERLOADED if response.is_server_error else Trouble.REJECTED
            trouble = STATUSES.get(status, other)
        wait = math.inf if failure.code.startswith(CREDIT) else wait_asked(response.headers)
        said = failure.message or failure.code or f"HTTP {status} {response.reason_phrase}"
        return self._line.trouble(trouble, wait=wait, said=said)


class Line:
    """The way to an address: it can be hung up from another thread, and carries no call beyond its time.

    httpx alone does neither. Its timeouts are for one read each, which a server that drips bytes never reaches; and on
    Linux a socket that is closed wakes nobody who reads from it, only one that is shut down. One call at a time.
    """

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._model = model
        self._closed = threading.Event()
        self._late = False
        self._sockets: list[socket.socket] = []

    def key(self) -> str:
        """The key, which can stand in a header; of one that can't, httpx would repeat it in an error of its own."""
        key = self._address.key.strip()
        if not (key.isascii() and key.isprintable()):
            raise self.trouble(Trouble.BAD_KEY)
        return key

    @contextmanager
    def open(self, to: str) -> Iterator[httpx.Client]:
        """A client for one call; whatever goes wrong on the way is an ``AgentError`` that names ``to``."""
        if self._closed.is_set():
            raise self.trouble(Trouble.UNREACHABLE, address=to, said="the call was cancelled")
        self._late = False
        self._sockets.clear()
        timer = threading.Timer(self._address.timeout, self._run_out)
        timer.daemon = True
        timer.start()
        try:
            with httpx.Client(
                base_url=self._address.base_url or "", event_hooks={"request": [self._prepare]}
            ) as client:
                yield client
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise self._lost(error, to) from None
        finally:
            timer.cancel()
            timer.join()  # or it may hang up the next call

    def insist(self, call: Callable[[], Answer]) -> Answer:
        """``troubles.insist``, whose waiting ends when the line is closed."""
        return insist(call, sleep=self._closed.wait)

    def trouble(self, trouble: Trouble, *, wait: float | None = None, **values: object) -> AgentError:
        """An error with what every sentence may need; the key is taken out of it."""
        known = {"endpoint": self._address.title, "model": self._model, "variable": self._address.variable}
        return AgentError(trouble, secret=self._address.key.strip(), wait=wait, **known, **values)

    def close(self) -> None:
        """End a call that is under way, and take no further ones."""
        self._closed.set()
        self._hang_up()

    def _prepare(self, request: httpx.Request) -> None:
        """Every request, also one that an SDK built, keeps the address's time and tells of its sockets."""
        seconds = self._address.timeout
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        request.extensions = {**request.extensions, "timeout": timeout.as_dict(), "trace": self._heard}

    def _heard(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self._late or self._closed.is_set():
                self._hang_up()

    def _run_out(self) -> None:
        self._late = True
        self._hang_up()

    def _hang_up(self) -> None:
        for each in tuple(self._sockets):
            with suppress(OSError):  # ended by itself
                each.shutdown(socket.SHUT_RDWR)

    def _lost(self, error: Exception, to: str) -> AgentError:
        if self._closed.is_set():
            return self.trouble(Trouble.UNREACHABLE, address=to, said="the call was cancelled")
        if isinstance(error, httpx.ConnectTimeout) and not self._late:
            said = f"no connection within {min(self._address.timeout, CONNECT_SECONDS):g} seconds"
            return self.trouble(Trouble.UNREACHABLE, address=to, said=said)
        if self._late or isinstance(error, httpx.TimeoutException):
            return self.trouble(Trouble.TIMEOUT, seconds=f"{self._address.timeout:g}")
        return self.trouble(Trouble.UNREACHABLE, address=to, said=str(error) or type(error).__name__)


def painted_size(width: int, height: int) -> tuple[int, int]:
    """The size to ask Z-Image for: the nearest to the ratio ``width:height``, and of those the smallest."""
    ratio = width / height
    sizes = [(round(down * ratio / SIZE_STEP) * SIZE_STEP, down) for down in range(SIZE_STEP, 2**15, SIZE_STEP)]
    fitting = [(across, down) for across, down in sizes if FEWEST_PIXELS <= across * down <= MOST_PIXELS]
    return min(fitting, key=lambda size: (abs(math.log(size[0] / size[1] / ratio)), size[0] * size[1]))


def flaw(picture: bytes) -> str | None:
    """What is wrong with a picture file; None if it opens to its last row."""
    try:
        with Image.open(BytesIO(picture), formats=("PNG", "JPEG", "WEBP")) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "what came doesn't open as PNG, JPEG or WebP"
    return None


def wrong_address(address: Address) -> str | None:
    """A sentence, if the base URL of an address is none that can be called."""
    try:
        parts = urlsplit(address.base_url or "")
        good = bool(parts.hostname) and parts.port != 0  # reading the port checks it
    except ValueError:
        good = False
    return None if good else f"{address.base_url} is no address to call {address.title} at. Check {_variable(address)}."


def wait_asked(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header; None if there is none, or a date."""
    seconds = headers.get("retry-after", "").strip()
    return float(seconds) if seconds.replace(".", "", 1).isdecimal() else None


class _Part(BaseModel):
    image: str | None = Field(None, pattern=r"^https?://")


class _Message(BaseModel):
    content: list[_Part]


class _Choice(BaseModel):
    message: _Message


class _Output(BaseModel):
    choices: list[_Choice]


class _Usage(BaseModel):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Generated(BaseModel):
    """An answer of the generation endpoint. A text part is the prompt that was painted."""

    output: _Output
    usage: _Usage = _Usage()

    @property
    def pictures(self) -> list[str]:
        """Where the pictures are; Z-Image makes one."""
        return [part.image for choice in self.output.choices for part in choice.message.content if part.image]


class _Failure(BaseModel):
    code: str = ""
    message: str = ""


def _missing(address: Address, model: str, ability: Ability) -> str | None:
    if address.base_url:
        return wrong_address(address)
    return f"{address.title} needs an address: set {_variable(address)} to one that ends in /api/v1."


def _variable(address: Address) -> str:
    return f"STUDIO_PROVIDERS__{address.name.upper()}__BASE_URL"


PROVIDER = Provider(
    abilities=frozenset({Ability.IMAGE}),
    connect=lambda address, model, ability: ZImage(address, model),
    missing=_missing,
)
