"""The two threads behind a stream: one fills buffers on the host, one copies them into slots on the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mova.lanes import Lane
from mova.shelves import Place, Shelf
from mova.sources import Source

Key = Hashable
Job = Callable[[], None]
ALIGNMENT = 256  # bytes, of each tensor in a flat buffer: what any kernel may ask for


class StreamError(RuntimeError):
    """A pack was asked for that the stream wasn't told of, out of turn, or while another is lent."""


@dataclass(frozen=True)
class StreamStats:
    """What a stream has done. Bytes held are the most at any time.

    ``waits`` and ``waited_seconds``: how often and how long the computing thread waited for a copy to begin.
    """

    copies: int = 0
    copied_bytes: int = 0
    reads: int = 0
    read_bytes: int = 0
    waits: int = 0
    waited_seconds: float = 0.0
    device_bytes: int = 0
    host_bytes: int = 0
    pinned_bytes: int = 0


class Pack:
    """Tensors that travel together: their homes, and where each lies in one flat piece of memory of ``nbytes``."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list({id(tensor): tensor for tensor in tensors}.values())
        self.homes = [tensor.data for tensor in self.tensors]
        # As at home if that is dense; else contiguous.
        self._strides = [torch.empty_like(home, device="meta").stride() for home in self.homes]
        self._starts: list[int] = []
        end = 0
        for home in self.homes:
            self._starts.append(-(-end // ALIGNMENT) * ALIGNMENT)
            end = self._starts[-1] + home.nbytes
        self.nbytes = max(end, 1)  # so that even of nothing there is a copy to wait for

    def views(self, memory: Tensor) -> list[Tensor]:
        """The tensors as they lie in ``memory``, uint8 [nbytes or more]."""
        views = []
        for home, start, strides in zip(self.homes, self._starts, self._strides, strict=True):
            flat = memory[start : start + home.nbytes].view(home.dtype)
            views.append(flat.as_strided(home.shape, strides))
        return views

    def bind(self, views: Sequence[Tensor]) -> None:
        """Let the tensors be ``views``."""
        for tensor, view in zip(self.tensors, views, strict=True):
            tensor.data = view

    def unbind(self) -> None:
        """Let the tensors be at home."""
        self.bind(self.homes)


class Carriers:
    """Both shelves, and the threads that serve them; they need not know the stream, so that it may be forgotten.

    A slot is overwritten only after the computing that used it, in the order of the device's streams; a buffer only
    once its copy is over, for which the reader waits.
    """

    def __init__(self, packs: Mapping[Key, Pack], lane: Lane, source: Source, *, slots: int, buffers: int) -> None:
        self.stats = StreamStats()
        self._packs = packs
        self._nbytes = {key: pack.nbytes for key, pack in packs.items()}
        self._lane = lane
        self._source = source
        self._slots = Shelf([Place() for _ in range(slots)])
        self._buffers = Shelf([Place() for _ in range(buffers)])
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()  # held while any of what precedes or follows is looked at or changed
        self._turn = 0  # counts the orders
        self._inside = 0  # threads that are at work
        self._leaving = False
        self._keep_buffers = False
        self._failure: BaseException | None = None

    def follow(self, order: Sequence[Key]) -> None:
        """Serve ``order`` instead of what was to follow."""
        with self._changed:
            self._turn += 1
            self._failure = None
            fetched = self._slots.follow(order, self._nbytes)
            self._buffers.follow(fetched, self._nbytes)
            self._changed.notify_all()
            if not self._threads:
                self._begin()

    def await_slot(self, key: Key) -> tuple[int, Place]:
        """The slot that holds pack ``key``, and the number of the order that it is lent in."""
        with self._changed:
            if not (self._failure or self._slots.find(key)):
                began = time.perf_counter()
                self._changed.wait_for(lambda: self._failure or self._leaving or self._slots.find(key))
                self._count(waits=1, waited_seconds=time.perf_counter() - began)
            if self._failure:
                failure, self._failure = self._failure, None
                try:
                    raise failure
                finally:
                    del failure  # its traceback holds this frame, and this frame would hold it
            slot = self._slots.find(key)
            if slot is None:
                raise StreamError(f"The stream was closed before {key!r} was there.")
            slot.busy = True
            return self._turn, slot

    def give_back(self, slot: Place, turn: int) -> None:
        """The computing that was given to the device so far is the last with what ``slot`` holds."""
        try:
            slot.used = self._lane.mark()
        finally:
            with self._changed:
                slot.busy = False
                self._slots.uses += turn == self._turn
                self._changed.notify_all()

    def dismiss(self, patience: float | None = None, *, keep_buffers: bool = False) -> None:
        """Let the threads give memory back and end; wait for that, at most ``patience`` seconds if given.

        ``keep_buffers``: what the host's buffers hold stays for the next order.
        """
        with self._changed:
            self._turn += 1
            self._leaving = True
            self._keep_buffers = keep_buffers
            if not self._threads:
                self._give_memory_back()
            self._forget()
        if threading.current_thread() not in self._threads:  # as when a thread comes upon a stream that was forgotten
            for thread in self._threads:
                thread.join(patience)
            self._threads = []

    def _begin(self) -> None:
        self._leaving = False
        for name, take, shelf in (
            ("reader", self._take_fill, self._buffers),
            ("feeder", self._take_copy, self._slots),
        ):
            work = partial(self._work, take, shelf)
            self._threads.append(threading.Thread(target=work, name=f"stream-{name}", daemon=True))
        self._inside = len(self._threads)
        for thread in self._threads:
            thread.start()

    def _work(self, take: Callable[[], Job | None], shelf: Shelf) -> None:
        """A thread's life: jobs as they can be done, until it shall leave. The last one gives the memory back."""
        while True:
            try:
                if (job := self._next(take)) is None:
                    break
                job()
            except BaseException as error:  # noqa: BLE001  handed on to the thread that computes
                self._fail(shelf, error)
        with self._changed:
            self._inside -= 1
            last = not self._inside
        if last:
            self._give_memory_back()

    def _next(self, take: Callable[[], Job | None]) -> Job | None:
        with self._changed:
            while not self._leaving:
                if job := take():
                    return job
                self._changed.wait()
        return None

    def _take_fill(self) -> Job | None:
        buffer = self._buffers.take()
        return partial(self._fill, buffer) if buffer else None

    def _fill(self, buffer: Place) -> None:
        """Source to buffer, tensor by tensor: between two it may be told to leave."""
        pack = self._packs[buffer.key]
        if buffer.copied is not None:
            self._lane.finished(buffer.copied)
        self._make_room(buffer, self._lane.buffer)
        for home, view in zip(pack.homes, pack.views(buffer.memory), strict=True):
            if self._leaving:
                return
            self._source(home, view)
        with self._changed:
            buffer.ready = True
            self._count(reads=1, read_bytes=pack.nbytes)
            self._changed.notify_all()

    def _take_copy(self) -> Job | None:
        move = self._slots.moves[0] if self._slots.moves else None
        buffer = self._buffers.find(move.key) if move else None
        slot = self._slots.take() if buffer else None
        if not (slot and buffer):
            return None
        buffer.busy = True
        return partial(self._copy, slot, buffer, self._turn)

    def _copy(self, slot: Place, buffer: Place, turn: int) -> None:
        """Buffer to slot: begun here, done when the device comes to it."""
        pack = self._packs[slot.key]
        try:
            self._make_room(slot, self._lane.slot)
            buffer.copied = self._lane.copy(slot.memory[: pack.nbytes], buffer.memory[: pack.nbytes], slot.used)
            slot.copied, slot.views = buffer.copied, pack.views(slot.memory)
        finally:
            with self._changed:
                buffer.busy = False
        with self._changed:
            slot.ready = True
            self._buffers.uses += turn == self._turn
            self._count(copies=1, copied_bytes=pack.nbytes)
            self._changed.notify_all()

    def _make_room(self, place: Place, allocate: Callable[[int], Tensor]) -> None:
        if place.memory is not None and place.memory.numel() >= place.size:
            return
        self._drop(place)
        place.memory = allocate(place.size)
        with self._changed:
            held = {"device_bytes": _held(self._slots), "host_bytes": _held(self._buffers)}
            held["pinned_bytes"] = self._lane.pinned_bytes
            most = {name: max(nbytes, getattr(self.stats, name)) for name, nbytes in held.items()}
            self.stats = replace(self.stats, **most)

    def _drop(self, place: Place) -> None:
        """Give a place's memory back, once nothing is copied there any more."""
        memory, place.memory, place.views = place.memory, None, ()
        if memory is None:
            return
        if place.copied is not None:
            self._lane.finished(place.copied)
        self._lane.release(memory)

    def _fail(self, shelf: Shelf, error: BaseException) -> None:
        """Nothing more is carried until there is another order; the computing thread hears why."""
        with self._changed:
            shelf.drop_unready()
            self._forget()
            self._failure = error

    def _forget(self) -> None:
        self._slots.forget()
        self._buffers.forget()
        self._failure = None
        self._changed.notify_all()

    def _give_memory_back(self) -> None:
        with ExitStack() as stack:  # all, even if one can't be
            for place in (*self._slots.places, *(() if self._keep_buffers else self._buffers.places)):
                place.key, place.ready, place.size = None, False, 0
                stack.callback(self._drop, place)
        if self._keep_buffers:
            self._buffers.drop_unready()
            for place in self._buffers.places:
                place.copied = None  # every copy is over, since every slot is gone

    def _count(self, **more: float) -> None:
        self.stats = replace(self.stats, **{name: getattr(self.stats, name) + n for name, n in more.items()})


def _held(shelf: Shelf) -> int:
    return sum(place.memory.numel() for place in shelf.places if place.memory is not None)
