"""A model's weights, from their loading for the first call until they are given back; what goes wrong with them."""

from __future__ import annotations

import gc
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from pickle import PickleError
from typing import Generic, TypeVar

from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError

from agents.local.folder import name_of
from agents.models import Address
from agents.troubles import AgentError, Trouble

SLOW = 3600.0  # seconds for one answer where the studio was told no time: a CPU has its own pace

# What loading and running raise where files are broken or don't go together; torch's own errors are RuntimeErrors.
FAILURES = (
    *(AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError),
    *(PickleError, SafetensorError, TemplateError, Image.DecompressionBombError),
)
NO_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory", re.IGNORECASE)

Parts = TypeVar("Parts")
Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


class Held(Generic[Parts]):
    """A model's weights, from their first use until they are given back. One call at a time.

    ``load`` gets the folder and a function to be called before every part of the work; it raises when time is up.
    """

    def __init__(self, address: Address, folder: Path, load: Callable[[Path, Callable[[], None]], Parts]) -> None:
        self.folder, self.title = folder, address.title
        self.name = name_of(folder)
        self._seconds = address.timeout if address.configured else SLOW
        self._load = load
        self._parts: Parts | None = None
        self._until = math.inf
        self._working = threading.Lock()
        self._closing = threading.Event()

    def use(self, work: Callable[[Parts], Answer]) -> Answer:
        """What comes of some work with the weights. Raises ``AgentError``."""
        try:
            with self._working:
                return self._use(work)
        finally:
            if self._closing.is_set():
                self._give_back()

    def close(self) -> None:
        """Give them back, or have the call under way do so when it ends, which is soon."""
        self._closing.set()
        self._give_back()

    def _use(self, work: Callable[[Parts], Answer]) -> Answer:
        try:
            if self._parts is None:
                self._parts = self._loaded()
            self._until = time.monotonic() + self._seconds
            return work(self._parts)
        except AgentError as error:
            failure = error.with_traceback(None)
        except FAILURES as error:
            failure = self._failure(error)
        raise failure  # here, where no traceback comes along: its frames would hold the weights

    def _loaded(self) -> Parts:
        self._may_go_on()
        begun = time.monotonic()
        parts = self._load(self.folder, self._may_go_on)
        log.info("%s was loaded in %.1f s", self.name, time.monotonic() - begun)
        return parts

    def _failure(self, error: Exception) -> AgentError:
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            return AgentError(Trouble.MEMORY, model=self.name)
        if self._parts is None:
            return AgentError(Trouble.NOT_HERE, said=f"{self.folder} can't be loaded: {error}")
        return AgentError(Trouble.REJECTED, endpoint=self.title, said=error)

    def _may_go_on(self) -> None:
        if self._closing.is_set():
            raise AgentError(Trouble.NOT_HERE, said=f"{self.name} was closed before it had finished.")
        if time.monotonic() > self._until:
            raise AgentError(Trouble.TIMEOUT, endpoint=self.title, seconds=f"{self._seconds:g}")

    def _give_back(self) -> None:
        if self._parts is None or not self._working.acquire(blocking=False):
            return
        self._parts = None
        self._working.release()
        gc.collect()
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
