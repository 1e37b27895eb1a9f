"""The dual-tower bridge: at chosen layers, each tower attends to the other along a common time line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mova import fused
from mova.attention import Attention, KeyValue, Rotary, chunks_of
from mova.tower import ROPE_THETA

STRATEGIES = ("full", "shallow_focus", "distributed", "progressive", "custom")
CUSTOM_LAYERS = (0, 2, 4, 6, 8, 12, 16, 20)
FRAMES_PER_LATENT = 4  # temporal compression of the video VAE, whatever the checkpoint
BRIDGE_EPS = 1e-6  # whatever the towers' eps

Grid = tuple[int, ...]


class DualTowerConditionalBridge(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Cross-attention from audio to video and back at the layers of ``interaction_strategy``.

    Both directions read the states from before the call; each adds ``conditioner(x, y) * scale`` to its ``x``.
    """

    _repeated_blocks = ("ConditionalCrossAttention",)
    _no_split_modules = ("ConditionalCrossAttention",)

    @register_to_config
    def __init__(
        self,
        visual_layers: int,
        audio_layers: int,
        visual_hidden_dim: int,
        audio_hidden_dim: int,
        audio_fps: float,
        head_dim: int,
        interaction_strategy: str,
        apply_cross_rope: bool = True,
        apply_first_frame_bias_in_rope: bool = False,
        trainable_condition_scale: bool = False,
        pooled_adaln: bool = False,
    ) -> None:
        super().__init__()
        self.layers = interaction_layers(visual_layers, audio_layers, interaction_strategy)
        video, audio = visual_hidden_dim, audio_hidden_dim
        self.audio_to_video_conditioners = nn.ModuleDict(
            {str(layer): ConditionalCrossAttention(video, audio, head_dim) for layer in self.layers}
        )
        self.video_to_audio_conditioners = nn.ModuleDict(
            {
                str(layer): ConditionalCrossAttention(audio, video, head_dim, pooled=pooled_adaln)
                for layer in self.layers
            }
        )
        if trainable_condition_scale:
            self.condition_scale = nn.Parameter(torch.ones(1))

    def conditioners(self, layer: int) -> tuple[ConditionalCrossAttention, ConditionalCrossAttention]:
        """Audio to video and video to audio at ``layer``, one of ``layers``."""
        pair = (self.audio_to_video_conditioners[str(layer)], self.video_to_audio_conditioners[str(layer)])
        return cast(tuple[ConditionalCrossAttention, ConditionalCrossAttention], pair)

    def aligned_rotary(
        self, video_fps: float, grid: Grid, audio_steps: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[Rotary, Rotary] | None:
        """Rotary tables of video [f*h*w, 1, head_dim] and audio [audio_steps, 1, head_dim] on one time line.

        One unit is one audio latent. A video latent spans four frames; with ``apply_first_frame_bias_in_rope`` the
        first one spans a single frame. None if the checkpoint doesn't use cross-modal RoPE.
        """
        if not self.config["apply_cross_rope"]:
            return None
        audio_fps, frames = self.config["audio_fps"], torch.arange(grid[0], dtype=torch.float32, device=device)
        if self.config["apply_first_frame_bias_in_rope"]:
            later = (1 / video_fps + (frames - 1) * (FRAMES_PER_LATENT / video_fps)) * audio_fps
            positions = torch.where(frames == 0, 0.0, later)
        else:
            positions = frames * (audio_fps / (video_fps / FRAMES_PER_LATENT))
        tokens = positions.repeat_interleave(grid[1] * grid[2])
        audio = torch.arange(audio_steps, dtype=torch.float32, device=device)
        return self._rotary(tokens, dtype), self._rotary(audio, dtype)

    def forward(
        self,
        layer: int,
        visual: Tensor,
        audio: Tensor,
        rotary: tuple[Rotary, Rotary] | None,
        grid: Grid,
        *,
        condition_scale: float | None = None,
        a2v_condition_scale: float | None = None,
        v2a_condition_scale: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both towers' states after the exchange at ``layer``; unchanged if the layer has none.

        Args:
            visual: [B, f*h*w, visual_hidden_dim].
            audio: [B, N, audio_hidden_dim].
            rotary: what ``aligned_rotary`` gave.
            grid: (f, h, w) of the visual tokens.
            condition_scale: strength of both directions, the checkpoint's own (1 unless trained) if None.
            a2v_condition_scale: strength of audio to video, instead of ``condition_scale``.
            v2a_condition_scale: strength of video to audio, instead of ``condition_scale``.
        """
        if layer not in self.layers:
            return visual, audio
        visual_rope, audio_rope = rotary or (None, None)
        a2v, v2a = self.conditioners(layer)
        to_video = a2v(visual, audio, visual_rope, audio_rope)
        to_audio = v2a(audio, visual, audio_rope, visual_rope, grid)
        common = self._own_scale() if condition_scale is None else condition_scale
        a2v_scale = common if a2v_condition_scale is None else a2v_condition_scale
        v2a_scale = common if v2a_condition_scale is None else v2a_condition_scale
        return visual + to_video * a2v_scale, audio + to_audio * v2a_scale

    def exchange_(
        self,
        layer: int,
        visual: Tensor,
        audio: Tensor,
        rotary: tuple[Rotary, Rotary] | None,
        grid: Grid,
        size: int | None = None,
    ) -> None:
        """As ``forward`` at the checkpoint's own strength, for inference: changes both states in place.

        Arguments as there; ``size`` video rows at a time. What the audio is to get waits until the video has heard the
        audio from before.
        """
        if layer not in self.layers:
            return
        visual_rope, audio_rope = rotary or (None, None)
        a2v, v2a = self.conditioners(layer)
        gate = self.condition_scale if self.config["trainable_condition_scale"] else None
        chunks = chunks_of(visual.shape[1], size)
        to_audio = v2a.ask(audio, v2a.read(visual, chunks, visual_rope), audio_rope, visual, grid)
        heard = a2v.read(audio, [slice(0, audio.shape[1])], audio_rope)
        for rows in chunks:
            part = visual[:, rows]
            fused.gated_add(part, gate, a2v.ask(part, heard, visual_rope and visual_rope.rows(rows)))
        fused.gated_add(audio, gate, to_audio)

    def _own_scale(self) -> Tensor | float:
        return self.condition_scale if self.config["trainable_condition_scale"] else 1.0

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> Rotary:
        head_dim = self.config["head_dim"]
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
        angles = torch.outer(positions, 1.0 / ROPE_THETA**exponents).repeat(1, 2).unsqueeze(1)
        return Rotary(angles.cos().to(dtype), angles.sin().to(dtype), interleaved=False)


class ConditionalCrossAttention(nn.Module):
    """What ``y`` has to say to ``x``: attention from x to the normed y, to be added to x by the caller.

    ``pooled`` (video to audio only): a summary of each video frame modulates x before it asks.
    """

    def __init__(self, dim: int, context_dim: int, head_dim: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.y_norm = nn.LayerNorm(context_dim, eps=BRIDGE_EPS)
        self.inner = Attention(dim, dim // head_dim, context_dim=context_dim, eps=BRIDGE_EPS)
        self.pooled = pooled
        if pooled:
            self.per_frame_pooling = PerFrameAttentionPooling(context_dim, dim // head_dim)
            self.adaln = AdaLayerNorm(dim, context_dim)

    def forward(self, x: Tensor, y: Tensor, x_rope: Rotary | None, y_rope: Rotary | None, grid: Grid = ()) -> Tensor:
        """``x`` [B, L, dim], ``y`` [B, S, context_dim] to [B, L, dim]."""
        if self.pooled:
            x = self.adaln(x, self.per_frame_pooling(y, grid))
        return self.inner(x, self.y_norm(y), x_rope, y_rope)

    def read(self, y: Tensor, chunks: Sequence[slice], y_rope: Rotary | None) -> KeyValue:
        """Keys and values of ``y`` [B, S, context_dim], for inference."""
        return self.inner.read_rows(lambda rows: self.y_norm(y[:, rows]), chunks, y_rope)

    def ask(
        self, x: Tensor, heard: KeyValue, x_rope: Rotary | None, y: Tensor | None = None, grid: Grid = ()
    ) -> Tensor:
        """What ``x`` [B, L, dim] hears, [B, L, dim]; ``y`` and its grid are needed where it is pooled too."""
        if self.pooled and y is not None:
            x = self.adaln(x, self.per_frame_pooling(y, grid))
        return self.inner.ask(self.inner.q(x), heard, x_rope)


class PerFrameAttentionPooling(nn.Module):
    """One vector a video frame: a learned probe attends to the frame's tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, dim))
        self.attention = ProbeAttention(dim, num_heads)
        self.layernorm = nn.LayerNorm(dim, eps=BRIDGE_EPS)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """[B, f*h*w, dim] to [B, f, dim]."""
        frames = x.unflatten(1, (grid[0], -1)).flatten(0, 1)  # [B*f, h*w, dim]
        pooled = self.attention(self.probe.expand(frames.shape[0], -1, -1), frames)
        return self.layernorm(pooled.squeeze(1)).unflatten(0, (x.shape[0], grid[0]))


class ProbeAttention(nn.Module):
    """torch's MultiheadAttention, its parameters and numbers, with ``out_proj`` called as the module that it is.

    torch's own reads that weight past the module, so that neither offloading nor LoRA would take part.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * dim, dim) / dim**0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """``query`` [B, 1, dim] attends to ``context`` [B, S, dim]."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        projected = [F.linear(x, *part) for x, *part in zip((query, context, context), weights, biases, strict=True)]
        heads = [part.unflatten(-1, (self.heads, -1)) for part in projected]
        return self.out_proj(dispatch_attention_fn(*heads).flatten(-2))


class AdaLayerNorm(nn.Module):
    """LayerNorm without weights, scaled and shifted by a condition that is stretched over time to x's length."""

    def __init__(self, dim: int, condition_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition_dim, 2 * dim)
        self.norm = nn.LayerNorm(dim, eps=1e-5, elementwise_affine=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``x`` [B, L, dim], ``condition`` [B, f, condition_dim]."""
        if condition.shape[1] != x.shape[1]:
            condition = F.interpolate(condition.transpose(1, 2), size=x.shape[1], mode="linear").transpose(1, 2)
        scale, shift = self.linear(F.silu(condition)).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


def interaction_layers(visual_layers: int, audio_layers: int, strategy: str) -> tuple[int, ...]:
    """The layers at which the towers exchange; layer i of one couples with layer i of the other."""
    common = min(visual_layers, audio_layers)
    if strategy == "full":
        return tuple(range(common))
    if strategy == "shallow_focus":
        return tuple(range(min(10, common // 3)))
    if strategy == "distributed":
        return tuple(range(0, common, 3))
    if strategy == "progressive":
        return tuple(range(min(8, common))) + tuple(range(8, common, 3))
    if strategy == "custom":
        return tuple(layer for layer in CUSTOM_LAYERS if layer < common)
    raise ValueError(f"'interaction_strategy' is {strategy!r}; this engine knows {', '.join(STRATEGIES)}.")
