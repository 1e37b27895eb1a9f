"""Where the weights of a component live, and when: at home, lent while it computes, or kept on the device.

Joint layers are not among them: they are streamed, see ``mova.streaming``.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


class Stay(StrEnum):
    """How a component is used: HOME computes on the CPU, PARTS lends layer by layer, LENT whole, KEPT for good."""

    HOME = "home"
    PARTS = "parts"
    LENT = "lent"
    KEPT = "kept"


class Placement:
    """Lends components on the device. However they stay, they compute the same numbers.

    Weights that wait stay where they were loaded, usually pages of the checkpoint's files: lending copies them to the
    device, and giving back drops the copy. On the CPU there is nothing to copy.

    Args:
        load: makes a component, on the CPU, in its final dtype, ready for inference.
        device: where to compute.
    """

    def __init__(self, load: Callable[[str], nn.Module], device: torch.device) -> None:
        self._load = load
        self._modules: dict[str, nn.Module] = {}
        self._kept: dict[str, Loan] = {}
        self._lent: dict[str, ExitStack] = {}
        self._borrowers: Counter[str] = Counter()
        self.device = device

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    @property
    def kept(self) -> tuple[str, ...]:
        """What is kept on the device."""
        return tuple(self._kept)

    def get(self, name: str) -> Any:
        """Component ``name``, loaded if it isn't yet; not necessarily on the device."""
        if name not in self._modules:
            self._modules[name] = self._load(name)
        return self._modules[name]

    @contextmanager
    def use(self, name: str, stay: Stay = Stay.LENT) -> Iterator[Any]:
        """Component ``name``, ready to compute until the block ends; of nested uses the outermost says how it stays."""
        module = self.get(name)
        self._borrowers[name] += 1
        try:
            if self._borrowers[name] == 1:
                self._lend(name, module, stay)
            yield module
        finally:
            self._borrowers[name] -= 1
            if not self._borrowers[name] and name in self._lent:
                self._lent.pop(name).close()

    def give_back(self, *names: str) -> None:
        """Drop the copies of components that were kept on the device; those in use stay until they aren't."""
        for name in names:
            if name in self._kept and not self._borrowers[name]:
                self._kept.pop(name).give_back()

    def free(self, name: str) -> None:
        """Forget component ``name`` and give its memory back; ``get`` and ``use`` load it again."""
        self._modules.pop(name, None)
        self._kept.pop(name, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _lend(self, name: str, module: nn.Module, stay: Stay) -> None:
        if name in self._kept:
            if stay is Stay.KEPT:
                return
            self._kept.pop(name).give_back()
        if stay is Stay.KEPT:
            loan = Loan(tensors_of(module), self.device)
            loan.lend()
            self._kept[name] = loan
            return
        with ExitStack() as stack:
            if stay is Stay.PARTS:
                stack.enter_context(lent_by_part(module, self.device))
            elif stay is Stay.LENT:
                stack.enter_context(lent(tensors_of(module), self.device))
            self._lent[name] = stack.pop_all()


class Loan:
    """Tensors that go to the device and come back to exactly where they were, without being copied back."""

    def __init__(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        self.device = device
        self.waiting = [(tensor, tensor.data) for tensor in tensors]

    def lend(self) -> None:
        """Copy them to the device; on the CPU they stay what they are. What fails half-way is given back."""
        try:
            for tensor, home in self.waiting:
                tensor.data = home.to(self.device, non_blocking=True)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Drop the copies."""
        for tensor, home in self.waiting:
            tensor.data = home


def tensors_of(module: nn.Module, *, recurse: bool = True) -> tuple[Tensor, ...]:
    """Parameters and buffers."""
    return (*module.parameters(recurse), *module.buffers(recurse))


@contextmanager
def lent(tensors: Iterable[Tensor], device: torch.device) -> Iterator[None]:
    """``tensors`` on ``device`` until the block ends."""
    loan = Loan(tensors, device)
    loan.lend()
    try:
        yield
    finally:
        loan.give_back()


@contextmanager
def lent_by_part(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Until the block ends, each part of ``module`` has its own weights on ``device`` only while it computes."""
    with ExitStack() as stack:
        for part in module.modules():
            if tensors := tensors_of(part, recurse=False):
                for handle in _lend_while_computing(part, Loan(tensors, device)):
                    stack.callback(handle.remove)
        yield


def _lend_while_computing(part: nn.Module, loan: Loan) -> tuple[Any, Any]:
    def before(
        _part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        loan.lend()
        # A table built beside weights that waited (T5's relative positions) follows them.
        return tuple(map(follow, args)), {name: follow(value) for name, value in kwargs.items()}

    def follow(value: Any) -> Any:
        return value.to(loan.device) if isinstance(value, Tensor) else value

    after = part.register_forward_hook(lambda *_: loan.give_back(), always_call=True)
    return part.register_forward_pre_hook(before, with_kwargs=True), after


def choose_device(name: str) -> torch.device:
    """The torch device for "auto" (a CUDA device if there is one, else the CPU), "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: the device isn't there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"'{name}' is no device; choose auto, cpu, cuda or cuda:<number>.") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"The engine runs on cpu or cuda, not on '{name}'; choose auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"'{name}' is not there: torch sees {torch.cuda.device_count()} CUDA devices. Choose cpu.")
    return device
