"""Attention: the one place that chooses a kernel (diffusers' dispatcher) and turns queries and keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn


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


class MovaAttnProcessor:
    """Projects, normalises, turns, attends. ``set_attention_backend`` of a model sets the kernel here."""

    _attention_backend = None
    _parallel_config = None

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
        out = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return attn.o(out.flatten(-2))


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
