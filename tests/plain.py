"""The plain path: both towers evaluated as the formulas are written down, one branch after the other.

The evaluation is compared with it, in its numbers and in its speed: nothing is cached, shared, fused or
done in place. It takes the weights from the engine's modules, and none of their code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from mova.joint import JointTransformer

Turn = Callable[[Tensor], Tensor]
THETA = 10_000.0
EPS = 1e-6  # of the bridge's norms


@torch.no_grad()
def evaluate_plainly(
    joint: JointTransformer,
    latents: Tensor,
    audio_latents: Tensor,
    timestep: Tensor,
    audio_timestep: Tensor,
    prompt_embeds: Tensor,
    *,
    video_fps: float,
    use_bridge: bool = True,
    laid_out: bool = True,
) -> tuple[Tensor, Tensor]:
    """Velocities of video and audio; the arguments of ``JointTransformer.forward``.

    ``laid_out``: tokens lie row by row. False leaves them as the convolution does, channel by channel, as the first
    engine did: the same numbers but for the last bit of a matrix product, which takes another path then.
    """
    video_dit, audio_dit, bridge = joint.video_dit, joint.audio_dit, joint.bridge
    video = embed(video_dit, latents, timestep, prompt_embeds)
    audio = embed(audio_dit, audio_latents, audio_timestep, prompt_embeds)
    if laid_out:
        video.x, audio.x = video.x.contiguous(), audio.x.contiguous()
    turns = bridge_turns(bridge.config, video_fps, video.grid, audio.x.shape[1], video.x.dtype)
    for layer, block in enumerate(video_dit.blocks):
        if use_bridge and layer in bridge.layers:
            video.x, audio.x = exchange(bridge, layer, video, audio, turns)
        video.x = advance(block, video)
        if layer < len(audio_dit.blocks):
            audio.x = advance(audio_dit.blocks[layer], audio)
    frames, height, width = video.grid
    pf, ph, pw = video_dit.patch_size
    patches = head(video_dit.head, video).reshape(len(latents), frames, height, width, pf, ph, pw, -1)
    picture = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    sound = head(audio_dit.head, audio).unflatten(-1, (audio_dit.patch_size, -1)).permute(0, 3, 1, 2).flatten(2)
    return picture, sound


@dataclass
class State:
    """A tower on its way: x [B, L, dim], context [B, S, dim], t [B, dim], t_mod [B, 6, dim], and how heads turn."""

    x: Tensor
    context: Tensor
    t: Tensor
    t_mod: Tensor
    turn: Turn
    grid: tuple[int, ...]


def embed(tower: Any, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor) -> State:
    patches = tower.patch_embedding(latents.to(tower.dtype))
    grid = tuple(patches.shape[2:])
    half = tower.freq_dim // 2
    frequencies = THETA ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = timestep.double().unsqueeze(-1) * frequencies
    wave = torch.cat((angles.cos(), angles.sin()), dim=-1).to(timestep.dtype)
    first, second, projection = tower.time_embedding[0], tower.time_embedding[2], tower.time_projection[1]
    t = linear_float32(second, F.silu(linear_float32(first, wave)))
    t_mod = linear_float32(projection, F.silu(t)).unflatten(1, (6, tower.dim))
    context = tower.text_embedding(prompt_embeds.to(tower.dtype))
    turn = tower_turn(tower_angles(tower, grid))
    x = patches.flatten(2).transpose(1, 2)
    return State(x, context, t.to(tower.dtype), t_mod.to(tower.dtype), turn, grid)


def linear_float32(linear: Any, x: Tensor) -> Tensor:
    return F.linear(x.float(), linear.weight.float(), linear.bias.float())


def tower_angles(tower: Any, grid: tuple[int, ...]) -> Tensor:
    """float64 [L, head_dim / 2]."""
    third = tower.head_dim // 3
    rest = tower.head_dim - 2 * third
    if len(grid) == 3:
        axes = [axis_angles(width, torch.arange(n)) for width, n in zip((rest, third, third), grid, strict=True)]
        shaped = [axis.view([-1 if k == i else 1 for k in range(3)] + [axis.shape[-1]]) for i, axis in enumerate(axes)]
        return torch.cat([axis.expand(*grid, -1) for axis in shaped], dim=-1).flatten(0, 2)
    steps = torch.arange(grid[0], dtype=torch.float64)
    if tower.vae_type == "dac":
        return axis_angles(tower.head_dim, steps)
    turned = axis_angles(rest, steps * (4 / (44_100 / 2_048)))
    return F.pad(turned, (0, tower.head_dim // 2 - turned.shape[-1]))


def axis_angles(width: int, positions: Tensor) -> Tensor:
    exponents = torch.arange(0, width, 2, dtype=torch.float64)[: width // 2] / width
    return torch.outer(positions.double(), THETA**-exponents)


def tower_turn(angles: Tensor) -> Turn:
    cos, sin = angles.unsqueeze(1).cos().float(), angles.unsqueeze(1).sin().float()

    def turn(x: Tensor) -> Tensor:
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)

    return turn


def bridge_turns(
    config: Any, video_fps: float, grid: tuple[int, ...], audio_steps: int, dtype: torch.dtype
) -> tuple[Turn | None, Turn | None]:
    if not config["apply_cross_rope"]:
        return None, None
    audio_fps, frames = config["audio_fps"], torch.arange(grid[0], dtype=torch.float32)
    positions = frames * (audio_fps / (video_fps / 4))
    if config["apply_first_frame_bias_in_rope"]:
        later = (1 / video_fps + (frames - 1) * (4 / video_fps)) * audio_fps
        positions = torch.where(frames > 0, later, torch.zeros_like(frames))
    exponents = torch.arange(0, config["head_dim"], 2, dtype=torch.float32) / config["head_dim"]

    def turn_at(positions: Tensor) -> Turn:
        angles = torch.outer(positions, 1.0 / THETA**exponents).repeat(1, 2).unsqueeze(1)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)

        def turn(x: Tensor) -> Tensor:
            first, second = x.chunk(2, dim=-1)
            return x * cos + torch.cat((-second, first), dim=-1) * sin

        return turn

    tokens = positions.repeat_interleave(grid[1] * grid[2])
    return turn_at(tokens), turn_at(torch.arange(audio_steps, dtype=torch.float32))


def attend(attn: Any, x: Tensor, context: Tensor, turn: Turn | None = None, context_turn: Turn | None = None) -> Tensor:
    query = attn.norm_q(attn.q(x)).unflatten(-1, (attn.heads, -1))
    key = attn.norm_k(attn.k(context)).unflatten(-1, (attn.heads, -1))
    value = attn.v(context).unflatten(-1, (attn.heads, -1))
    query = turn(query) if turn else query
    key = context_turn(key) if context_turn else key
    return attn.o(dispatch_attention_fn(query, key, value).flatten(-2))


def advance(block: Any, state: State) -> Tensor:
    x = state.x
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
        part.unsqueeze(1) for part in (block.modulation.to(state.t_mod.dtype) + state.t_mod).unbind(-2)
    )
    normed = block.norm1(x) * (1 + scale_a) + shift_a
    x = x + gate_a * attend(block.self_attn, normed, normed, state.turn, state.turn)
    x = x + attend(block.cross_attn, block.norm3(x), state.context)
    return x + gate_f * block.ffn(block.norm2(x) * (1 + scale_f) + shift_f)


def head(module: Any, state: State) -> Tensor:
    t = state.t.unsqueeze(-2)
    shift, scale = (part.unsqueeze(1) for part in (module.modulation.to(t.dtype) + t).unbind(-2))
    return module.head(module.norm(state.x) * (1 + scale) + shift)


def exchange(
    bridge: Any, layer: int, video: State, audio: State, turns: tuple[Turn | None, Turn | None]
) -> tuple[Tensor, Tensor]:
    a2v, v2a = bridge.audio_to_video_conditioners[str(layer)], bridge.video_to_audio_conditioners[str(layer)]
    to_video = attend(a2v.inner, video.x, a2v.y_norm(audio.x), *turns)
    asking = pooled(v2a, audio.x, video) if bridge.config["pooled_adaln"] else audio.x
    to_audio = attend(v2a.inner, asking, v2a.y_norm(video.x), *turns[::-1])
    scale = bridge.condition_scale if bridge.config["trainable_condition_scale"] else 1.0
    return video.x + to_video * scale, audio.x + to_audio * scale


def pooled(conditioner: Any, x: Tensor, video: State) -> Tensor:
    pooling, adaln = conditioner.per_frame_pooling, conditioner.adaln
    frames = video.x.unflatten(1, (video.grid[0], -1)).flatten(0, 1)
    probe = pooling.probe.expand(frames.shape[0], -1, -1)
    attention = pooling.attention
    projections = zip(
        (probe, frames, frames), attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
    )
    heads = [F.linear(*arguments).unflatten(-1, (attention.heads, -1)) for arguments in projections]
    summary = pooling.layernorm(attention.out_proj(dispatch_attention_fn(*heads).flatten(-2)).squeeze(1))
    condition = summary.unflatten(0, (x.shape[0], video.grid[0]))
    if condition.shape[1] != x.shape[1]:
        condition = F.interpolate(condition.transpose(1, 2), size=x.shape[1], mode="linear").transpose(1, 2)
    scale, shift = adaln.linear(F.silu(condition)).chunk(2, dim=-1)
    return adaln.norm(x) * (1 + scale) + shift
