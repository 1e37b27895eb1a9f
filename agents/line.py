"""The line to a model's server: calls that end in time, and at once when another thread hangs up."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from agents.addresses import key_of, sendable, shown
from agents.models import Address
from agents.troubles import AgentError, Trouble, insist

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
USER_AGENT = "mova-studio"
STATUSES = {
    401: Trouble.BAD_KEY,
    403: Trouble.BAD_KEY,
    404: Trouble.NO_SUCH_MODEL,
    429: Trouble.RATE_LIMIT,
}

Answer = TypeVar("Answer")


class Line:
    """The way to a model at an address, for one call at a time.

    An HTTP client's timeouts count from one byte to the next: a server that sends a blank now and then never runs into
    them. And closing a client doesn't wake the thread that waits for an answer. Shutting the socket down does both.
    """

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._model = model
        self._hung_up = threading.Event()
        self._why = ""
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._late = False

    @property
    def hung_up(self) -> bool:
        """Whether no call can be made any more."""
        return self._hung_up.is_set()

    def hang_up(self, said: str) -> None:
        """End the call under way, and all to come; ``said`` is why, for who waits for their answer."""
        self._why = said
        self._hung_up.set()
        self._cut()

    def insist(self, call: Callable[[], Answer]) -> Answer:
        """``troubles.insist``, whose waiting ends when the line is hung up."""
        started = time.monotonic()
        answer = insist(call, sleep=self._hung_up.wait)
        logger.info("%s at %s: %.1f s", self._model, self._address.title, time.monotonic() - started)
        return answer

    @contextmanager
    def open(self, base_url: str = "", *, to: str = "", follow_redirects: bool = False) -> Iterator[httpx.Client]:
        """A client for one call. It isn't told the key. ``to``: what errors call the place, if not by its address."""
        with (
            self.call(to or shown(base_url)),
            httpx.Client(
                base_url=base_url,
                headers={"user-agent": USER_AGENT},
                follow_redirects=follow_redirects,
                event_hooks={"request": [self.watch]},
            ) as client,
        ):
            yield client

    @contextmanager
    def call(self, to: str) -> Iterator[None]:
        """One call by a client that has ``watch`` as a hook.

        Raises:
            AgentError: it wasn't answered in time, the line was hung up, or one of httpx's errors came of it. Errors of
                other clients are for the caller to translate into these.
        """
        if not sendable(key_of(self._address)):  # httpx would repeat it in an error of its own
            raise self.error(Trouble.BAD_KEY)
        with self._lock:
            self._late = False
        timer = threading.Timer(self._address.timeout, self._run_out)
        timer.daemon = True
        timer.start()
        error: AgentError | httpx.RequestError | httpx.InvalidURL | None = None
        try:
            if not self.hung_up:
                yield
        except (AgentError, httpx.RequestError, httpx.InvalidURL) as caught:
            error = caught
        finally:
            timer.cancel()
            timer.join()  # or it might cut the next call off
            with self._lock:
                while self._sockets:
                    self._sockets.pop().close()
        if failure := self._failure(error, to):
            raise failure from None

    def watch(self, request: Any) -> None:
        """A hook of httpx's or httpx2's: limit the time to connect, and be told of the sockets, which serve once."""
        timeout = {"connect": min(self._address.timeout, CONNECT_SECONDS)}  # all else is limited by the call's time
        request.extensions = {**request.extensions, "timeout": timeout, "trace": self._traced}
        request.headers["connection"] = "close"

    def error(self, trouble: Trouble, *, wait: float | None = None, **values: object) -> AgentError:
        """An error with what every sentence may need; the key is taken out of it."""
        known = {"endpoint": self._address.title, "model": self._model, "variable": self._address.variable}
        return AgentError(trouble, secret=key_of(self._address), wait=wait, **known, **values)

    def _failure(self, error: Exception | None, to: str) -> AgentError | None:
        """What a call came to. Whatever went wrong in one that was cut off went wrong because it was."""
        if self.hung_up:
            return self.error(Trouble.UNREACHABLE, address=to, said=self._why)
        if self._late:
            return self.error(Trouble.TIMEOUT, seconds=f"{self._address.timeout:g}")
        if error is None or isinstance(error, AgentError):
            return error
        if isinstance(error, httpx.TimeoutException):
            said = f"no connection within {min(self._address.timeout, CONNECT_SECONDS):g} seconds"
            return self.error(Trouble.UNREACHABLE, address=to, said=said)
        return self.error(Trouble.UNREACHABLE, address=to, said=str(error) or type(error).__name__)

    def _traced(self, event: str, info: Mapping[str, Any]) -> None:
        if not event.endswith(".connect_tcp.complete"):
            return
        with self._lock:
            # A second handle, since TLS takes the first one over; shutting one down shuts down both.
            self._sockets.append(info["return_value"].get_extra_info("socket").dup())
            over = self._late or self.hung_up
        if over:
            self._cut()

    def _run_out(self) -> None:
        with self._lock:
            self._late = True
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            for each in self._sockets:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    logger.debug("a connection had ended by itself")


def trouble_of(status: int) -> Trouble:
    """What an HTTP status means where the answer says no more."""
    return STATUSES.get(status, Trouble.OVERLOADED if status >= 500 else Trouble.REJECTED)


def wait_asked(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait (Retry-After), which it tells as a number or as a time of day."""
    said = headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
