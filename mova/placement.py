"""Where the weights live, and when: resident, lent component by component, or layer by layer."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


class Offload(StrEnum):
    """NONE: everything on the device. COMPONENT: only what a phase needs. LAYER: only the layer that computes."""

    NONE = "none"
    COMPONENT = "component"
    LAYER = "layer"


class Placement:
    """Lends components on the device. Every mode computes the same numbers; they differ in memory and time.

    Weights that wait stay where they were loaded, usually pages of the checkpoint's files: lending copies them to the
    device, and giving back drops the copy. On the CPU there is nothing to copy.

    Args:
        load: makes a component, on the CPU, in its final dtype, ready for inference.
        device: where to compute.
        offload: where weights wait meanwhile.
    """

    def __init__(self, load: Callable[[str], nn.Module], device: torch.device, offload: Offload) -> None:
        self._load = load
        self._modules: dict[str, nn.Module] = {}
        self._loans: dict[str, Loan] = {}
        self._borrowers: Counter[str] = Counter()
        self.device = device
        self.offload = offload

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def get(self, name: str) -> Any:
        """Component ``name``, loaded if it isn't yet; not necessarily on the device."""
        if name not in self._modules:
            module = self._load(name)
            if self.offload is Offload.LAYER:
                lend_by_layer(module, self.device)
            elif self.offload is Offload.COMPONENT:
                self._loans[name] = Loan((*module.parameters(), *module.buffers()), self.device)
            else:
                module.to(self.device)
            self._modules[name] = module
        return self._modules[name]

    @contextmanager
    def use(self, *names: str) -> Iterator[list[Any]]:
        """The components ``names``, ready to compute on the device until the block ends (the outermost, if nested)."""
        modules = [self.get(name) for name in names]
        try:
            for name in names:
                self._borrowers[name] += 1
                if name in self._loans and self._borrowers[name] == 1:
                    self._loans[name].lend()
            yield modules
        finally:
            for name in names:
                self._borrowers[name] -= 1
                if name in self._loans and not self._borrowers[name]:
                    self._loans[name].give_back()

    def free(self, name: str) -> None:
        """Forget component ``name`` and give its memory back; ``get`` and ``use`` load it again."""
        self._modules.pop(name, None)
        self._loans.pop(name, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Loan:
    """Tensors that go to the device and come back to exactly where they were, without being copied back."""

    def __init__(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        self.device = device
        self.waiting = [(tensor, tensor.data) for tensor in tensors]

    def lend(self) -> None:
        """Copy them to the device; on the CPU they stay what they are."""
        for tensor, home in self.waiting:
            tensor.data = home.to(self.device, non_blocking=True)

    def give_back(self) -> None:
        """Drop the copies."""
        for tensor, home in self.waiting:
            tensor.data = home


def lend_by_layer(module: nn.Module, device: torch.device) -> list[Loan]:
    """From now on each part of ``module`` has its own weights on ``device`` only while it computes; the loans."""
    loans = []
    for part in module.modules():
        if tensors := (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            loans.append(Loan(tensors, device))
            _lend_while_computing(part, loans[-1])
    return loans


def _lend_while_computing(part: nn.Module, loan: Loan) -> None:
    def before(
        _part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        loan.lend()
        # A table built beside weights that waited (T5's relative positions) follows them.
        return tuple(map(follow, args)), {name: follow(value) for name, value in kwargs.items()}

    def follow(value: Any) -> Any:
        return value.to(loan.device) if isinstance(value, Tensor) else value

    part.register_forward_pre_hook(before, with_kwargs=True)
    part.register_forward_hook(lambda *_: loan.give_back(), always_call=True)


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
