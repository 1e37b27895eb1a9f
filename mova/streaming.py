"""Weights on their way to the device while it computes: lent pack by pack, in an order that is known beforehand."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from mova.carriers import Carriers, Pack, StreamError, StreamStats
from mova.lanes import Lane
from mova.shelves import Place
from mova.sources import Source, mapped

__all__ = ["LayerStream", "StreamError", "StreamStats"]

Key = Hashable
PATIENCE = 5.0  # seconds that a forgotten stream's carriers are waited for


class LayerStream:
    """Lends packs of tensors on the device. It belongs to the thread that computes.

    That thread never waits for the device, only for a copy that couldn't begin yet. While the stream lives, others must
    neither change nor move the tensors.

    Args:
        packs: the tensors that travel together. A tensor may be in several packs.
        lane: the way to the device.
        slots: places for a pack on the device, at least 2: one is computed with while the next arrives. What more
            there are keep their packs.
        buffers: places for a pack in the host's pinned memory, at least 2.
        source: what fills a buffer; by default from where the tensors are now.

    Raises:
        ValueError: fewer than two places.
    """

    def __init__(
        self,
        packs: Mapping[Key, Sequence[Tensor]],
        lane: Lane,
        *,
        slots: int,
        buffers: int,
        source: Source = mapped,
    ) -> None:
        if min(slots, buffers) < 2:
            raise ValueError(
                f"{slots} slots, {buffers} buffers: one is used while another is filled, so give 2 or more."
            )
        self._packs = {key: Pack(tensors) for key, tensors in packs.items()}
        self._lane = lane
        self._order: Sequence[Key] = ()
        self._position = 0
        self._lent: Pack | None = None
        self._carriers = Carriers(self._packs, lane, source, slots=slots, buffers=buffers)
        weakref.finalize(self, self._carriers.dismiss, PATIENCE)

    @property
    def stats(self) -> StreamStats:
        """What was done since the stream was made."""
        return self._carriers.stats

    def follow(self, order: Iterable[Key]) -> None:
        """Have these packs ready, one after the other, instead of what was to follow; what is here already is used.

        Raises:
            StreamError: no such pack.
        """
        order = tuple(order)
        if unknown := [key for key in order if key not in self._packs]:
            raise StreamError(f"The stream has no pack {unknown[0]!r}.")
        self._order, self._position = order, 0
        self._carriers.follow(order)

    @contextmanager
    def lend(self, key: Key) -> Iterator[None]:
        """The pack's tensors are on the device inside the block, and at home after it.

        Raises:
            StreamError: it isn't this pack's turn, or another is still lent.
            Exception: what went wrong on the way of this pack or a later one, once; then the stream follows nothing.
        """
        turn, slot = self._borrow(key)
        self._lent = pack = self._packs[key]
        try:
            self._lane.wait(slot.copied)
            pack.bind(slot.views)
            yield
        finally:
            pack.unbind()
            self._lent = None
            self._carriers.give_back(slot, turn)

    def close(self) -> None:
        """Bring every tensor home and give all memory back, whatever was under way; ``follow`` opens it again."""
        self._leave(keep_buffers=False)

    def vacate(self) -> None:
        """As ``close``, but the host's buffers keep what they hold, for ``follow`` to begin with."""
        self._leave(keep_buffers=True)

    def _leave(self, *, keep_buffers: bool) -> None:
        if self._lent:
            self._lent.unbind()
        self._order = ()
        self._carriers.dismiss(keep_buffers=keep_buffers)

    def _borrow(self, key: Key) -> tuple[int, Place]:
        if self._lent:
            raise StreamError(f"{key!r} was asked for while another pack is lent. Give that back first.")
        if self._order[self._position : self._position + 1] != (key,):
            raise StreamError(f"It isn't the turn of {key!r}. Tell the stream which order to follow.")
        try:
            borrowed = self._carriers.await_slot(key)
        except BaseException:
            self._order = ()
            raise
        self._position += 1
        return borrowed
