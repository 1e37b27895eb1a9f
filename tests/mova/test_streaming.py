from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mova.carriers import ALIGNMENT, Pack
from mova.sources import Source, mapped
from mova.streaming import LayerStream, StreamError, StreamStats
from tests.standin import Moment, StandIn, Violation

Key = Hashable
LAYERS = 7
WIDTHS = (20, 20, 40, 20, 20, 40, 8)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    if carriers():
        gc.collect()
    eventually(lambda: not carriers())


def carriers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("stream-")]


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "It never came to that."
        time.sleep(0.0005)


class Model:
    """Two experts of small layers, which share one part; the layers of an expert differ in size."""

    def __init__(self, layers: int = LAYERS, seed: int = 1) -> None:
        torch.manual_seed(seed)
        self.shared = nn.Linear(6, 6)
        self.packs: dict[Key, list[nn.Parameter]] = {}
        for expert in "ab":
            for layer in range(layers):
                width = WIDTHS[layer % len(WIDTHS)]
                parts = (nn.Linear(6, width), nn.Linear(width, 6), self.shared)
                self.packs[expert, layer] = [weight for part in parts for weight in part.parameters()]
        self.homes = {key: [weight.data_ptr() for weight in pack] for key, pack in self.packs.items()}
        self.start = torch.randn(2, 6)

    def passes(self, a: int, b: int) -> list[Key]:
        keys = list(self.packs)
        return keys[: len(keys) // 2] * a + keys[len(keys) // 2 :] * b

    def weights(self, key: Key) -> list[Tensor]:
        return [weight.data for weight in self.packs[key]]

    def plain(self, order: Sequence[Key]) -> Tensor:
        x = self.start
        for key in order:
            x = compute(self.weights(key), x)
        return x

    def streamed(self, stream: LayerStream, order: Sequence[Key]) -> Tensor:
        x = self.start
        for key in order:
            with stream.lend(key):
                x = compute(self.weights(key), x)
        return x

    def queued(self, stream: LayerStream, order: Sequence[Key], device: StandIn) -> Tensor:
        """As streamed, but computed when the device comes to it, while packs are lent far ahead of that."""
        state = [self.start]

        def advance(weights: list[Tensor]) -> None:
            state[0] = compute(weights, state[0])

        for key in order:
            with stream.lend(key):
                device.run(partial(advance, self.weights(key)))
        device.check()
        return state[0]

    def at_home(self) -> bool:
        return self.homes == {key: [weight.data_ptr() for weight in pack] for key, pack in self.packs.items()}


def compute(weights: list[Tensor], x: Tensor) -> Tensor:
    into, into_bias, out, out_bias, shared, shared_bias = weights
    with torch.no_grad():  # which each thread has for itself
        return linear(linear(x, into, into_bias), out, out_bias).tanh() + linear(x, shared, shared_bias).sin()


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As torch's, without its threads, which small layers don't need."""
    return (x[:, None] * weight).sum(-1) + bias


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def opened(model: Model, device: StandIn, slots: int = 2, buffers: int = 2, *, source: Source = mapped) -> LayerStream:
    return LayerStream(model.packs, device, slots=slots, buffers=buffers, source=source)


def closed(stream: LayerStream, device: StandIn, model: Model) -> None:
    stream.close()
    device.check()
    assert model.at_home()
    assert not carriers()
    assert (device.held_bytes, device.pinned_bytes, device.syncs) == (0, 0, 0)


# What is computed


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("buffers", [2, 3, LAYERS, 2 * LAYERS])
@pytest.mark.parametrize("slots", [2, 3, 5, 2 * LAYERS])
def test_streamed_is_plain(model: Model, slots: int, buffers: int, deferred: bool) -> None:
    for seed, eagerness in enumerate((0.0, 0.5, 0.9)):
        device = StandIn(seed, eagerness=eagerness, deferred=deferred)
        stream = opened(model, device, slots, buffers)
        order = model.passes(3, 2)
        stream.follow(order)
        result = model.queued(stream, order, device) if deferred else model.streamed(stream, order)
        assert torch.equal(result, model.plain(order))
        assert (stream.stats.copies, stream.stats.copied_bytes) == (device.copies, device.bytes)
        closed(stream, device, model)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2 * LAYERS - 1), max_size=25),
    st.lists(st.integers(0, 2 * LAYERS - 1), max_size=25),
    st.integers(2, 8),
    st.integers(2, 8),
    st.integers(0, 99),
    st.booleans(),
)
def test_any_order_then_another(
    first: list[int], second: list[int], slots: int, buffers: int, seed: int, deferred: bool
) -> None:
    """The second comes while the first is under way."""
    model = Model()
    keys = list(model.packs)
    device = StandIn(seed, eagerness=seed / 100, deferred=deferred)
    stream = opened(model, device, slots, buffers)
    stream.follow(keys[index] for index in first)
    run = partial(model.queued, device=device) if deferred else model.streamed
    done = [keys[index] for index in first[: len(first) // 2]]
    assert torch.equal(run(stream, done), model.plain(done))
    order = [keys[index] for index in second]
    stream.follow(order)
    assert torch.equal(run(stream, order), model.plain(order))
    closed(stream, device, model)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_shared_tensor_is_right_in_every_pack(model: Model, swapped: bool) -> None:
    device = StandIn()
    stream = opened(model, device, 3, 3)
    order: list[Key] = [("b", 2), ("a", 2)] if swapped else [("a", 2), ("b", 2)]
    stream.follow(order)
    home = model.shared.weight.data_ptr()
    places = []
    for key in order:
        with stream.lend(key):
            places.append(model.shared.weight.data_ptr())
        assert model.shared.weight.data_ptr() == home
    assert len({home, *places}) == 3
    closed(stream, device, model)


def raw(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


DTYPES = (torch.uint8, torch.int8, torch.float8_e4m3fn, torch.bfloat16, torch.float32, torch.int64, torch.bool)


def test_tensors_of_any_kind_lie_as_at_home() -> None:
    """Quantised weights and their scales, a scalar, nothing, a transposed weight, the same tensor twice."""
    torch.manual_seed(0)
    tensors = [torch.randint(0, 2, (3, 5)).to(dtype) for dtype in DTYPES]
    tensors += [torch.tensor(0.5), torch.empty(0, 4), torch.randn(4, 6).t(), torch.randn(8)[::2], tensors[0]]
    copies = [tensor.clone() for tensor in tensors]
    device = StandIn()
    stream = LayerStream({"all": tensors, "none": []}, device, slots=2, buffers=2)
    stream.follow(["all", "none"])
    with stream.lend("all"):
        for tensor, copy in zip(tensors, copies, strict=True):
            assert (tensor.dtype, tensor.shape) == (copy.dtype, copy.shape)
            assert torch.equal(raw(tensor), raw(copy))
            assert tensor.storage_offset() * tensor.element_size() % ALIGNMENT == 0
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
        assert tensors[9].stride() == (1, 6)
    with stream.lend("none"):
        pass
    stream.close()
    device.check()


# What is copied


def test_with_two_slots_each_layer_is_copied_once_a_pass() -> None:
    model, device = Model(layers=40), StandIn(3)
    stream = opened(model, device)
    order = model.passes(2, 2)
    stream.follow(order)
    model.streamed(stream, order)
    stats = stream.stats
    assert (stats.copies, stats.reads) == (160, 160)
    assert stats.copied_bytes == 2 * sum(Pack(pack).nbytes for pack in model.packs.values())
    closed(stream, device, model)


@pytest.mark.parametrize("slots", [3, 5])
def test_with_more_slots_some_layers_stay(model: Model, slots: int) -> None:
    device = StandIn()
    stream = opened(model, device, slots)
    order = model.passes(6, 0)
    stream.follow(order)
    model.streamed(stream, order)
    assert LAYERS < stream.stats.copies <= LAYERS + 5 * (LAYERS - slots + 2)
    closed(stream, device, model)


def test_what_has_a_place_for_good_is_copied_once(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device, LAYERS)
    for expert in (model.passes(4, 0), model.passes(0, 4)):
        stream.follow(expert)
        model.streamed(stream, expert)
    assert (stream.stats.copies, stream.stats.reads) == (2 * LAYERS, 2 * LAYERS)
    closed(stream, device, model)


def test_buffers_of_an_expert_are_filled_once_for_each(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device, 2, LAYERS)
    order = model.passes(3, 3)
    stream.follow(order)
    model.streamed(stream, order)
    assert (stream.stats.copies, stream.stats.reads) == (6 * LAYERS, 2 * LAYERS)
    closed(stream, device, model)


def test_places_are_as_large_as_their_packs(model: Model) -> None:
    sizes = [Pack(pack).nbytes for key, pack in model.packs.items() if key[0] == "a"]  # type: ignore[index]
    assert len(set(sizes)) > 1
    device = StandIn()
    stream = opened(model, device, 2, LAYERS)
    order = model.passes(2, 2)
    stream.follow(order)
    model.streamed(stream, order)
    assert sorted(device.buffers) == sorted(sizes)
    assert device.slots == [max(sizes)] * 2
    stats = stream.stats
    assert (stats.device_bytes, stats.host_bytes, stats.pinned_bytes) == (2 * max(sizes), sum(sizes), sum(sizes))
    closed(stream, device, model)
    assert stream.stats.pinned_bytes == sum(sizes)  # the most at any time


def test_the_next_pass_begins_to_arrive_before_this_one_ends(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device)
    order = model.passes(2, 0)
    stream.follow(order)
    model.streamed(stream, order[: LAYERS - 1])
    with stream.lend(order[LAYERS - 1]):
        eventually(lambda: stream.stats.copies == LAYERS + 1)
    waits = stream.stats.waits
    with stream.lend(order[LAYERS]):
        assert stream.stats.waits == waits
    closed(stream, device, model)


def test_the_second_expert_is_read_while_the_first_ends(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device, 2, LAYERS)
    order = model.passes(2, 1)
    stream.follow(order)
    model.streamed(stream, order[: 2 * LAYERS - 2])
    with stream.lend(order[2 * LAYERS - 2]):
        eventually(lambda: stream.stats.reads >= 2 * LAYERS - 3)
    closed(stream, device, model)


def test_vacated_the_device_is_empty_and_the_host_is_not(model: Model) -> None:
    device = StandIn()
    order = model.passes(2, 0)
    stream = opened(model, device, 3, LAYERS)
    for _ in range(2):
        stream.follow(order)
        assert torch.equal(model.streamed(stream, order), model.plain(order))
        stream.vacate()
        assert device.held_bytes == 0
        assert device.pinned_bytes > 0
    assert stream.stats.reads == LAYERS, "nothing is read twice"
    stream.follow(order)
    with stream.lend(order[0]):
        pass
    stream.vacate()  # in the middle of it
    stream.follow(order)
    assert torch.equal(model.streamed(stream, order), model.plain(order))
    stream.vacate()
    closed(stream, device, model)


def test_a_new_order_makes_use_of_what_is_there(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device, LAYERS)
    order = model.passes(1, 0)
    stream.follow(order)
    model.streamed(stream, order)
    for again in (order[::-1], order[2:5], order):
        stream.follow(again)
        assert torch.equal(model.streamed(stream, again), model.plain(again))
    assert stream.stats.copies == LAYERS
    stream.follow(model.passes(0, 1))
    closed(stream, device, model)


def test_an_order_of_small_packs_is_followed_by_one_of_large(model: Model) -> None:
    device = StandIn(deferred=True)
    stream = opened(model, device, 3, 3)
    for order in ([("a", 6), ("b", 6)] * 2, model.passes(1, 1), [("a", 6), ("a", 2)]):
        stream.follow(order)
        assert torch.equal(model.queued(stream, order, device), model.plain(order))
    closed(stream, device, model)


def test_nothing_is_waited_for_that_had_time_to_come(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device, LAYERS, LAYERS)
    order = model.passes(1, 0)
    stream.follow(order)
    eventually(lambda: stream.stats.copies == LAYERS)
    model.streamed(stream, order)
    assert (stream.stats.waits, stream.stats.waited_seconds) == (0, 0)
    closed(stream, device, model)


# What makes no sense


@pytest.mark.parametrize(("slots", "buffers"), [(1, 2), (2, 1), (0, 0)])
def test_one_place_is_too_few(model: Model, slots: int, buffers: int) -> None:
    with pytest.raises(ValueError, match=f"{slots} slots, {buffers} buffers"):
        opened(model, StandIn(), slots, buffers)


def test_only_what_is_next_is_lent_and_once_at_a_time(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device)
    order: list[Key] = [("a", 1), ("a", 1), ("a", 2)]
    with pytest.raises(StreamError, match="isn't the turn"), stream.lend(("a", 1)):
        pass
    with pytest.raises(StreamError, match="no pack 'c'"):
        stream.follow([*order, "c"])
    stream.follow(order)
    with pytest.raises(StreamError, match=r"turn of \('a', 2\)"), stream.lend(("a", 2)):
        pass
    for _ in range(2):
        with stream.lend(("a", 1)), pytest.raises(StreamError, match="another pack is lent"), stream.lend(("a", 1)):
            pass
    with stream.lend(("a", 2)):
        pass
    with pytest.raises(StreamError, match="isn't the turn"), stream.lend(("a", 1)):
        pass
    closed(stream, device, model)


# Ends


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("reopened", [True, False])
@pytest.mark.parametrize("at", [0, 1, 4, LAYERS, 2 * LAYERS - 1])
def test_a_cancel_anywhere_leaves_nothing_behind(model: Model, at: int, reopened: bool, inside: bool) -> None:
    for seed in range(3):
        device = StandIn(seed, eagerness=seed / 2.1)
        stream = opened(model, device, 3, 3)
        order = model.passes(2, 2)
        stream.follow(order)
        model.streamed(stream, order[:at])
        if inside:
            with pytest.raises(Cancelled), stream.lend(order[at]):
                raise Cancelled
        assert model.at_home()
        if reopened:
            closed(stream, device, model)
        again = model.passes(1, 1)
        stream.follow(again)
        assert torch.equal(model.streamed(stream, again), model.plain(again))
        closed(stream, device, model)
        stream.close()


def test_closing_inside_the_block_brings_the_tensors_home(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device)
    stream.follow(model.passes(1, 0))
    with stream.lend(("a", 0)):
        assert not model.at_home()
        closed(stream, device, model)
    assert model.at_home()


def test_another_order_inside_the_block(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device)
    stream.follow(model.passes(1, 0))
    order = model.passes(0, 1)
    with stream.lend(("a", 0)):
        stream.follow(order)
        here = compute(model.weights(("a", 0)), model.start)
    assert torch.equal(here, model.plain([("a", 0)]))
    assert torch.equal(model.streamed(stream, order), model.plain(order))
    closed(stream, device, model)


def test_a_close_from_elsewhere_ends_the_wait(model: Model) -> None:
    device, gate = StandIn(), threading.Event()

    def source(home: Tensor, place: Tensor) -> None:
        assert gate.wait(20)
        mapped(home, place)

    stream = opened(model, device, source=source)
    stream.follow(model.passes(1, 0))
    eventually(lambda: device.buffers)

    def close() -> None:
        threading.Timer(0.01, gate.set).start()
        stream.close()

    closing = threading.Timer(0.01, close)
    closing.start()
    with pytest.raises(StreamError), stream.lend(("a", 0)):
        pass
    closing.join()
    closed(stream, device, model)


def test_a_forgotten_stream_gives_everything_back(model: Model) -> None:
    device = StandIn()
    stream = opened(model, device)
    stream.follow(model.passes(2, 0))
    model.streamed(stream, model.passes(1, 0))
    assert len(carriers()) == 2
    del stream
    gc.collect()
    eventually(lambda: not carriers())
    device.check()
    assert (device.held_bytes, device.pinned_bytes) == (0, 0)


@pytest.mark.parametrize("source", ["mapped", "lambda home, place: time.sleep(0.001) or mapped(home, place)"])
def test_a_process_ends_while_it_streams(source: str) -> None:
    code = f"""
import time
from tests.mova.test_streaming import *
model, device = Model(), StandIn()
stream = opened(model, device, 3, 3, source={source})
stream.follow(model.passes(50, 50))
model.streamed(stream, model.passes(1, 0))
lent = stream.lend(("a", 0))
lent.__enter__()
print("out")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "")


# What goes wrong on the way


class Broken:
    """Raises at the ``at``-th call, once."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.left, self.error = at, error

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("source", OSError(5, "Input/output error")),
        ("slot", torch.OutOfMemoryError("CUDA out of memory")),
        ("buffer", RuntimeError("pinning was refused")),
        ("copy", RuntimeError("CUDA error")),
        ("copy", SystemExit()),
    ],
)
def test_what_goes_wrong_is_heard_once_and_the_stream_goes_on(
    model: Model, where: str, error: BaseException, at: int
) -> None:
    broken = Broken(at, error)
    device = StandIn(trouble=lambda what: broken() if what == where else None)

    def source(home: Tensor, place: Tensor) -> None:
        if where == "source":
            broken()
        mapped(home, place)

    stream = opened(model, device, 5, 5, source=source)
    order = model.passes(3, 0)
    stream.follow(order)
    with pytest.raises(type(error)) as caught:
        model.streamed(stream, order)
    assert caught.value is error
    assert model.at_home()
    with pytest.raises(StreamError, match="isn't the turn"), stream.lend(order[0]):
        pass
    stream.follow(order)
    assert torch.equal(model.streamed(stream, order), model.plain(order))
    closed(stream, device, model)


def test_what_goes_wrong_with_an_order_is_over_with_the_next(model: Model) -> None:
    device = StandIn(trouble=Broken(1, OSError("gone")))
    stream = opened(model, device)
    stream.follow(model.passes(1, 0))
    eventually(lambda: stream._carriers._failure)
    order = model.passes(0, 1)
    stream.follow(order)
    assert torch.equal(model.streamed(stream, order), model.plain(order))
    closed(stream, device, model)


def test_a_device_too_small_for_the_slots_says_so(model: Model) -> None:
    largest = max(Pack(pack).nbytes for pack in model.packs.values())
    device = StandIn(memory=3 * largest)
    order = model.passes(2, 0)
    stream = opened(model, device, 5)
    stream.follow(order)
    with pytest.raises(torch.OutOfMemoryError):
        model.streamed(stream, order)
    closed(stream, device, model)
    smaller = opened(model, device, 3)
    smaller.follow(order)
    assert torch.equal(model.streamed(smaller, order), model.plain(order))
    closed(smaller, device, model)


# The stand-in sees what a wrong stream does


class Hasty(StandIn):
    """Copies without waiting for the computing."""

    def copy(self, slot: Tensor, buffer: Tensor, after: Moment | None) -> Moment:
        return super().copy(slot, buffer, None)


class Careless(StandIn):
    """Computes without waiting for the copy."""

    def wait(self, event: Moment) -> None:
        pass


class Impatient(StandIn):
    """Refills buffers without waiting for their copies."""

    def finished(self, event: Moment) -> None:
        pass


def test_a_slot_overwritten_in_use_is_seen(model: Model) -> None:
    stream = opened(model, Hasty())
    stream.follow(model.passes(2, 0))
    with pytest.raises(Violation, match="overwritten while it is computed with"):
        model.streamed(stream, model.passes(2, 0))
    stream.close()


@pytest.mark.parametrize("deferred", [False, True])
def test_computing_before_the_copy_is_seen(model: Model, deferred: bool) -> None:
    device = Careless(eagerness=0, deferred=deferred)
    stream = opened(model, device, LAYERS, LAYERS)
    order = model.passes(1, 0)
    stream.follow(order)
    if deferred:
        state: list[Tensor] = []
        with stream.lend(order[0]):
            weights = model.weights(order[0])
            device.run(lambda: state.append(compute(weights, model.start)))
        device._force(device._computing[-1])
        assert state[0].isnan().all()
    else:
        assert model.streamed(stream, order).isnan().all()
    stream.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # a carrier finds it while leaving
def test_a_buffer_refilled_too_early_is_seen(model: Model) -> None:
    device = Impatient(eagerness=0, deferred=True)
    stream = opened(model, device)
    order = model.passes(1, 0)
    stream.follow(order)
    with pytest.raises(Violation, match="refilled before its copy was over"):
        model.queued(stream, order, device)
    with pytest.raises(Violation):
        stream.close()
        device.check()


def test_other_misuse_is_seen() -> None:
    device = StandIn(eagerness=0)
    slot, buffer = device.slot(8), device.buffer(8)
    assert slot.view(torch.float32).isnan().all()
    with pytest.raises(Violation, match="8 bytes were copied into 4"):
        device.copy(slot[:4], buffer, None)
    with pytest.raises(Violation, match="wasn't handed out"):
        device.copy(slot, torch.zeros(8, dtype=torch.uint8), None)
    copy = device.copy(slot, buffer, None)
    with pytest.raises(Violation, match="released while"):
        device.release(buffer)
    device.finished(copy)
    assert device.syncs == 1
    device.release(buffer)
    with pytest.raises(Violation, match="released while"):
        device.check()


def test_a_mark_from_before_the_loan_is_not_enough() -> None:
    device = StandIn()
    slot, buffer = device.slot(8), device.buffer(8)
    early = device.mark()
    device.wait(device.copy(slot, buffer, None))
    with pytest.raises(Violation, match="overwritten"):
        device.copy(slot, buffer, early)
    device.copy(slot, buffer, device.mark())


def test_nothing_is_done_before_there_is_an_order(model: Model) -> None:
    stream = opened(model, StandIn())
    assert stream.stats == StreamStats()
    assert not carriers()
