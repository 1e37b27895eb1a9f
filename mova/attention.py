"""Attention: the one place that chooses a kernel (diffusers' names for them) and turns queries and keys."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mova import fused

logger = logging.getLogger(__name__)

NATIVE, CUDNN, FLASH_3 = "native", "_native_cudnn", "_flash_3"
HALF_ONLY = (CUDNN, FLASH_3)
HOPPER = (9, 0)


@dataclass(frozen=True, eq=False)
class Rotary:
    """A rotary position embedding: tables of ``cos`` and ``sin`` and how pairs of channels are formed.

    ``interleaved``: channels (2i, 2i+1) form a pair, tables are [L, 1, head_dim / 2] (both towers). Otherwise channels
    (i, i + head_dim / 2) do, tables are [L, 1, head_dim] with each angle twice (the bridge).
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool = True

    def apply(self, x: Tensor) -> Tensor:
        """Turn ``x`` [B, L, heads, head_dim]; computed at the tables' precision or better, returned in x's dtype."""
        precise = x.to(torch.promote_types(x.dtype, self.cos.dtype))
        if self.interleaved:
            even, odd = precise.unflatten(-1, (-1, 2)).unbind(-1)
            turned = torch.stack((even * self.cos - odd * self.sin, even * self.sin + odd * self.cos), dim=-1)
            return turned.flatten(-2).to(x.dtype)
        first, second = precise.chunk(2, dim=-1)
        return (precise * self.cos + torch.cat((-second, first), dim=-1) * self.sin).to(x.dtype)

    def rows(self, rows: slice) -> Rotary:
        """The tables of some of the tokens."""
        if rows.start == 0 and rows.stop == len(self.cos):
            return self
        return Rotary(self.cos[rows], self.sin[rows], self.interleaved)


class KeyValue(NamedTuple):
    """What is attended to: keys, normed and turned, and values, both [B, S, heads, head_dim]."""

    key: Tensor
    value: Tensor


class MovaAttnProcessor:
    """Projects, normalises, turns, attends. ``set_attention`` sets the kernel here."""

    _attention_backend: str | None = None

    def __call__(
        self, attn: Attention, x: Tensor, context: Tensor, rope: Rotary | None, context_rope: Rotary | None
    ) -> Tensor:
        query = attn.norm_q(attn.q(x)).unflatten(-1, (attn.heads, -1))  # [B, L, heads, head_dim]
        key = attn.norm_k(attn.k(context)).unflatten(-1, (attn.heads, -1))
        value = attn.v(context).unflatten(-1, (attn.heads, -1))
        if rope is not None:
            query = rope.apply(query)
        if context_rope is not None:
            key = context_rope.apply(key)
        return attn.o(attend(query, KeyValue(key, value), self._attention_backend).flatten(-2))


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head attention with RMSNorm on the whole query and key, before the heads are split.

    Args:
        dim: width of the queries and of the output.
        num_heads: heads; ``dim`` must be divisible by it.
        context_dim: width of what is attended to; ``dim`` if None.
        eps: of both RMSNorms.
    """

    _default_processor_cls = MovaAttnProcessor
    _available_processors = (MovaAttnProcessor,)
    _supports_qkv_fusion = False
    processor: MovaAttnProcessor

    def __init__(self, dim: int, num_heads: int, *, context_dim: int | None = None, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(context_dim or dim, dim)
        self.v = nn.Linear(context_dim or dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)
        self.processor = MovaAttnProcessor()

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        rope: Rotary | None = None,
        context_rope: Rotary | None = None,
    ) -> Tensor:
        """``x`` [B, L, dim] attends to ``context`` [B, S, context_dim], to itself (and its rope) if None."""
        if context is None:
            context, context_rope = x, rope
        return self.processor(self, x, context, rope, context_rope)

    def read(self, context: Tensor, rope: Rotary | None = None) -> KeyValue:
        """Keys and values of ``context`` [B, S, context_dim]; for inference, like what follows."""
        return self.read_rows(lambda _rows: context, [slice(0, context.shape[1])], rope)

    def read_rows(
        self, context: Callable[[slice], Tensor], chunks: Sequence[slice], rope: Rotary | None = None
    ) -> KeyValue:
        """As ``read``, but ``context`` is asked for its rows chunk by chunk; the chunks follow each other."""
        if len(chunks) == 1:
            part = context(chunks[0])
            value = self.v(part).unflatten(-1, (self.heads, -1))
            return KeyValue(self._turned(self.k(part), self.norm_k, rope), value)
        heard: KeyValue | None = None
        for rows in chunks:
            part = context(rows)
            value = self.v(part).unflatten(-1, (self.heads, -1))
            if heard is None:
                shape = (value.shape[0], chunks[-1].stop, *value.shape[2:])
                heard = KeyValue(value.new_empty(shape), value.new_empty(shape))
            heard.value[:, rows] = value
            del value
            self._turned(self.k(part), self.norm_k, rope and rope.rows(rows), out=heard.key[:, rows])
        assert heard is not None, "there is at least one chunk"
        return heard

    def ask(self, query: Tensor, heard: KeyValue, rope: Rotary | None = None) -> Tensor:
        """What a projected ``query`` [B, L, dim] hears, [B, L, dim].

        The query's memory is given up: hand it over without keeping a name for it.
        """
        query = self._turned(query, self.norm_q, rope)
        said = attend(query, heard, self.processor._attention_backend).flatten(-2)
        del query
        return self.o(said)

    def _turned(self, x: Tensor, norm: nn.RMSNorm, rope: Rotary | None, out: Tensor | None = None) -> Tensor:
        eps = norm.eps or torch.finfo(x.dtype).eps
        if rope is None:
            return fused.normed_rope(x, norm.weight, eps, self.heads, out=out)
        tables = (rope.cos, rope.sin)
        return fused.normed_rope(x, norm.weight, eps, self.heads, *tables, interleaved=rope.interleaved, out=out)


def chunks_of(length: int, size: int | None) -> list[slice]:
    """Consecutive slices of at most ``size`` rows, as even as they come; one slice if ``size`` is None.

    Even, because a matrix product with few rows takes another path on some devices, with other last bits.
    """
    count = math.ceil(length / size) if size else 1
    step = max(1, math.ceil(length / max(count, 1)))
    return [slice(start, min(start + step, length)) for start in range(0, max(length, 1), step)]


def attend(query: Tensor, heard: KeyValue, backend: str | None = None) -> Tensor:
    """[B, L, heads, head_dim] of every ``query`` over all of ``heard``, by the kernel that ``backend`` names.

    torch's own kernels take queries, keys and values as they lie; the dispatcher would copy all three for cuDNN. What
    is not in half precision is left to torch: the others don't take it.
    """
    if backend in (None, NATIVE) or (backend in HALF_ONLY and query.dtype not in (torch.bfloat16, torch.float16)):
        return _scaled_dot_product(query, heard)
    if backend == CUDNN:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return _scaled_dot_product(query, heard)
    return dispatch_attention_fn(query, *heard, backend=backend)


def choose_attention(device: torch.device) -> str:
    """The fastest exact kernel that works on ``device``: FlashAttention 3 or cuDNN's on Hopper, else torch's choice.

    Each candidate computes a small example first, and is taken only if it agrees with torch's own.
    """
    for name in _candidates(device):
        if _agrees(name, device):
            return name
    return NATIVE


def set_attention(model: nn.Module, name: str, *, self_attention_only: bool = False) -> None:
    """Every attention of ``model`` uses the kernel ``name``, or only the blocks' self-attention.

    Raises:
        ValueError: no such kernel.
    """
    backend = AttentionBackendName(name)
    for path, module in model.named_modules():
        if isinstance(module, Attention) and (not self_attention_only or path.endswith("self_attn")):
            module.processor._attention_backend = backend


def _scaled_dot_product(query: Tensor, heard: KeyValue) -> Tensor:
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, *heard))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def _candidates(device: torch.device) -> Iterator[str]:
    if device.type == "cuda" and torch.cuda.get_device_capability(device) == HOPPER:
        yield from (FLASH_3, CUDNN)


def _agrees(name: str, device: torch.device) -> bool:
    generator = torch.Generator("cpu").manual_seed(0)
    example = torch.randn((3, 1, 200, 2, 128), generator=generator).to(device, torch.bfloat16)
    query, heard = example[0], KeyValue(example[1], example[2])
    try:
        difference = attend(query, heard, AttentionBackendName(name)) - attend(query, heard, NATIVE)
        worst = difference.abs().max().item()
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        logger.info("Attention by %s doesn't work here: %s", name, error)
        return False
    return worst < 0.02  # bfloat16 rounds values of about 0.1 to 0.0005
