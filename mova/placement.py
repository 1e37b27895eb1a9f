"""Where the weights live, and when: resident, moved component by component, or layer by layer."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

CPU = torch.device("cpu")


class Offload(StrEnum):
    """NONE: everything on the device. COMPONENT: only what a phase needs. LAYER: only the layer that computes."""

    NONE = "none"
    COMPONENT = "component"
    LAYER = "layer"


class Placement:
    """Lends components on the device. Every mode computes the same numbers; they differ in memory and time.

    Args:
        load: makes a component, on the CPU, in its final dtype, ready for inference.
        device: where to compute. On the CPU there is nothing to move, and every mode keeps the weights in RAM.
        offload: where weights wait meanwhile.
    """

    def __init__(self, load: Callable[[str], nn.Module], device: torch.device, offload: Offload) -> None:
        self._load = load
        self._modules: dict[str, nn.Module] = {}
        self.device = device
        self.offload = offload

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def get(self, name: str) -> Any:
        """Component ``name``, loaded if it isn't yet; not necessarily on the device."""
        if name not in self._modules:
            module = self._load(name)
            if self.offload is Offload.LAYER:
                apply_group_offloading(module, self.device, CPU, offload_type="leaf_level")
            elif self.offload is Offload.NONE:
                module.to(self.device)
            self._modules[name] = module
        return self._modules[name]

    @contextmanager
    def use(self, *names: str) -> Iterator[list[Any]]:
        """The components ``names``, ready to compute on the device until the block ends."""
        modules = [self.get(name) for name in names]
        if self.offload is not Offload.COMPONENT:
            yield modules
            return
        try:
            for module in modules:
                module.to(self.device)
            yield modules
        finally:
            for module in modules:
                module.to(CPU)

    def free(self, name: str) -> None:
        """Forget component ``name`` and give its memory back; ``get`` and ``use`` load it again."""
        self._modules.pop(name, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


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
