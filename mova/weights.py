"""A checkpoint's components as a plan wants them: as stored, or their matrices in 8 bits, made when first wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mova.checkpoint import load_component
from mova.eightbit import COMPONENTS, default_store, weights_file
from mova.layout import read_weights
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

    def load(self, name: str) -> nn.Module:
        """Component ``name``, on the CPU, ready for inference."""
        if self.in_8_bits(name):
            return load_quantised(self.checkpoint, name, self._kind, self.dtype, products=self._products)
        return load_component(self.checkpoint, name, self.dtype)

    def files(self, name: str) -> list[Path]:
        """Where the weights of component ``name`` are read from."""
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
        """
        kind, products = plan.weights, STORED
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
