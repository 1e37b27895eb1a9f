from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mova.shelves import NEVER, Move, Place, Shelf, fit_places, plan_moves

Key = Hashable
SMALL, LARGE = 70, 97  # as layers without and with an audio block

orders = st.lists(st.integers(0, 8), max_size=40)
sizes = st.fixed_dictionaries({key: st.integers(1, 5) for key in range(9)})


def planned(order: Sequence[Key], nbytes: dict[Key, int], count: int) -> tuple[list[int], list[Move]]:
    """The sizes of ``count`` places that were empty, and the moves."""
    fitted = fit_places(order, nbytes, [(None, 0)] * count)
    return fitted, plan_moves(order, nbytes, [(None, size) for size in fitted])


def fewest(order: Sequence[Key], count: int) -> int:
    """How often Belady's rule fetches with ``count`` places, told as plainly as can be."""
    held: set[Key] = set()
    fetched = 0
    for use, key in enumerate(order):
        if key not in held:
            fetched += 1
            if len(held) == count:
                later = order[use:]
                held.remove(max(held, key=lambda pack: later.index(pack) if pack in later else NEVER))
            held.add(key)
    return fetched


def served(order: Sequence[Key], nbytes: dict[Key, int], places: list[tuple[Key | None, int]]) -> None:
    """Each use finds its pack, and no pack has to go before it was used, nor while the use before the next goes on."""
    moves = plan_moves(order, nbytes, places)
    held = [key for key, _ in places]
    last: dict[int, int] = {}
    queue = list(moves)
    for use, key in enumerate(order):
        while queue and queue[0].use <= use:  # as late as may be
            move = queue.pop(0)
            assert move.use == use and move.key == key
            assert move.after == last.get(move.place, -1)  # exactly the last use of what was there
            assert move.after < use - 1 or move.after == -1  # so that it can arrive during the use before
            assert nbytes[key] <= places[move.place][1]
            held[move.place] = key
        assert held.count(key) == 1
        last[held.index(key)] = use
    assert not queue


@settings(derandomize=True, max_examples=300, deadline=None)
@given(orders, sizes, st.integers(2, 10))
def test_every_use_finds_its_pack(order: list[int], nbytes: dict[Key, int], count: int) -> None:
    fitted = fit_places(order, nbytes, [(None, 0)] * count)
    served(order, nbytes, [(None, size) for size in fitted])


@settings(derandomize=True, max_examples=300, deadline=None)
@given(orders, orders, sizes, st.integers(2, 10))
def test_another_order_begins_with_what_is_there(
    first: list[int], second: list[int], nbytes: dict[Key, int], count: int
) -> None:
    fitted, moves = planned(first, nbytes, count)
    held: list[Key | None] = [None] * count
    for move in moves[: len(moves) * 2 // 3]:
        held[move.place] = move.key
    grown = fit_places(second, nbytes, list(zip(held, fitted, strict=True)))
    assert all(new >= old for new, old in zip(grown, fitted, strict=True))
    places = list(zip(held, grown, strict=True))
    served(second, nbytes, places)
    if len(set(second)) <= count:
        fetched = {move.key for move in plan_moves(second, nbytes, places)}
        assert not fetched & set(held)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(orders, st.integers(3, 10))
def test_fetches_hardly_more_than_must_be(order: list[int], count: int) -> None:
    """One place more than without overlap is what it costs that packs arrive while the one before is used."""
    _, moves = planned(order, dict.fromkeys(range(9), 1), count)
    assert fewest(order, count) <= len(moves) <= fewest(order, count - 1)


@pytest.mark.parametrize(("slots", "a_pass"), [(2, 40), (3, 39), (5, 37), (20, 22), (39, 3), (40, 0)])
def test_fetches_a_pass_over_forty_layers(slots: int, a_pass: int) -> None:
    """Of k places two are on the move; the others keep what they hold."""
    passes = 20
    _, moves = planned(list(range(40)) * passes, dict.fromkeys(range(40), 1), slots)
    per_pass = Counter(move.use // 40 for move in moves)
    assert per_pass[0] == 40
    assert all(per_pass[index] <= a_pass for index in range(1, passes))


def layers(expert: str) -> list[tuple[str, int]]:
    return [(expert, layer) for layer in range(8)]


NBYTES: dict[Key, int] = {
    **{(expert, layer): LARGE if layer < 6 else SMALL for expert in "ab" for layer in range(8)},
    **{(expert, layer, "text"): 10 for expert in "ab" for layer in range(8)},
}


def generation(*, text: bool) -> list[Key]:
    texts = {expert: [(expert, layer, "text") for layer in range(8)] if text else [] for expert in "ab"}
    return [*texts["a"], *layers("a") * 3, *texts["b"], *layers("b") * 3]


@pytest.mark.parametrize(("count", "text", "experts"), [(8, False, 1), (8, True, 1), (16, False, 2)])
def test_places_for_whole_experts_fit_to_the_byte(count: int, text: bool, experts: int) -> None:
    fitted, _ = planned(generation(text=text), NBYTES, count)
    assert sum(fitted) == experts * (6 * LARGE + 2 * SMALL)


def test_fewer_places_take_any_pack() -> None:
    assert planned(generation(text=False), NBYTES, 2)[0] == [LARGE, LARGE]
    assert planned([1, 2, 3, 1, 2, 3], {1: 1, 2: 1, 3: 9}, 2)[0] == [9, 9]


def test_the_second_expert_takes_over_places_as_the_first_ones_last_uses_pass() -> None:
    order = generation(text=False)
    _, moves = planned(order, NBYTES, 8)
    second = [move for move in moves if move.key[0] == "b"]  # type: ignore[index]
    assert len(moves) == 16
    assert [move.after for move in second if NBYTES[move.key] == LARGE] == list(range(16, 22))
    assert all(move.use - move.after > 7 for move in second)


def test_the_next_pass_begins_while_this_one_ends() -> None:
    _, moves = planned(list(range(5)) * 2, dict.fromkeys(range(5), 1), 2)
    again = next(move for move in moves if move.use == 5)
    assert (again.key, again.after) == (0, 3)  # fetched while the last layer is used


def test_what_is_never_used_again_makes_room_first() -> None:
    moves = plan_moves([1, 2, 3, 1], dict.fromkeys(range(9), 1), [(1, 1), (8, 1), (2, 1)])
    assert moves == [Move(3, place=1, use=2, after=-1)]


def test_a_shelf_gives_a_place_only_once_it_is_free() -> None:
    shelf = Shelf([Place() for _ in range(2)])
    assert shelf.follow([1, 2, 3], {1: 4, 2: 4, 3: 4}) == [1, 2, 3]
    first, second = shelf.take(), shelf.take()
    assert first and second and (first.key, second.key) == (1, 2)
    assert shelf.find(1) is None
    first.ready = second.ready = True
    assert shelf.find(1) is first
    assert shelf.take() is None  # 1 wasn't used yet
    first.busy, shelf.uses = True, 1
    assert shelf.take() is None
    first.busy = False
    assert shelf.take() is first
    assert (first.key, first.ready, shelf.find(1)) == (3, False, None)


def test_places_keep_what_they_have_and_grow_for_an_order_of_larger_packs() -> None:
    shelf = Shelf([Place() for _ in range(3)])
    nbytes = {1: 10, 2: 20, 3: 30}
    shelf.follow([1, 2], nbytes)
    assert sorted(place.size for place in shelf.places) == [0, 10, 20]
    while place := shelf.take():
        place.ready = True
    assert shelf.follow([1, 2, 3], nbytes) == [3]
    assert sorted(place.size for place in shelf.places) == [10, 20, 30]
