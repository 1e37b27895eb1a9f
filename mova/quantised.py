"""Layers over 8-bit weights, and components loaded with them.

torchao has such layers too; its weights are tensor subclasses around tensors of their own, which keep computing with
what they were made from when ``.data`` is pointed into a slot of the stream (tried with 0.18). These are plain
parameters, which can be lent like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mova.checkpoint import load_component
from mova.eightbit import KINDS, SCALE, QuantiseError, default_store, is_current, is_matrix, weights_file
from mova.quantise import DTYPES, LARGEST, dequantise, quantise

DEQUANTISED = 1 << 25  # weights that are in full precision at a time, elements: 67 MB in bfloat16
ALIGNED = 64  # rows at a time are a multiple, so that results of every group are aligned
TOKENS = 2048  # that are multiplied in 8 bits at a time: for 13,824 channels sums, products and results are 283 MB
FEWEST_TOKENS = 32  # CUDA's int8 product wants more than 16 rows
EDGE = 16  # both sides of a matrix must be multiples for the 8-bit kernels
Product = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x [M, in], weight [out, in], scale [out]) -> [M, out]


class QuantisedLinear(nn.Module):
    """A Linear whose weight is 8 bits wide, with a scale for each output channel.

    ``products`` is how it multiplies. "plain": the weight is turned back into the input's dtype, a known number of
    rows at a time, and multiplied in it. That saves memory and copying; it is no faster, since with tens of thousands
    of tokens the product takes the time. "int8" and "fp8" round the input too, with a scale for each token, and
    multiply in 8 bits; only that is faster.
    """

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype, *, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(out_features, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.products = "plain"

    @classmethod
    def of(cls, linear: nn.Linear, kind: str) -> QuantisedLinear:
        """``linear`` in 8 bits of ``kind``; its bias is shared."""
        made = cls(linear.in_features, linear.out_features, DTYPES[KINDS[kind]], bias=False)
        made.weight.data, made.weight_scale.data = quantise(linear.weight.detach(), kind)
        made.bias = linear.bias
        return made

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.in_features}, {self.out_features}, {self.weight.dtype}, products={self.products}"

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [..., in_features] to [..., out_features], in its dtype."""
        if self.products == "plain" or self.in_features % EDGE or self.out_features % EDGE:
            return self._in_full(input)
        out = _by_tokens(_PRODUCTS[self.products], input.reshape(-1, self.in_features), self.weight, self.weight_scale)
        if self.bias is not None:
            out += self.bias
        return out.unflatten(0, input.shape[:-1])

    def _in_full(self, input: Tensor) -> Tensor:
        rows = max(1, DEQUANTISED // self.in_features)
        rows -= rows % ALIGNED if rows > ALIGNED else 0
        if rows >= self.out_features or torch.is_grad_enabled():
            return F.linear(input, dequantise(self.weight, self.weight_scale, input.dtype), self.bias)
        x = input.reshape(-1, self.in_features)
        out = x.new_empty(x.shape[0], self.out_features)
        for first in range(0, self.out_features, rows):
            part = slice(first, first + rows)
            weight = dequantise(self.weight[part], self.weight_scale[part], x.dtype)
            if self.bias is None:
                torch.mm(x, weight.t(), out=out[:, part])
            else:
                torch.addmm(self.bias[part], x, weight.t(), out=out[:, part])
        return out.unflatten(0, input.shape[:-1])


def load_quantised(
    checkpoint: Path,
    name: str,
    kind: str,
    dtype: torch.dtype | None = None,
    *,
    store: Path | None = None,
    products: str = "plain",
) -> nn.Module:
    """Component ``name`` on the CPU with its matrices in 8 bits, in evaluation mode; weights are pages of the files.

    Args:
        checkpoint: the folder in the official layout.
        name: one of ``eightbit.COMPONENTS``; others have no 8-bit weights.
        kind: "int8" or "fp8"; made by ``quantise.ensure_quantised``.
        dtype: what the other tensors are turned into; as stored if None.
        store: see ``ensure_quantised``.
        products: what ``choose_products`` gave.

    Raises:
        QuantiseError: the 8-bit weights are missing, cut short or older than the checkpoint.
        CheckpointError: a file of the checkpoint can't be used.
    """
    store = store or default_store(checkpoint)
    if not is_current(checkpoint, kind, name, store=store):
        raise QuantiseError(f"The {kind} weights of {name} in {store} are missing or out of date. Make them again.")
    module = load_component(checkpoint, name)
    stored = dict(_tensors(weights_file(store, kind, name)))
    for path, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and is_matrix(name, f"{path}.weight"):
            reduced = _reduced(layer, stored[f"{path}.weight"], stored[f"{path}.weight{SCALE}"], products)
            module.set_submodule(path, reduced)
    if dtype is not None:
        _convert(module, dtype)
    return module.eval().requires_grad_(False)


def choose_products(kind: str, wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """How layers of ``kind`` should multiply on ``device``: "int8" or "fp8" if that was wanted and works there.

    Args:
        kind: of the weights.
        wanted: a preset's ``matmul``, "plain" or "w8a8".
        device: where layers will compute.
        dtype: what they will compute in.
    """
    return kind if wanted == "w8a8" and _works(kind, device, dtype) else "plain"


@cache
def _works(kind: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel runs on this device, and gives what the same rounded numbers give in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * FEWEST_TOKENS, 4 * EDGE, generator=generator).to(dtype)
    weight, scale = quantise(torch.randn(2 * EDGE, 4 * EDGE, generator=generator), kind)
    rounded, shares = _by_token(x, DTYPES[KINDS[kind]])
    expected = (rounded.double() * shares) @ (weight.double() * scale.unsqueeze(1)).t()
    try:
        found = _PRODUCTS[kind](x.to(device), weight.to(device), scale.to(device)).cpu().double()
    except (RuntimeError, NotImplementedError, ValueError, AttributeError):  # what torch says of what it can't do
        return False
    error = (found - expected).abs().max() / expected.abs().max()
    return bool(error < torch.finfo(torch.bfloat16).eps)


def _by_tokens(product: Product, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """``product`` of all tokens [M, in], a group at a time; [M, out]."""
    if x.shape[0] <= TOKENS:
        missing = FEWEST_TOKENS - x.shape[0]
        padded = F.pad(x, (0, 0, 0, missing)) if missing > 0 else x
        return product(padded, weight, scale)[: x.shape[0]]
    out = x.new_empty(x.shape[0], weight.shape[0])
    for group, place in zip(x.split(TOKENS), out.split(TOKENS), strict=True):
        place.copy_(_by_tokens(product, group, weight, scale))
    return out


def _by_token(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``x`` [M, in] rounded to 8 bits and the scale [M, 1], float32, of each token."""
    scale = (x.abs().amax(dim=1, keepdim=True).float() / LARGEST[dtype]).clamp_(min=torch.finfo(torch.float32).tiny)
    shares = (x / scale).clamp_(-LARGEST[dtype], LARGEST[dtype])
    return (shares.round_() if dtype is torch.int8 else shares).to(dtype), scale


def _int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    rounded, shares = _by_token(x, torch.int8)
    sums = torch._int_mm(rounded, weight.t())
    return ((sums * shares).mul_(scale)).to(x.dtype)


def _fp8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    rounded, shares = _by_token(x, torch.float8_e4m3fn)
    fast = x.device.type == "cuda"  # sums of 14 bits' precision, at full speed; the CPU knows only float32's
    return torch._scaled_mm(
        rounded, weight.t(), scale_a=shares, scale_b=scale.unsqueeze(0), out_dtype=x.dtype, use_fast_accum=fast
    )


_PRODUCTS: dict[str, Product] = {"int8": _int8_product, "fp8": _fp8_product}


def _reduced(layer: nn.Linear, weight: Tensor, scale: Tensor, products: str) -> QuantisedLinear:
    with torch.device("meta"):
        made = QuantisedLinear(layer.in_features, layer.out_features, weight.dtype, bias=False)
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.weight_scale = nn.Parameter(scale, requires_grad=False)
    made.bias = layer.bias
    made.products = products
    return made


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Everything but the 8-bit weights and their scales, which are float32 whatever the model computes in."""
    for part in module.modules():
        kept = (part.weight, part.weight_scale) if isinstance(part, QuantisedLinear) else ()
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if tensor.is_floating_point() and not any(tensor is one for one in kept):
                tensor.data = tensor.data.to(dtype)


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118  no mapping, though it looks like one
                yield key, stored.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise QuantiseError(f"{file} can't be read ({error}). Delete it, so that it is made again.") from error
