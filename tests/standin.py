"""A device that is none: its copies are late, its memory is poison until they arrive, and it counts and checks.

It has two queues, as a CUDA device has streams: what is copied and what is computed. What is queued happens when
somebody waits for it, or earlier by chance (seeded): any order that the queues permit can come up, and nothing sleeps.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

POISON = 0xFF  # a NaN in each floating type


class Violation(AssertionError):
    """Something was done with memory that a real device would not forgive."""


@dataclass(eq=False)
class Memory:
    """What was handed out; since which call computing may use it, and the last copy there."""

    tensor: Tensor
    lent: int | None = None
    copy: Moment | None = None


@dataclass(eq=False)
class Moment:
    """An event: it is done once ``work`` is, which begins after ``after``. ``number`` counts all calls."""

    number: int
    queue: deque[Moment]
    work: Callable[[], None]
    after: Moment | None = None
    slot: Memory | None = None  # of a copy: where to
    done: bool = False


class StandIn:
    """A lane (see ``mova.lanes``) to the device that is none. It computes on the CPU, in the thread that made it.

    Args:
        seed: of the chance by which queued things happen before somebody waits for them.
        eagerness: how much happens by chance, from 0 (nothing) to 1 (all that can).
        deferred: what is computed is given to ``run`` and queued too, as on a real device; else it is computed at once.
        memory: bytes of the device.
        trouble: hears "slot", "buffer" or "copy" before each of them, and may raise.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        eagerness: float = 0.5,
        deferred: bool = False,
        memory: int | None = None,
        trouble: Callable[[str], None] = lambda _what: None,
    ) -> None:
        self.notes: list[str] = []
        self.copies = self.bytes = self.syncs = 0  # syncs: how often the computing thread waited for the device
        self.slots: list[int] = []  # sizes of all that were ever made
        self.buffers: list[int] = []
        self.violations: list[str] = []
        self._chance = random.Random(seed)
        self._eagerness, self._deferred, self._memory, self._trouble = eagerness, deferred, memory, trouble
        self._lock = threading.RLock()
        self._thread = threading.get_ident()
        self._number = 0
        self._copying: deque[Moment] = deque()
        self._computing: deque[Moment] = deque()
        self._device: dict[int, Memory] = {}  # by address
        self._host: dict[int, Memory] = {}

    @property
    def pinned_bytes(self) -> int:
        return sum(memory.tensor.numel() for memory in self._host.values())

    @property
    def held_bytes(self) -> int:
        """Of the device, now."""
        return sum(memory.tensor.numel() for memory in self._device.values())

    def slot(self, nbytes: int) -> Tensor:
        with self._lock:
            self._trouble("slot")
            if self._memory is not None and self.held_bytes + nbytes > self._memory:
                raise torch.OutOfMemoryError(f"The stand-in is out of memory: {nbytes} bytes more.")
            self.slots.append(nbytes)
            return _handed_out(self._device, nbytes)

    def buffer(self, nbytes: int) -> Tensor:
        with self._lock:
            self._trouble("buffer")
            self.buffers.append(nbytes)
            return _handed_out(self._host, nbytes)

    def release(self, memory: Tensor) -> None:
        with self._lock:
            shelf = self._device if memory.data_ptr() in self._device else self._host
            known = self._known(shelf, memory)
            if known.copy and not known.copy.done:
                self._violated("memory was released while it is copied")
            if shelf is self._host or not self._deferred:  # else what is queued may still compute with it
                memory.fill_(POISON)
            del shelf[memory.data_ptr()]

    def copy(self, slot: Tensor, buffer: Tensor, after: Moment | None) -> Moment:
        with self._lock:
            self._trouble("copy")
            there, here = self._known(self._device, slot), self._known(self._host, buffer)
            if slot.numel() != buffer.numel():
                self._violated(f"{buffer.numel()} bytes were copied into {slot.numel()}")
            if there.lent is not None and not (after and after.queue is self._computing and after.number > there.lent):
                self._violated("a slot was overwritten while it is computed with")
            if not self._deferred:
                slot.fill_(POISON)
            told = buffer.clone()

            def arrive() -> None:
                if not torch.equal(told, buffer):
                    self._violated("a buffer was refilled before its copy was over")
                slot.copy_(buffer)

            copy = self._queued(self._copying, arrive, after, there)
            there.lent, there.copy, here.copy = None, copy, copy
            self.copies += 1
            self.bytes += slot.numel()
            self._let_happen()
            return copy

    def mark(self) -> Moment:
        with self._lock:
            mark = self._queued(self._computing, lambda: None)
            self._let_happen()
            return mark

    def wait(self, event: Moment) -> None:
        with self._lock:
            waiting = self._queued(self._computing, lambda: None, event)
            if event.slot:
                event.slot.lent = waiting.number
            if not self._deferred:
                self._force(event)
            self._let_happen()

    def finished(self, event: Moment) -> None:
        with self._lock:
            self.syncs += threading.get_ident() == self._thread
            self._force(event)

    def run(self, work: Callable[[], None]) -> None:
        """Compute, when the device comes to it."""
        with self._lock:
            self._queued(self._computing, work)
            self._let_happen()

    def check(self) -> None:
        """Let everything happen that is queued; raise if anything was wrong, whichever thread may have heard of it."""
        with self._lock:
            while last := [queue[-1] for queue in (self._copying, self._computing) if queue]:
                self._force(last[0])
            if self.violations:
                raise Violation("; ".join(self.violations))

    def _queued(
        self,
        queue: deque[Moment],
        work: Callable[[], None],
        after: Moment | None = None,
        slot: Memory | None = None,
    ) -> Moment:
        self._number += 1
        queue.append(Moment(self._number, queue, work, after, slot))
        return queue[-1]

    def _let_happen(self) -> None:
        while self._chance.random() < self._eagerness:
            heads = [queue[0] for queue in (self._copying, self._computing) if queue]
            able = [head for head in heads if head.after is None or head.after.done]
            if not able:
                return
            _do(self._chance.choice(able))

    def _force(self, moment: Moment) -> None:
        while not moment.done:
            head = moment.queue[0]
            if head.after is not None:
                self._force(head.after)
            _do(head)

    def _known(self, shelf: dict[int, Memory], memory: Tensor) -> Memory:
        known = shelf.get(memory.data_ptr())
        if known is None or known.tensor.numel() < memory.numel():
            self._violated("memory was used that wasn't handed out")
        assert known is not None
        return known

    def _violated(self, how: str) -> None:
        self.violations.append(how)
        raise Violation(how)


def _do(head: Moment) -> None:
    head.queue.popleft()
    head.done = True
    head.work()


def _handed_out(shelf: dict[int, Memory], nbytes: int) -> Tensor:
    memory = torch.full((nbytes,), POISON, dtype=torch.uint8)
    shelf[memory.data_ptr()] = Memory(memory)
    return memory
