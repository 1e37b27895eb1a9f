"""Connections that end on time, and at once when another thread gives a call up."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


class Line:
    """Connections that are cut off on time, and at once when another thread hangs up.

    An HTTP client's timeouts count from one byte to the next: a server that sends a blank now and then never runs into
    them. And closing a client doesn't wake the thread that waits for an answer. Shutting the socket down does both.
    """

    def __init__(self) -> None:
        self.hung_up = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._over = False

    def hang_up(self) -> None:
        """End the call under way, and all to come."""
        self.hung_up.set()
        self._cut()

    @contextmanager
    def call(self, seconds: float) -> Iterator[threading.Event]:
        """A call, cut off after so many seconds; the event tells that it was."""
        late = threading.Event()

        def expire() -> None:
            late.set()
            self._cut()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        with self._lock:
            self._over = self.hung_up.is_set()
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
            timer.join()  # or it might cut the next call off
            with self._lock:
                while self._sockets:
                    self._sockets.pop().close()

    def watch(self, request: Any) -> None:
        """A hook of httpx's: be told of the sockets that this request opens, all of them its own."""
        request.extensions = {**request.extensions, "trace": self._traced}
        request.headers["connection"] = "close"

    def _traced(self, event: str, info: Mapping[str, Any]) -> None:
        if event != "connection.connect_tcp.complete":
            return
        with self._lock:
            # A second handle, since TLS takes the first one over; shutting one down shuts down both.
            self._sockets.append(info["return_value"].get_extra_info("socket").dup())
            over = self._over
        if over:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            self._over = True
            for each in self._sockets:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    logger.debug("a connection had ended by itself")
