"""The audio tower: the same transformer over a line of audio latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mova.attention import Rotary
from mova.tower import Tower, refuse_unsupported, rope_angles, rotary_from_angles

# "oobleck" checkpoints place latents of 44.1 kHz / 2048 on the time line of video latents of 4 frames.
OOBLECK_POSITION_SCALE = 4 / (44_100 / 2_048)


class WanAudioModel(Tower):
    """Velocity of the audio latents [B, out_dim, N].

    ``vae_type`` chooses the rotary table: "dac" turns every channel, "oobleck" the first third at scaled positions.
    Other arguments without effect are kept as in ``WanModel``.
    """

    @register_to_config
    def __init__(
        self,
        dim: int,
        in_dim: int,
        ffn_dim: int,
        out_dim: int,
        text_dim: int,
        freq_dim: int,
        eps: float,
        patch_size: Sequence[int],
        num_heads: int,
        num_layers: int,
        has_image_input: bool = False,
        has_image_pos_emb: bool = False,
        has_ref_conv: bool = False,
        add_control_adapter: bool = False,
        in_dim_control_adapter: int = 24,
        seperated_timestep: bool = False,
        require_vae_embedding: bool = True,
        require_clip_embedding: bool = False,
        fuse_vae_embedding_in_latents: bool = False,
        vae_type: str = "oobleck",
    ) -> None:
        super().__init__()
        refuse_unsupported(
            has_image_input=has_image_input,
            has_image_pos_emb=has_image_pos_emb,
            has_ref_conv=has_ref_conv,
            add_control_adapter=add_control_adapter,
        )
        if vae_type not in ("dac", "oobleck"):
            raise ValueError(f"config.json sets 'vae_type' to {vae_type!r}; this engine knows 'dac' and 'oobleck'.")
        self._build(
            dim=dim,
            ffn_dim=ffn_dim,
            text_dim=text_dim,
            freq_dim=freq_dim,
            out_features=out_dim * math.prod(patch_size),
            eps=eps,
            num_heads=num_heads,
            num_layers=num_layers,
        )
        self.vae_type = vae_type
        self.patch_size = patch_size[0]
        self.patch_embedding = nn.Conv1d(in_dim, dim, kernel_size=self.patch_size, stride=self.patch_size)

    def rope(self, grid: tuple[int, ...], device: torch.device) -> Rotary:
        """Tables [N, 1, head_dim / 2]."""
        return rotary_from_angles(audio_rope_angles(self.head_dim, grid[0], self.vae_type, device))

    def unpatchify(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """[B, N, p*C] (channel fastest) to [B, C, N*p]."""
        return tokens.unflatten(-1, (self.patch_size, -1)).permute(0, 3, 1, 2).flatten(2)


def audio_rope_angles(head_dim: int, steps: int, vae_type: str, device: torch.device | None = None) -> Tensor:
    """float64 [steps, head_dim / 2]; an angle of 0 leaves a pair unturned."""
    positions = torch.arange(steps, device=device, dtype=torch.float64)
    if vae_type == "dac":
        return rope_angles(head_dim, positions)
    turned = rope_angles(head_dim - 2 * (head_dim // 3), positions * OOBLECK_POSITION_SCALE)
    return torch.nn.functional.pad(turned, (0, head_dim // 2 - turned.shape[-1]))
