"""The video VAE around diffusers' AutoencoderKLWan: the first-frame condition, and decoding frame by frame."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from torch import Tensor

from mova.spec import FRAME_GROUP


@torch.no_grad()
def encode_condition(
    vae: AutoencoderKLWan, first_frame: Tensor, num_frames: int, last_frame: Tensor | None = None
) -> Tensor:
    """What the video DiT sees beside the noise: 4 mask channels, then 16 latent channels, [B, 20, T, h, w] float32.

    Args:
        vae: the checkpoint's video VAE; the frames are encoded in its dtype.
        first_frame: [B, 3, H, W] in -1 to 1.
        num_frames: F = 4 * (T - 1) + 1; frames that are not given are mid-grey (zero).
        last_frame: as ``first_frame``; kept as the clip's last frame.

    Raises:
        ValueError: one frame can't be both the first and the last.
    """
    if last_frame is not None and num_frames == 1:
        raise ValueError("A clip of one frame has no room for a last frame beside the first; ask for 5 frames or more.")
    batch, channels, height, width = first_frame.shape
    video = first_frame.new_zeros(batch, channels, num_frames, height, width)
    mask = first_frame.new_zeros(batch, num_frames)
    video[:, :, 0], mask[:, 0] = first_frame, 1
    if last_frame is not None:
        video[:, :, -1], mask[:, -1] = last_frame, 1
    latents = normalise(vae, vae.encode(video.to(vae.dtype)).latent_dist.mode().float())
    # The VAE sees frame 0 alone and then groups of four: frame 0 stands four times, and four frames share a latent.
    groups = torch.cat((mask[:, :1].repeat(1, FRAME_GROUP), mask[:, 1:]), dim=1).unflatten(1, (-1, FRAME_GROUP))
    channels_first = groups.transpose(1, 2)[..., None, None].float()  # [B, 4, T, 1, 1]
    return torch.cat((channels_first.expand(-1, -1, -1, *latents.shape[-2:]), latents), dim=1)


@torch.no_grad()
def decode_frames(vae: AutoencoderKLWan, latents: Tensor) -> Iterator[Tensor]:
    """Decode normalised ``latents`` [B, 16, T, h, w] one latent frame at a time.

    Yields [B, 3, n, H, W] in -1 to 1, float32: one frame first, then four at a time. Equal to ``vae.decode`` of the
    whole, whose loop this is, without holding the clip.
    """
    z = vae.post_quant_conv(denormalise(vae, latents).to(vae.dtype))
    # A history of its own, not the VAE's: two clips may be decoded by turns, or one given up.
    history: list[Tensor | None] = [None] * sum(isinstance(part, WanCausalConv3d) for part in vae.decoder.modules())
    for index in range(z.shape[2]):
        group = z[:, :, index : index + 1]
        frames = vae.decoder(group, feat_cache=history, feat_idx=[0], first_chunk=index == 0)
        if vae.config.patch_size is not None:
            frames = unpatchify(frames, patch_size=vae.config.patch_size)
        yield frames.float().clamp(-1, 1)


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """(latents - mean) / std per channel, with the constants of the VAE's config."""
    mean, std = _statistics(vae, latents)
    return (latents - mean) * (1 / std)


def denormalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """latents * std + mean per channel."""
    mean, std = _statistics(vae, latents)
    return latents * std + mean


def _statistics(vae: AutoencoderKLWan, latents: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(values, dtype=latents.dtype, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
