"""Which pack lies in which place, and when it moves there: arithmetic, for an order that is known beforehand.

A shelf of few places serves an order of many packs. What is needed farthest in the future makes room (Belady's rule,
which fetches least), except what was used just before: that is still being computed with while the next one arrives.
So of k places two are on the move and the others keep what they hold.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

Key = Hashable
NEVER = sys.maxsize


@dataclass(frozen=True)
class Move:
    """Pack ``key`` goes to ``place`` for use number ``use`` of the order, once ``after`` is over (-1: at once)."""

    key: Key
    place: int
    use: int
    after: int


def plan_moves(order: Sequence[Key], nbytes: Mapping[Key, int], places: Sequence[tuple[Key | None, int]]) -> list[Move]:
    """Every move that ``order`` takes, in the order in which they happen.

    Done one after the other, each as soon as it may, they never wait for a use that waits for them.

    Args:
        order: the packs in the order of their use.
        nbytes: how large each is.
        places: what each place holds now (None: nothing) and how many bytes it has. Two must be as large as the largest
            pack, or there must be one for each pack; see ``fit_places``.
    """
    following = _next_uses(order)
    at = {key: index for index, (key, _) in enumerate(places) if key is not None}
    held = [key for key, _ in places]
    due = [NEVER] * len(places)  # the next use of what a place holds
    for use in reversed(range(len(order))):
        if order[use] in at:
            due[at[order[use]]] = use
    last = [-1] * len(places)
    moves: list[Move] = []
    before = -1  # the place that was used just before
    for use, key in enumerate(order):
        if key not in at:
            place = _roomiest(nbytes[key], before, places, held, due, last)
            at.pop(held[place], None)
            at[key], held[place] = place, key
            moves.append(Move(key, place, use, last[place]))
        before = at[key]
        due[before], last[before] = following[use], use
    return moves


def fit_places(order: Sequence[Key], nbytes: Mapping[Key, int], places: Sequence[tuple[Key | None, int]]) -> list[int]:
    """How many bytes each place needs to serve ``order``, none less than it has; arguments as ``plan_moves``.

    Exactly the packs' if there is a place for each. Otherwise what the last packs, as many as there are places, take
    wherever one stands in the order: layers in a cycle, of two experts in turn, fill such places to the byte. Two of
    them take any pack.
    """
    sizes = [size for _, size in places]
    packs = dict.fromkeys(order)
    if len(packs) <= len(places):
        held = {key for key, _ in places}
        free = [index for index, (key, _) in enumerate(places) if key not in packs]
        wanted = sorted((nbytes[key] for key in packs if key not in held), reverse=True)
    else:
        free, wanted = list(range(len(places))), _largest_window(order, nbytes, len(places))
        wanted[:2] = [max(nbytes[key] for key in packs)] * 2
    for index, size in zip(sorted(free, key=lambda index: sizes[index], reverse=True), wanted, strict=False):
        sizes[index] = max(sizes[index], size)
    return sizes


@dataclass(eq=False)
class Place:
    """A place on a shelf, what it holds, and what there is to wait for before it may hold something else."""

    size: int = 0  # bytes that it should have from the next pack on
    memory: Any = None
    key: Key | None = None
    ready: bool = False  # whether what it holds can be used, in the order of the device's streams
    busy: bool = False  # lent, or being copied from
    copied: Any = None  # the event of the last copy into it (on the device) or out of it (on the host)
    used: Any = None  # the event of the last computing with it
    views: Sequence[Any] = ()


@dataclass(eq=False)
class Shelf:
    """Places, and the moves between them that are left of an order. ``uses``: how many uses of it are over."""

    places: list[Place]
    uses: int = 0
    moves: deque[Move] = field(default_factory=deque)

    def follow(self, order: Sequence[Key], nbytes: Mapping[Key, int]) -> list[Key]:
        """From now on serve ``order``, beginning with what is here; the packs that will be fetched for it."""
        sizes = fit_places(order, nbytes, [(place.key, place.size) for place in self.places])
        for place, size in zip(self.places, sizes, strict=True):
            place.size = size
        self.moves = deque(plan_moves(order, nbytes, [(place.key, place.size) for place in self.places]))
        self.uses = 0
        return [move.key for move in self.moves]

    def forget(self) -> None:
        """Serve no order any more; what is here stays."""
        self.moves.clear()

    def find(self, key: Key) -> Place | None:
        """Where pack ``key`` can be used."""
        return next((place for place in self.places if place.ready and place.key == key), None)

    def take(self) -> Place | None:
        """The place of the next move, which now belongs to the pack that goes there; None if it can't go yet."""
        if not self.moves:
            return None
        move = self.moves[0]
        place = self.places[move.place]
        if place.busy or move.after >= self.uses:
            return None
        self.moves.popleft()
        place.key, place.ready = move.key, False
        return place

    def drop_unready(self) -> None:
        """Forget what was on its way here."""
        for place in self.places:
            if not place.ready:
                place.key = None


def _next_uses(order: Sequence[Key]) -> list[int]:
    """For each use, when the same pack is used next."""
    following, due = [NEVER] * len(order), dict[Key, int]()
    for use in reversed(range(len(order))):
        following[use] = due.get(order[use], NEVER)
        due[order[use]] = use
    return following


def _largest_window(order: Iterable[Key], nbytes: Mapping[Key, int], count: int) -> list[int]:
    """The sizes of the last ``count`` packs, largest first, each the largest that it is anywhere in ``order``."""
    recent: OrderedDict[Key, None] = OrderedDict()
    sizes = [0] * count
    for key in order:
        if key in recent:
            recent.move_to_end(key)
            continue
        recent[key] = None
        if len(recent) > count:
            recent.popitem(last=False)
        window = sorted((nbytes[held] for held in recent), reverse=True)
        sizes = [max(pair) for pair in zip_longest(sizes, window, fillvalue=0)]
    return sizes


def _roomiest(
    nbytes: int,
    before: int,
    places: Sequence[tuple[Key | None, int]],
    held: Sequence[Key | None],
    due: Sequence[int],
    last: Sequence[int],
) -> int:
    """The place whose pack is needed last; of those never needed the tightest, an empty one, the one free soonest."""
    fitting = [index for index, (_, size) in enumerate(places) if size >= nbytes and index != before]
    return max(fitting, key=lambda index: (due[index], -places[index][1], held[index] is None, -last[index]))
