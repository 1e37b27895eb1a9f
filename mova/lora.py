"""LoRAs in the engine: applied beside the weights, or merged into them, and taken off again bit for bit.

peft trains them (``mova.lora_peft``) and doesn't run them: it renames the weights, which the stream finds in their
files by name; gives 8-bit layers adapters in 8 bits; adds out of place, a second result of each layer; and takes a
merge off by subtracting, which doesn't restore the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mova.lora_choice import LoraChoice, Strengths
from mova.lora_files import ADAPTED, Base, LoraError
from mova.lora_tensors import Lora, Pair, load_lora
from mova.quantised import QuantisedLinear

DOWN, UP = "lora_A", "lora_B"  # what a layer's change is called among its parameters
Part = tuple[Lora, Strengths]


class Change(NamedTuple):
    """``W + up @ down``: down [R, in], up [out, R] with strengths in it, of all LoRAs that change the layer."""

    down: Tensor
    up: Tensor


Changes = Mapping[str, Mapping[str, Change]]  # component -> module path -> change


def read_parts(choices: Iterable[LoraChoice], base: Base) -> list[Part]:
    """The LoRAs in these files, each with its strengths. LoraError if one can't be used, or is for another model."""
    parts = []
    for choice in choices:
        lora = load_lora(choice.file)
        if lora.header and (misfit := lora.header.misfit(lora.file, base)):
            raise LoraError(misfit)
        parts.append((lora, choice.strengths))
    return parts


def notes_of(parts: Iterable[Part], base: Base) -> tuple[str, ...]:
    """What the creator should know of LoRAs that can be used with ``base``."""
    notes = (lora.header.note(lora.file, base) for lora, _ in parts if lora.header)
    return tuple(note for note in notes if note)


def combined(parts: Sequence[Part], components: Callable[[str], nn.Module]) -> Changes:
    """All LoRAs as one change a layer; those of strength 0 leave no trace.

    Args:
        parts: each LoRA with its strengths.
        components: gives the component of a name, whose layers the LoRAs are checked against.

    Raises:
        LoraError: a layer that isn't there, or of another shape; names file and key.
    """
    found: dict[str, dict[str, list[tuple[Pair, float]]]] = {}
    for lora, strengths in parts:
        for component, pairs in lora.pairs.items():
            layers = dict(components(component).named_modules())
            for path, pair in pairs.items():
                _check(lora, component, layers.get(path), path, pair)
                if strength := strengths.of(component) * pair.scale:
                    found.setdefault(component, {}).setdefault(path, []).append((pair, strength))
    return {name: {path: _change(pairs) for path, pairs in found[name].items()} for name in ADAPTED if name in found}


def apply(module: nn.Module, changes: Mapping[str, Change], dtype: torch.dtype) -> ExitStack:
    """Let the layers at these paths compute ``W x + up @ down @ x``; closing what is returned takes it off again.

    The matrices become parameters of the layers, in ``dtype``: they travel with the layer where that is streamed.
    """
    with ExitStack() as undo:
        for path, change in changes.items():
            layer = module.get_submodule(path)
            for name, matrix in ((DOWN, change.down), (UP, change.up)):
                layer.register_parameter(name, nn.Parameter(matrix.to(dtype).contiguous(), requires_grad=False))
                undo.callback(delattr, layer, name)
            undo.callback(layer.register_forward_hook(_add).remove)
        return undo.pop_all()


def merge(module: nn.Module, changes: Mapping[str, Change]) -> ExitStack:
    """Put ``W + up @ down`` in the place of each weight; closing what is returned brings the old tensors back.

    Raises:
        LoraError: a layer has its weight in 8 bits.
    """
    refuse_merging(module, changes)
    with ExitStack() as undo:
        for path, change in changes.items():
            weight: Any = module.get_submodule(path).weight
            undo.callback(setattr, weight, "data", weight.data)
            weight.data = merged(weight.data, change)
        return undo.pop_all()


@torch.no_grad()
def merged(weight: Tensor, change: Change) -> Tensor:
    """``weight`` [out, in] with the change in it, in its dtype, rounded once."""
    precise = torch.promote_types(weight.dtype, torch.float32)
    return torch.addmm(weight.to(precise), change.up.to(precise), change.down.to(precise)).to(weight.dtype)


def refuse_merging(module: nn.Module, paths: Iterable[str]) -> None:
    """LoraError if a layer at one of these paths has its weight in 8 bits, whose rounding would swallow the change."""
    for path in paths:
        if isinstance(module.get_submodule(path), QuantisedLinear):
            raise LoraError(
                f"'{path}' has its weight in 8 bits, whose rounding would swallow a LoRA. "
                "Apply the LoRA without merging, or choose a preset with whole weights."
            )


@dataclass(frozen=True, eq=False)
class Applied:
    """Which changes a pipeline has, and how: ``merge`` puts them into the weights."""

    changes: Changes = field(default_factory=dict)
    merge: bool = False

    def merged_into(self, name: str) -> bool:
        """Whether component ``name`` has other weights than its files."""
        return self.merge and name in self.changes

    def to(self, name: str, module: nn.Module) -> ExitStack:
        """Component ``name`` gets its changes; closing what is returned takes them off."""
        changes = self.changes.get(name)
        if not changes:
            return ExitStack()
        computing: Any = module  # towers and bridge know what they compute in
        return merge(module, changes) if self.merge else apply(module, changes, computing.dtype)


def _check(lora: Lora, component: str, layer: nn.Module | None, path: str, pair: Pair) -> None:
    if not isinstance(layer, nn.Linear | QuantisedLinear):
        what = "no such layer" if layer is None else f"a {type(layer).__name__}, no Linear, there"
        raise LoraError(
            f"{lora.file}: '{pair.key}' changes '{path}', but this checkpoint's {component} has {what}. "
            "Choose a LoRA that is made for this model."
        )
    found, wanted = (pair.up.shape[0], pair.down.shape[1]), (layer.out_features, layer.in_features)
    if found != wanted:
        raise LoraError(
            f"{lora.file}: '{pair.key}' is for a layer of shape {list(found)}, "
            f"'{path}' of this checkpoint's {component} has {list(wanted)}. Choose a LoRA that is made for this model."
        )


def _change(pairs: Sequence[tuple[Pair, float]]) -> Change:
    down = torch.cat([pair.down.float() for pair, _ in pairs])
    return Change(down, torch.cat([pair.up.float() * strength for pair, strength in pairs], dim=1))


def _add(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """``out`` [..., out] + up @ down @ x, added in place: no second result of the layer's size lives."""
    x: Tensor = args[0]
    down, up = layer.get_parameter(DOWN), layer.get_parameter(UP)
    told = F.linear(x.to(down.dtype), down).flatten(0, -2)  # [M, R]
    rows = out.flatten(0, -2)
    if rows.dtype == up.dtype:
        return rows.addmm_(told, up.t()).unflatten(0, out.shape[:-1])
    return rows.add_(F.linear(told, up)).unflatten(0, out.shape[:-1])
