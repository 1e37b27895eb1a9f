"""A checkpoint's components as a plan wants them, as stored or their matrices in 8 bits, and with their LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import nn

from mova.checkpoint import load_component
from mova.eightbit import COMPONENTS, default_store, weights_file
from mova.layout import read_weights
from mova.lora import Applied, refuse_merging
from mova.lora_files import LoraError
from mova.plan import Plan
from mova.presets import preset_named
from mova.quantise import ensure_quantised
from mova.quantised import choose_products, load_quantised

STORED = "stored"


class Weights:
    """Loads the components of one checkpoint.

    Args:
        checkpoint: the folder.
        dtype: what weights are turned into; None as stored.
        device: where they will compute.
    """

    def __init__(self, checkpoint: Path, dtype: torch.dtype | None, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self._device = device
        self._kind = self._products = STORED
        self._applied = Applied()
        # Weak: a component that is forgotten takes what undoes its LoRAs with it.
        self._undo: WeakKeyDictionary[nn.Module, ExitStack] = WeakKeyDictionary()

    def load(self, name: str) -> nn.Module:
        """Component ``name``, on the CPU, ready for inference, with its LoRAs."""
        if self.in_8_bits(name):
            module = load_quantised(self.checkpoint, name, self._kind, self.dtype, products=self._products)
        else:
            module = load_component(self.checkpoint, name, self.dtype)
        self._undo[module] = self._applied.to(name, module)
        return module

    def files(self, name: str) -> list[Path]:
        """Where the weights of component ``name`` are read from; nowhere if LoRAs are merged into them."""
        if self._applied.merged_into(name):
            return []
        files = list(read_weights(self.checkpoint / name))
        if self.in_8_bits(name):
            files.append(weights_file(default_store(self.checkpoint), self._kind, name))
        return files

    def adopt(self, plan: Plan, progress: Callable[[int, int], None]) -> tuple[str, ...]:
        """Load as ``plan`` says from now on; the components that were loaded otherwise before.

        Args:
            plan: 8-bit weights that it wants are made if there are none.
            progress: hears of their making: megabytes done, megabytes.

        Raises:
            QuantiseError: they can't be made; says what to do.
            LoraError: LoRAs are merged into weights that the plan wants in 8 bits.
        """
        kind, products = plan.weights, STORED
        if kind != STORED and any(map(self._applied.merged_into, COMPONENTS)):
            raise LoraError(
                f"LoRAs are merged into the weights, and the preset '{plan.preset}' has its weights in 8 bits, whose "
                "rounding would swallow them. Apply them without merging, or choose a preset with whole weights."
            )
        if kind != STORED:
            wanted = preset_named(plan.preset).matmul
            products = choose_products(kind, wanted, self._device, self.dtype or torch.bfloat16)
            ensure_quantised(
                self.checkpoint, kind, progress=lambda done, total: progress(done >> 20, (total >> 20) + 1)
            )
        if (kind, products) == (self._kind, self._products):
            return ()
        self._kind, self._products = kind, products
        return tuple(COMPONENTS)

    def in_8_bits(self, name: str) -> bool:
        """Whether component ``name`` is loaded so."""
        return self._kind != STORED and name in COMPONENTS

    @property
    def adapted(self) -> bool:
        """Whether LoRAs are beside the weights, in tensors that a checkpoint has no place for."""
        return bool(self._applied.changes) and not self._applied.merge

    def adapt(self, applied: Applied, loaded: Mapping[str, nn.Module]) -> None:
        """Let components have these LoRAs from now on instead of those before; if that fails, they have none.

        Args:
            applied: the changes of each component.
            loaded: the components that are there already.

        Raises:
            LoraError: they can't be merged into weights in 8 bits; nothing has changed then.
        """
        for name, module in loaded.items():
            if applied.merged_into(name):
                refuse_merging(module, applied.changes[name])
        self._put(Applied(), loaded)
        try:
            self._put(applied, loaded)
        except BaseException:
            self._put(Applied(), loaded)
            raise

    def _put(self, applied: Applied, loaded: Mapping[str, nn.Module]) -> None:
        self._applied = applied
        for name, module in loaded.items():
            self._undo.pop(module, ExitStack()).close()
            self._undo[module] = applied.to(name, module)
