"""The video tower: Wan2.2-I2V's transformer in its original naming. Two of them are the high- and low-noise experts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mova.attention import Rotary
from mova.tower import Tower, even_third, refuse_unsupported, rope_angles, rotary_from_angles


class WanModel(Tower):
    """Velocity of the video latents.

    ``in_dim`` is 36 for MOVA: 16 noise, 4 mask and 16 image latents. Arguments from ``require_vae_embedding`` on
    describe the checkpoint and change nothing here; they are kept so that a saved config.json equals the one read.
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
    ) -> None:
        super().__init__()
        refuse_unsupported(
            has_image_input=has_image_input,
            has_image_pos_emb=has_image_pos_emb,
            has_ref_conv=has_ref_conv,
            add_control_adapter=add_control_adapter,
        )
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
        even_third(self.head_dim)
        patch = (patch_size[0], patch_size[1], patch_size[2])
        self.patch_size = patch
        self.patch_embedding = nn.Conv3d(in_dim, dim, kernel_size=patch, stride=patch)

    def rope(self, grid: tuple[int, ...], device: torch.device) -> Rotary:
        """Tables [f * h * w, 1, head_dim / 2] of a (f, h, w) grid: frame, height and width angles side by side."""
        return rotary_from_angles(video_rope_angles(self.head_dim, grid, device))

    def unpatchify(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """[B, f*h*w, pf*ph*pw*C] (channel fastest) to [B, C, f*pf, h*ph, w*pw]."""
        f, h, w = grid
        pf, ph, pw = self.patch_size
        patches = tokens.reshape(tokens.shape[0], f, h, w, pf, ph, pw, -1)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def video_rope_angles(head_dim: int, grid: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """float64 [f * h * w, head_dim / 2]: height and width own ``head_dim // 3`` channels each, frames the rest."""
    third = even_third(head_dim)
    axes = [
        rope_angles(width, torch.arange(length, device=device))
        for width, length in zip((head_dim - 2 * third, third, third), grid, strict=True)
    ]
    shaped = [axis.view([-1 if k == i else 1 for k in range(3)] + [axis.shape[-1]]) for i, axis in enumerate(axes)]
    return torch.cat([axis.expand(*grid, -1) for axis in shaped], dim=-1).flatten(0, 2)
