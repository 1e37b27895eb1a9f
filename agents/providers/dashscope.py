"""DashScope's own wire format, in which Z-Image paints: one request for the picture, one that fetches it.

The base URL goes up to and including ``/api/v1``: https://dashscope-intl.aliyuncs.com/api/v1 (Singapore) or
https://dashscope.aliyuncs.com/api/v1 (Beijing); a key is good for one region. Limits and answers are those of
https://www.alibabacloud.com/help/en/model-studio/z-image-api-reference, errors those of …/model-studio/error-code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

import httpx
from pydantic import BaseModel, Field, ValidationError

from agents.addresses import bearer, unfit
from agents.exchange import check_length, check_picture, fetched
from agents.line import Line, trouble_of, wait_asked
from agents.models import Ability, Address, Painted, Provider
from agents.troubles import AgentError, Trouble

PATH = "/services/aigc/multimodal-generation/generation"
FEWEST_PIXELS, MOST_PIXELS = 1024**2, 1536**2  # where the model is at its best; 512 x 512 to 2048 x 2048 are taken
SIZE_STEP = 16  # every size that the documentation recommends is a multiple
SEEDS = 2**31

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
        check_length(self._line, prompt, self.longest)
        across, down = painted_size(width, height)
        parameters: dict[str, object] = {"size": f"{across}*{down}", "prompt_extend": False}
        if seed is not None:
            parameters["seed"] = seed % SEEDS
        messages = [{"role": "user", "content": [{"text": prompt}]}]
        body = {"model": self._model, "input": {"messages": messages}, "parameters": parameters}
        answer = self._line.insist(lambda: self._ask(body))
        picture = fetched(self._line, answer.pictures[0])
        check_picture(self._line, picture)
        return Painted(picture, tokens_in=answer.usage.input_tokens, tokens_out=answer.usage.output_tokens)

    def close(self) -> None:
        self._line.hang_up(said="the call was cancelled")

    def _ask(self, body: Mapping[str, object]) -> _Generated:
        with self._line.open(self._address.base_url or "") as client:
            response = client.post(PATH, json=body, headers=bearer(self._address))
        if response.status_code != httpx.codes.OK:
            raise self._refusal(response)
        with suppress(ValidationError):
            answer = _Generated.model_validate_json(response.content)
            if answer.pictures:
                return answer
        raise self._line.error(Trouble.NOT_AN_IMAGE, said="its answer names no picture")

    def _refusal(self, response: httpx.Response) -> AgentError:
        try:
            failure = _Failure.model_validate_json(response.content)
        except ValidationError:  # the page of a proxy or a gateway
            failure = _Failure()
        status = response.status_code
        trouble = next((found for code, found in CODES.items() if failure.code.startswith(code)), None)
        if trouble is None and "model not exist" in failure.message.lower():
            trouble = Trouble.NO_SUCH_MODEL
        wait = math.inf if failure.code.startswith(CREDIT) else wait_asked(response.headers)
        said = failure.message or failure.code or f"HTTP {status} {response.reason_phrase}"
        return self._line.error(trouble or trouble_of(status), wait=wait, said=said)


def painted_size(width: int, height: int) -> tuple[int, int]:
    """The size to ask Z-Image for: the nearest to the ratio ``width:height``, and of those the smallest."""
    ratio = width / height
    sizes = [(round(down * ratio / SIZE_STEP) * SIZE_STEP, down) for down in range(SIZE_STEP, 2**15, SIZE_STEP)]
    fitting = [(across, down) for across, down in sizes if FEWEST_PIXELS <= across * down <= MOST_PIXELS]
    return min(fitting, key=lambda size: (abs(math.log(size[0] / size[1] / ratio)), size[0] * size[1]))


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
        return unfit(address)
    return f"{address.title} needs an address: set {address.base_url_variable} to one that ends in /api/v1."


PROVIDER = Provider(
    abilities=frozenset({Ability.IMAGE}),
    connect=lambda address, model, ability: ZImage(address, model),
    missing=_missing,
)
