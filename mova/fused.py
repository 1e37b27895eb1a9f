"""The element-wise work of a transformer block: each function reads and writes its tensor once where it is compiled.

Elsewhere the same formula runs operation by operation, in place and in blocks of rows. A ``TorchFunctionMode`` sees
each function as one (see ``mova.meter``). They are for inference: none has a gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

logger = logging.getLogger(__name__)

BLOCK = 2**22  # elements of a block of rows: 16 MB of float32 between two operations, however long the tensor
# Complex products round like the real formula where whole vectors are multiplied; single ones are contracted.
COMPLEX_LANES = 16


class _Choice:
    """Whether kernels are compiled, and for which devices."""

    devices: frozenset[str] = frozenset()


def use(*, compiled: bool, devices: frozenset[str] = frozenset({"cuda"})) -> None:
    """Compile these functions on ``devices`` from now on, or no longer; rounding stays that of the formulas."""
    _Choice.devices = devices if compiled else frozenset()


@cache
def can_compile(device: torch.device) -> bool:
    """Whether kernels can be made for ``device``, where that pays: Triton, a C compiler and what both need are there.

    It takes a few seconds to find out, by making one.
    """
    if device.type != "cuda":
        return False
    x, gate = torch.ones((1, 2, 16), device=device), torch.ones((1, 1, 16), device=device)
    try:
        _compiled(_gated_add, "trial")(x, gate, gate)
    except (ImportError, OSError, RuntimeError) as error:
        logger.info("Kernels can't be compiled here: %s", error)
        return False
    return bool((x == 2).all().item())


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift; ``x`` [B, L, dim], ``shift`` and ``scale`` [B, 1 or L, dim]."""
    if has_torch_function((x, shift, scale)):
        return _overridden(modulated_norm, x, shift, scale, eps)
    if _compiles(x):
        return _compiled(_modulated_norm, x.shape[-1], x.dtype, shift.shape[1] == 1)(x, shift, scale, eps)
    return _modulated_norm(x, shift, scale, eps)


def normed_rope(
    x: Tensor,
    weight: Tensor,
    eps: float,
    heads: int,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    interleaved: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """RMSNorm over the whole width, then the rotation of each head.

    Args:
        x: [B, L, dim]; its memory is given up, the result may lie in it.
        weight: [dim], the norm's.
        eps: the norm's.
        heads: how many the width is split into.
        cos, sin: tables as in ``mova.attention.Rotary``; without them nothing is turned.
        interleaved: how channels are paired, see there.
        out: where the result goes, [B, L, heads, dim / heads]; it is written, not read.
    """
    tensors = (x, weight, cos, sin, out)
    if has_torch_function(tensors):
        arguments = (x, weight, eps, heads, cos, sin)
        return handle_torch_function(normed_rope, tensors, *arguments, interleaved=interleaved, out=out)
    if _compiles(x):
        formula = _compiled(_normed_rope, x.shape[-1], x.dtype, heads, cos is None, interleaved, out is None)
        return formula(x, weight, eps, heads, cos, sin, interleaved, out)
    split = x.view(*x.shape[:-1], heads, -1)
    if x.numel() <= BLOCK:
        _norm_and_turn(x, split, weight, eps, cos, sin, interleaved)
    else:
        for rows in _blocks(x):
            row_cos, row_sin = (None, None) if cos is None or sin is None else (cos[rows], sin[rows])
            _norm_and_turn(x[:, rows], split[:, rows], weight, eps, row_cos, row_sin, interleaved)
    return split if out is None else out.copy_(split)


def gated_add(x: Tensor, gate: Tensor | None, y: Tensor) -> Tensor:
    """``x`` += gate * y, in place; ``gate`` (1 if None) is broadcast over x. The memory of ``y`` is given up."""
    if has_torch_function((x, gate, y)):
        return _overridden(gated_add, x, gate, y)
    if gate is None:
        return x.add_(y)
    if _compiles(x):
        per_row = gate.ndim > 1 and gate.shape[1] > 1
        return _compiled(_gated_add, x.shape[-1], x.dtype, gate.shape[-1], per_row)(x, gate, y)
    return x.add_(y.mul_(gate))


def gelu(x: Tensor) -> Tensor:
    """GELU by tanh, in place: one kernel everywhere."""
    if has_torch_function((x,)):
        return _overridden(gelu, x)
    return torch.ops.aten.gelu_(x, approximate="tanh")


def _overridden(function: Callable[..., Tensor], *args: Any) -> Tensor:
    tensors = [argument for argument in args if isinstance(argument, Tensor)]
    return handle_torch_function(function, tensors, *args)


def _compiles(x: Tensor) -> bool:
    return x.device.type in _Choice.devices


@cache
def _compiled(formula: FunctionType, *variant: Hashable) -> Callable[..., Tensor]:
    """``formula`` as one kernel for what ``variant`` tells apart; the number of rows may vary.

    With a code object of its own a variant has a compiler cache of its own, which neither overflows with the other
    variants nor takes a width for variable because another one has another width. Without emulated casts the kernel
    would skip roundings and contract products and sums.
    """
    name = "_".join([formula.__name__, *(str(value).removeprefix("torch.") for value in variant)])
    own = FunctionType(formula.__code__.replace(co_name=name), formula.__globals__, name)
    return torch.compile(own, fullgraph=True, options={"emulate_precision_casts": True})


def _blocks(x: Tensor) -> list[slice]:
    """Rows [B, rows, dim] of ``x``, as many at a time as a block holds."""
    rows = max(1, BLOCK * x.shape[1] // max(1, x.numel()))
    return [slice(start, start + rows) for start in range(0, x.shape[1], rows)]


def _modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps).mul_(1 + scale).add_(shift)


def _gated_add(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    return x.add_(gate * y)


def _normed_rope(
    x: Tensor,
    weight: Tensor,
    eps: float,
    heads: int,
    cos: Tensor | None,
    sin: Tensor | None,
    interleaved: bool,
    out: Tensor | None,
) -> Tensor:
    """The formula as a compiler likes it: nothing in place but the result."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * weight).to(x.dtype)
    turned = normed.unflatten(-1, (heads, -1))
    if cos is not None and sin is not None:
        turned = _turned(turned, cos, sin, interleaved)
    return turned if out is None else out.copy_(turned)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Each channel and its partner, which a flip finds: a stack or a cat would be kernels of their own."""
    axis, split = (-1, (-1, 2)) if interleaved else (-2, (2, -1))
    pairs = x.to(torch.promote_types(x.dtype, cos.dtype)).unflatten(-1, split)
    signs = 2 * torch.arange(2, device=x.device) - 1  # [-1, 1]
    cos, sin = (table.unsqueeze(-1) if interleaved else table.unflatten(-1, split) for table in (cos, sin))
    turned = pairs * cos + pairs.flip(axis) * (sin * (signs if interleaved else signs.unsqueeze(-1)))
    return turned.to(x.dtype).flatten(-2)


def _norm_and_turn(
    x: Tensor, split: Tensor, weight: Tensor, eps: float, cos: Tensor | None, sin: Tensor | None, interleaved: bool
) -> None:
    """The same in place; ``split`` is the view of ``x`` by heads."""
    _norm(x, weight, eps)
    if cos is not None and sin is not None:
        _turn(split, cos, sin, interleaved)


def _norm(x: Tensor, weight: Tensor, eps: float) -> None:
    """RMSNorm in place; ``x`` [B, n, dim]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide.mul_(wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()).mul_(weight)
    if wide is not x:
        x.copy_(wide)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> None:
    """Turn ``x`` [B, n, heads, head_dim] in place."""
    wide, half = x.to(torch.promote_types(x.dtype, cos.dtype)), x.shape[-1] // 2
    if interleaved and wide.is_cpu and wide.dtype is torch.float32 and half % COMPLEX_LANES == 0:
        torch.view_as_complex(wide.unflatten(-1, (-1, 2))).mul_(torch.complex(cos, sin))
    else:
        one, other = wide.unflatten(-1, (half, 2)).unbind(-1) if interleaved else wide.chunk(2, dim=-1)
        if not interleaved:
            cos, sin = cos[..., :half], sin[..., :half]
        across, back = other * sin, one * sin
        one.mul_(cos).sub_(across)
        other.mul_(cos).add_(back)
    if wide is not x:
        x.copy_(wide)
