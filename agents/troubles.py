"""What can go wrong with a model, whichever provider it comes from: one table of troubles and their sentences."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

TRIES = 3
LONGEST_WAIT = 30.0  # seconds that a server may ask for before it is given up
FIRST_WAIT = 1.0  # seconds, doubled with each try, where the server names none
LONGEST_SAID = 300  # characters of what a provider said

Answer = TypeVar("Answer")


class Trouble(StrEnum):
    """What is wrong; the creator's remedies go by it."""

    MISSING_KEY = "missing_key"
    BAD_KEY = "bad_key"
    REFUSED = "refused"
    RATE_LIMIT = "rate_limit"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"
    NO_SUCH_MODEL = "no_such_model"
    REJECTED = "rejected"
    EMPTY_ANSWER = "empty_answer"
    UNREADABLE = "unreadable"
    NOT_AN_IMAGE = "not_an_image"
    TOO_LONG = "too_long"
    MEMORY = "model_memory"
    CANNOT = "cannot"
    NOT_HERE = "not_here"
    NOT_SET_UP = "not_set_up"
    NO_MODEL_NAMED = "no_model_named"
    NO_SUCH_PROVIDER = "no_such_provider"


# The values are filled in by ``AgentError``; app/texts/agents.toml has each sentence again, in both languages.
SENTENCES = {
    Trouble.MISSING_KEY: "{endpoint} needs a key: set {variable}, or api_key under [studio.providers.{name}] in "
    ".streamlit/secrets.toml, then start the studio again.",
    Trouble.BAD_KEY: "{endpoint} doesn't accept the key. Check {variable}, then start the studio again.",
    Trouble.REFUSED: "{endpoint} refuses this content: {said}",
    Trouble.RATE_LIMIT: "{endpoint} takes no more requests for now, or its credit is used up: {said}",
    Trouble.UNREACHABLE: "{endpoint} can't be reached at {address}: {said}",
    Trouble.TIMEOUT: "{endpoint} didn't answer within {seconds} seconds.",
    Trouble.OVERLOADED: "{endpoint} has trouble of its own: {said}",
    Trouble.NO_SUCH_MODEL: "{endpoint} has no model {model}, or not for this: {said}",
    Trouble.REJECTED: "{endpoint} didn't take the request: {said}",
    Trouble.EMPTY_ANSWER: "{model} at {endpoint} gave an empty answer.",
    Trouble.UNREADABLE: "{model} didn't answer in the form that it was asked for: {said}",
    Trouble.NOT_AN_IMAGE: "{model} at {endpoint} gave no picture: {said}",
    Trouble.TOO_LONG: "The image prompt has {count} characters, and {endpoint} takes {longest}.",
    Trouble.MEMORY: "{model} doesn't fit into the memory of this machine.",
    Trouble.CANNOT: "{endpoint} can't do this: it has no {ability} model here.",
    Trouble.NOT_HERE: "{said}",
    Trouble.NOT_SET_UP: "{endpoint} isn't set up: set {variable} to its address, such as {address}, then start the "
    "studio again.",
    Trouble.NO_MODEL_NAMED: "No model is named for {endpoint}: write {name}:model.",
    Trouble.NO_SUCH_PROVIDER: "There is no provider {endpoint}; there are: {known}.",
}
AGAIN = (Trouble.RATE_LIMIT, Trouble.OVERLOADED)  # worth another try after a while


class AgentError(Exception):
    """A model couldn't be used. ``str()`` is one sentence, in which no key ever stands.

    ``values`` fill the trouble's sentence. ``secret`` is taken out of all of them. ``wait``: seconds that the server
    asks for.
    """

    def __init__(self, trouble: Trouble, *, secret: str = "", wait: float | None = None, **values: object) -> None:
        self.trouble = trouble
        self.wait = wait
        said = {name: _told(str(value), secret) for name, value in values.items()}
        super().__init__(SENTENCES[trouble].format(**said))


def insist(call: Callable[[], Answer], sleep: Callable[[float], Any] = time.sleep) -> Answer:
    """Make a call again, a few times, where the server is busy or has trouble, after the delay that it asks for.

    Raises:
        AgentError: of the last try, or at once where another try won't help or the delay is too long.
    """
    for attempt in range(TRIES):
        try:
            return call()
        except AgentError as error:
            wait = FIRST_WAIT * 2**attempt if error.wait is None else error.wait
            if error.trouble not in AGAIN or attempt == TRIES - 1 or wait > LONGEST_WAIT:
                raise
        sleep(wait)
    raise AssertionError("not reached")


def _told(said: str, secret: str) -> str:
    if secret:
        said = said.replace(secret, "…")
    line = " ".join(said.split())
    return line if len(line) <= LONGEST_SAID else line[:LONGEST_SAID].rstrip() + "…"
