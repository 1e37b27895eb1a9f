"""What a computation costs, counted while it runs: arithmetic, memory traffic, live bytes.

On meta tensors a step of the full model is counted in seconds, and exactly.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, mm_flop, sdpa_flop_count

aten = torch.ops.aten

FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, aten._int_mm: mm_flop}
ATTENTION = F.scaled_dot_product_attention
# One kernel each on a CUDA device, though a CPU and the meta device run them in pieces.
KERNELS = {
    ATTENTION: "scaled_dot_product_attention",
    F.rms_norm: "rms_norm",
    torch.rms_norm: "rms_norm",
    F.interpolate: "interpolate",
}
FUSED = "mova.fused"
NOTHING_WRITTEN = {
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten.resize_,
    aten.set_,
}
ONLY_WRITTEN = {aten.copy_, aten.fill_, aten.zero_, aten.normal_, aten.uniform_, aten.random_}  # not read before
LOOKED_UP = {aten.embedding, aten.index, aten.index_select, aten.gather}  # of their first argument, what is asked for


class Meter:
    """Counts what PyTorch does inside the block (``with Meter() as meter:``), on this thread.

    ``flops``: 2 a multiply-add, by operation, of matrix products, convolutions and attention.
    ``traffic``: bytes read and written, by operation, of everything else but views.
    ``live``, ``peak``: bytes of storages that were made inside the block and still live; the most there were.

    Args:
        fused: a function of ``mova.fused`` counts as one kernel: its arguments are read, its result written, and
            nothing lives in between. False counts the operations of its formula, as they run uncompiled.
    """

    def __init__(self, *, fused: bool = True) -> None:
        self.fused = fused
        self.flops: Counter[str] = Counter()
        self.traffic: Counter[str] = Counter()
        self.live = 0
        self.peak = 0
        self._within = 0  # depth of kernels whose insides don't count
        self._sizes: dict[int, int] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}
        self._modes = ExitStack()

    def __enter__(self) -> Meter:
        self._modes.enter_context(_Operations(self))
        self._modes.enter_context(_Functions(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._modes.close()

    def forget_peak(self) -> None:
        """Let ``peak`` begin again at what lives now."""
        self.peak = self.live

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation of PyTorch's dispatcher and count it."""
        if func is torch.ops.prim.device.default:  # what a fake tensor is asked, no operation
            return func(*args, **kwargs)
        packet = func._overloadpacket
        if packet not in FORMULAS and func._can_decompose():  # in inference mode a `linear` arrives whole
            with _Operations(self):
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if self._within:
            return result
        if packet in FORMULAS:
            self.flops[packet.__name__] += FORMULAS[packet](*args, **kwargs, out_val=result)
        elif moved := _moved(func, args, kwargs, result):
            self.traffic[packet.__name__] += moved
        self._note(result, (args, kwargs))
        return result

    def kernel(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run ``func`` and count it as one kernel: only its arguments and its result are memory."""
        attention = func is ATTENTION
        self._within += 1
        try:
            result = _attend_nothing(*args, **kwargs) if attention and _on_meta(args, kwargs) else func(*args, **kwargs)
        finally:
            self._within -= 1
        if self._within:
            return result
        if attention:
            self.flops[name] += _attention_flops(*args, **kwargs)
        else:
            read = {word: value for word, value in kwargs.items() if word != "out"}
            self.traffic[name] += sum(map(_extent, [*_tensors((args, read)), *_tensors(result)]))
        self._note(result, (args, kwargs))
        return result

    def counts_as_one(self, func: Callable[..., Any]) -> str | None:
        """The name of the kernel that ``func`` is, None if it is none."""
        if func in KERNELS:
            return KERNELS[func]
        if self.fused and getattr(func, "__module__", None) == FUSED:
            return func.__name__
        return None

    def _note(self, result: Any, given: Any) -> None:
        """Count the storages of ``result`` that are new."""
        known = {tensor.untyped_storage()._cdata for tensor in _tensors(given)}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in known:
                self._resize(key, storage.nbytes())
            elif key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self._watches[key] = weakref.ref(storage, self._watch(key))
                self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _resize(self, key: int, size: int) -> None:
        if key in self._sizes:
            self.live += size - self._sizes[key]
            self._sizes[key] = size

    def _watch(self, key: int) -> Callable[[Any], None]:
        return lambda _gone: self._forget(key)

    def _forget(self, key: int) -> None:
        self._watches.pop(key, None)
        self.live -= self._sizes.pop(key, 0)


class _Operations(TorchDispatchMode):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # what the meter itself asks of tensors is no work
            return self.meter.operation(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = self.meter.counts_as_one(func)
        if name is None:
            return func(*args, **(kwargs or {}))
        return self.meter.kernel(name, func, args, kwargs or {})


def _moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Bytes that an operation reads and writes; none if it only makes a view or claims memory."""
    packet, given = func._overloadpacket, _tensors((args, kwargs))
    if packet in NOTHING_WRITTEN:
        return 0
    if places := _written(func):
        written = [args[place] if place < len(args) else kwargs.get(name) for place, name, _ in places]
        unread = [
            tensor
            for value, (_, _, out) in zip(written, places, strict=True)
            for tensor in (_tensors(value) if out or packet in ONLY_WRITTEN else ())
        ]
        return sum(map(_extent, given)) + sum(map(_extent, _tensors(written))) - sum(map(_extent, unread))
    held = {tensor.untyped_storage()._cdata for tensor in given}
    made = sum(_extent(tensor) for tensor in _tensors(result) if tensor.untyped_storage()._cdata not in held)
    if not made:
        return 0
    if packet in LOOKED_UP:
        return 2 * made + sum(map(_extent, _tensors((args[1:], kwargs))))
    return made + sum(map(_extent, given))


@cache
def _written(func: Any) -> tuple[tuple[int, str, bool], ...]:
    """(place, name, whether it is an ``out``) of each argument that an operation writes to."""
    return tuple(
        (place, argument.name, argument.is_out)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors among arguments, which are nested in nothing but sequences and dictionaries."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        return []
    return [tensor for branch in tree for tensor in _tensors(branch)]


def _extent(tensor: Tensor) -> int:
    """Bytes of the distinct elements: an expanded dimension is read once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0)
    return math.prod(sizes) * tensor.element_size()


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attend_nothing(query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    """The result of attention on the meta device, laid out as the kernels of a CUDA device do: like the query."""
    return (
        torch.empty_like(query)
        if value.shape[-1] == query.shape[-1]
        else query.new_empty((*query.shape[:-1], value.shape[-1]))
    )


def _on_meta(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(tensor.is_meta for tensor in _tensors((args, kwargs)))
