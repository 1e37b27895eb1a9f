"""What the video and the audio tower share: a diffusion transformer in Wan's shape, told stage by stage.

``embed`` -> ``blocks`` -> ``project``. ``forward`` runs one tower alone; ``mova.joint`` runs both and the bridge.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.amp import is_autocast_available

from mova import fused
from mova.attention import Attention, KeyValue, Rotary, chunks_of

ROPE_THETA = 10_000.0

Modulations = tuple[Tensor, ...]  # shift, scale, gate of self-attention, then of the feed-forward; [B, 1 or L, dim]


@dataclass(frozen=True, eq=False)
class TowerState:
    """A tower's input once embedded. ``grid`` is (frames, height, width) in tokens for video, (steps,) for audio."""

    hidden_states: Tensor  # [B, L, dim]
    context: Tensor  # [B, S, dim]; unused where blocks are given keys and values
    t: Tensor  # [B, dim]
    t_mod: Tensor  # [B, 6, dim]
    rope: Rotary
    grid: tuple[int, ...]


class Tower(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The common body. A subclass adds ``patch_embedding``, ``rope`` and ``unpatchify``."""

    _repeated_blocks = ("DiTBlock",)
    _no_split_modules = ("DiTBlock",)
    _skip_layerwise_casting_patterns = ("patch_embedding", "text_embedding", "time_", "norm", "modulation", "head")

    patch_embedding: nn.Module

    def _build(
        self,
        *,
        dim: int,
        ffn_dim: int,
        text_dim: int,
        freq_dim: int,
        out_features: int,
        eps: float,
        num_heads: int,
        num_layers: int,
    ) -> None:
        if dim % num_heads or (dim // num_heads) % 2:
            raise ValueError(f"dim {dim} must split into num_heads {num_heads} heads of an even width.")
        self.dim = dim
        self.freq_dim = freq_dim
        self.head_dim = dim // num_heads
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(Float32Linear(freq_dim, dim), nn.SiLU(), Float32Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), Float32Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(DiTBlock(dim, num_heads, ffn_dim, eps) for _ in range(num_layers))
        self.head = Head(dim, out_features, eps)

    @property
    def dtype(self) -> torch.dtype:
        """What the tower computes in: that of its embeddings, which nothing quantises. ModelMixin walks all modules."""
        return cast(Tensor, self.patch_embedding.weight).dtype

    def layer(self, number: int) -> DiTBlock | None:
        """Block ``number``; None after the last one."""
        return cast(DiTBlock, self.blocks[number]) if number < len(self.blocks) else None

    def rope(self, grid: tuple[int, ...], device: torch.device) -> Rotary:
        """Rotary tables for the tokens of ``grid``, in the order in which ``patchify`` lists them."""
        raise NotImplementedError

    def unpatchify(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Tokens [B, L, out_features] back to latents."""
        raise NotImplementedError

    def patchify(self, latents: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Latents [B, C, ...] to tokens [B, L, dim] and their grid."""
        patches = self.patch_embedding(latents.to(self.dtype))
        # Token by token, not channel by channel as the convolution leaves them: every layer would lay them out again.
        return patches.flatten(2).transpose(1, 2).contiguous(), tuple(patches.shape[2:])

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """``timestep`` [B], 0 to 1000, to t [B, dim] and t_mod [B, 6, dim], by way of float32."""
        t = self.time_embedding(sinusoidal_embedding(self.freq_dim, timestep))
        t_mod = self.time_projection(t).unflatten(1, (6, self.dim))
        return t.to(self.dtype), t_mod.to(self.dtype)

    def embed(self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> TowerState:
        """Everything that happens before the first block.

        Args:
            latents: [B, in_dim, F, H, W] (video) or [B, in_dim, N] (audio).
            timestep: [B], 0 to 1000.
            encoder_hidden_states: [B, S, text_dim], the encoded prompt.
        """
        hidden_states, grid = self.patchify(latents)
        t, t_mod = self.embed_time(timestep)
        context = self.text_embedding(encoder_hidden_states.to(self.dtype))
        return TowerState(hidden_states, context, t, t_mod, self.rope(grid, latents.device), grid)

    def project(self, hidden_states: Tensor, state: TowerState) -> Tensor:
        """Everything that happens after the last block: tokens [B, L, dim] to a prediction shaped like the latents."""
        return self.unpatchify(self.head(hidden_states, state.t), state.grid)

    def project_rows(self, hidden_states: Tensor, t: Tensor, grid: tuple[int, ...], size: int | None) -> Tensor:
        """As ``project``, for inference, ``size`` tokens at a time."""
        chunks = chunks_of(hidden_states.shape[1], size)
        return self.unpatchify(torch.cat([self.head.read(hidden_states[:, rows], t) for rows in chunks], dim=1), grid)

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """This tower alone; arguments as ``embed``, result [B, out_dim, ...]."""
        state = self.embed(hidden_states, timestep, encoder_hidden_states)
        x = state.hidden_states
        for block in self.blocks:
            x = block(x, state.context, state.t_mod, state.rope)
        return self.project(x, state)


class DiTBlock(nn.Module):
    """Modulated self-attention, plain cross-attention to the text, modulated feed-forward.

    ``forward`` is the formula. Inference does the same in two halves, in place: ``attend_`` knows nothing of the text,
    ``respond_`` does. Both go chunk by chunk, so that besides x, keys and values nothing as long as x lives.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.self_attn = Attention(dim, num_heads, eps=eps)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = Attention(dim, num_heads, eps=eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x: Tensor, context: Tensor, t_mod: Tensor, rope: Rotary) -> Tensor:
        """``x`` [B, L, dim], ``context`` [B, S, dim], ``t_mod`` [B, 6, dim], or a timestep a token: [B, L, 6, dim]."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = _modulations(self.modulation, t_mod)
        x = x + gate_a * self.self_attn(self.norm1(x) * (1 + scale_a) + shift_a, rope=rope)
        x = x + self.cross_attn(self.norm3(x), context)
        return x + gate_f * self.ffn(self.norm2(x) * (1 + scale_f) + shift_f)

    def modulate(self, t_mod: Tensor) -> Modulations:
        """What ``t_mod`` [B, 6, dim] makes of this block's norms and gates."""
        return _modulations(self.modulation, t_mod)

    def attend_(self, x: Tensor, modulations: Modulations, rope: Rotary, size: int | None = None) -> None:
        """Self-attention, added to ``x`` [B, L, dim]: keys and values of all rows first, then ``size`` rows at once."""
        shift, scale, gate = modulations[:3]
        attn, chunks = self.self_attn, chunks_of(x.shape[1], size)
        last: list[Tensor] = []  # the chunk that was read last, so that it needn't be normed again

        def norm(rows: slice) -> Tensor:
            return fused.modulated_norm(x[:, rows], shift, scale, self.norm1.eps)

        def norm_to_read(rows: slice) -> Tensor:
            last[:] = [norm(rows)]
            return last[0]

        heard = attn.read_rows(norm_to_read, chunks, rope)
        for rows in reversed(chunks):
            said = attn.ask(attn.q(last.pop() if last else norm(rows)), heard, rope.rows(rows))
            fused.gated_add(x[:, rows], gate, said)
            del said

    def read_text(self, context: Tensor) -> KeyValue:
        """What cross-attention attends to, of ``context`` [B, S, dim]; it depends on the prompt alone."""
        return self.cross_attn.read(context)

    def respond_(self, x: Tensor, modulations: Modulations, text: KeyValue, size: int | None = None) -> None:
        """Cross-attention to ``text`` and the feed-forward, added to ``x`` [B, L, dim], ``size`` rows at a time."""
        for rows in chunks_of(x.shape[1], size):
            part = x[:, rows]
            fused.gated_add(part, None, self.cross_attn.ask(self.cross_attn.q(self.norm3(part)), text))
            self._feed(part, modulations[3:])

    def _feed(self, x: Tensor, modulations: Modulations) -> None:
        shift, scale, gate = modulations
        hidden = self.ffn[0](fused.modulated_norm(x, shift, scale, self.norm2.eps))
        fused.gated_add(x, gate, self.ffn[2](fused.gelu(hidden)))


class Head(nn.Module):
    """Modulated LayerNorm and the projection to ``out_features`` values a token."""

    def __init__(self, dim: int, out_features: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.head = nn.Linear(dim, out_features)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``x`` [B, L, dim], ``t`` [B, dim] or, a timestep per token, [B, L, dim]."""
        shift, scale = _modulations(self.modulation, t.unsqueeze(-2))
        return self.head(self.norm(x) * (1 + scale) + shift)

    def read(self, x: Tensor, t: Tensor) -> Tensor:
        """As ``forward``, for inference."""
        shift, scale = _modulations(self.modulation, t.unsqueeze(-2))
        return self.head(fused.modulated_norm(x, shift, scale, self.norm.eps))


class Float32Linear(nn.Linear):
    """A Linear computed in float32 whatever its weights are stored in: the time embedding needs the precision."""

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [..., in_features] to [..., out_features], float32 or better."""
        dtype = torch.promote_types(torch.promote_types(input.dtype, self.weight.dtype), torch.float32)
        device = input.device.type
        # Under autocast training would round it after all; the meta device knows none.
        with torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext():
            return F.linear(input.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


def sinusoidal_embedding(dim: int, position: Tensor) -> Tensor:
    """Cosines, then sines, [..., dim] of ``position`` * 10000^(-i / half); in float64, then position's dtype."""
    half = dim // 2
    frequencies = ROPE_THETA ** (-torch.arange(half, dtype=torch.float64, device=position.device) / half)
    angles = position.to(torch.float64).unsqueeze(-1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(position.dtype)


def rope_angles(width: int, positions: Tensor) -> Tensor:
    """Angles [len(positions), width // 2] of an axis that owns ``width`` channels: position * theta^(-2j / width)."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device)[: width // 2] / width
    return torch.outer(positions.to(torch.float64), ROPE_THETA**-exponents)


def rotary_from_angles(angles: Tensor) -> Rotary:
    """Interleaved tables from float64 angles [L, head_dim / 2].

    float32 tables instead of the original's complex128 change 0.0015 % of bf16 elements by one ulp and spare 44 % of
    the element-wise traffic.
    """
    angles = angles.unsqueeze(1)  # [L, 1, head_dim / 2]: one for all heads
    return Rotary(angles.cos().float(), angles.sin().float())


def _modulations(modulation: Tensor, t_mod: Tensor) -> tuple[Tensor, ...]:
    """[1, n, dim] + [B, n, dim] to n tensors [B, 1, dim]; + [B, L, n, dim] to n tensors [B, L, dim]."""
    parts = modulation.to(t_mod.dtype) + t_mod
    return (parts.unsqueeze(-2) if t_mod.ndim == 3 else parts).unbind(1 if t_mod.ndim == 3 else 2)


def refuse_unsupported(**flags: bool) -> None:
    """ValueError naming the first architecture switch that no released MOVA checkpoint uses and this engine lacks."""
    for name, value in flags.items():
        if value:
            raise ValueError(
                f"config.json sets '{name}' to true; this engine knows MOVA's towers, which have it false."
            )


def even_third(head_dim: int) -> int:
    """``head_dim // 3``, the channels of the height and width axes; ValueError unless the axes split into pairs."""
    third = head_dim // 3
    if third % 2 or not third:
        raise ValueError(f"head_dim {head_dim} can't be split over three rotary axes: head_dim // 3 must be even.")
    return third
