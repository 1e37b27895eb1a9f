"""The video VAE around diffusers' AutoencoderKLWan: the first-frame condition, and decoding frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from torch import Tensor

from mova.spec import FRAME_GROUP
from mova.vae_kernels import VaeKernels
from mova.vae_tiles import TiledBlocks, decoder_blocks, encoder_blocks, new_history, run_blocks

Frames = Callable[[Tensor, bool], Tensor]  # a group of frames through half a VAE, and whether it is the first


@torch.no_grad()
def encode_condition(
    vae: AutoencoderKLWan,
    first_frame: Tensor,
    num_frames: int,
    last_frame: Tensor | None = None,
    *,
    tile: int | None = None,
    waiting: torch.device | None = None,
) -> Tensor:
    """What the video DiT sees beside the noise: 4 mask channels, then 16 latent channels, [B, 20, T, h, w] float32.

    Bit for bit as if the whole clip were encoded, but only ``condition_frames`` of it are, a group at a time.

    Args:
        vae: the checkpoint's video VAE; the frames are encoded in its dtype.
        first_frame: [B, 3, H, W] in -1 to 1.
        num_frames: F = 4 * (T - 1) + 1; frames that are not given are mid-grey (zero).
        last_frame: as ``first_frame``; kept as the clip's last frame.
        tile, waiting: as ``decode_frames`` takes them.

    Raises:
        ValueError: one frame can't be both the first and the last.
    """
    if last_frame is not None and num_frames == 1:
        raise ValueError("A clip of one frame has no room for a last frame beside the first; ask for 5 frames or more.")
    encode = _encoder(vae, tile, waiting)
    groups = (num_frames - 1) // FRAME_GROUP + 1
    with VaeKernels(vae.dtype):
        encoded = torch.cat(list(_encode_groups(vae, encode, first_frame, groups, last_frame)), dim=2)
        mean, _ = vae.quant_conv(encoded).float().chunk(2, dim=1)
    latents = normalise(vae, mean)
    # The VAE sees frame 0 alone and then groups of four: frame 0 stands four times, and four frames share a latent.
    mask = latents.new_zeros(latents.shape[0], FRAME_GROUP, *latents.shape[2:])
    mask[:, :, 0] = 1
    if last_frame is not None:
        mask[:, -1, -1] = 1
    return torch.cat((mask, latents), dim=1)


def condition_frames(vae: AutoencoderKLWan, num_frames: int, *, last_frame: bool = False) -> int:
    """How many frames ``encode_condition`` encodes for a clip of ``num_frames``: 117 of 193 with the released VAE.

    Read from the encoder's convolutions; nothing is computed, so a VAE on the meta device will do.
    """
    return min(num_frames, 1 + FRAME_GROUP * (_settled_group(vae) + last_frame))


@torch.no_grad()
def decode_frames(
    vae: AutoencoderKLWan, latents: Tensor, tile: int | None = None, waiting: torch.device | None = None
) -> Iterator[Tensor]:
    """Decode normalised ``latents`` [B, 16, T, h, w] one latent frame at a time.

    Yields [B, 3, n, H, W] in -1 to 1, float32: one frame first, then four at a time. Equal to ``vae.decode`` of the
    whole, whose loop this is, without holding the clip.

    In tiles it is the same picture but for rounding (see ``mova.vae_tiles``): the attention in the middle, which sees
    all of a frame, is computed whole. ``mova.vae_costs`` says what either takes.

    Args:
        vae: the checkpoint's video VAE, which decodes in its dtype.
        latents: as the denoising leaves them.
        tile: height and width in pixels of the tiles that the large pictures are computed in, margin and all; the
            whole picture if it is no larger, or if None.
        waiting: where what each tile remembers waits for its turn; on the VAE's device if None. On the CPU it takes
            RAM and time, and VRAM is left for little more than one tile.

    Raises:
        ValueError: the tile is all margin.
    """
    with VaeKernels(vae.dtype):
        z = vae.post_quant_conv(denormalise(vae, latents).to(vae.dtype))
    decode = _decoder(vae, tile, waiting)
    for index in range(z.shape[2]):
        with VaeKernels(vae.dtype):
            frames = decode(z[:, :, index : index + 1], index == 0)
        yield frames.float().clamp(-1, 1)


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """(latents - mean) / std per channel, with the constants of the VAE's config."""
    mean, std = _statistics(vae, latents)
    return (latents - mean) * (1 / std)


def denormalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """latents * std + mean per channel."""
    mean, std = _statistics(vae, latents)
    return latents * std + mean


def _encode_groups(
    vae: AutoencoderKLWan, encode: Frames, first_frame: Tensor, groups: int, last_frame: Tensor | None
) -> Iterator[Tensor]:
    """What the encoder makes of each group: [B, C, 1, h, w], ``groups`` of them, the settled ones over and over."""
    first_frame = first_frame.to(vae.dtype).unsqueeze(2)
    yield encode(first_frame, True)
    grey = torch.zeros_like(first_frame)
    settled = _settled_group(vae)
    for index in range(1, groups - (last_frame is not None)):
        if index <= settled:
            encoded = encode(grey.expand(-1, -1, FRAME_GROUP, -1, -1), False)
        yield encoded
    if last_frame is not None:
        greys = [grey] * (FRAME_GROUP - 1)
        yield encode(torch.cat((*greys, last_frame.to(vae.dtype).unsqueeze(2)), dim=2), False)


def _settled_group(vae: AutoencoderKLWan) -> int:
    """The first group of grey frames that is encoded as all later ones are, and after which the history stays too.

    From frame 1 on the encoder is given the same frame again and again. The result at place j of a causal convolution
    of kernel k and stride s looks back from place s j as far as s j - (k - 1), so it is the same from the first j on
    for which that is no longer among the places that differ.
    """
    settled = 1
    for part in vae.encoder.modules():
        if isinstance(part, WanCausalConv3d):
            settled = -(-(settled + part.kernel_size[0] - 1) // part.stride[0])
    return settled


def _encoder(vae: AutoencoderKLWan, tile: int | None, waiting: torch.device | None) -> Frames:
    """The encoder as a function of one group of frames after another, with a history of its own."""
    patch = vae.config.patch_size or 1
    large, small = encoder_blocks(vae.encoder)
    tiled = TiledBlocks(large, patch, tile, waiting)
    history = new_history(small)

    def encode(frames: Tensor, first: bool) -> Tensor:
        return run_blocks(small, tiled(patchify(frames, patch), first), history, first)

    return encode


def _decoder(vae: AutoencoderKLWan, tile: int | None, waiting: torch.device | None) -> Frames:
    """The decoder as a function of one latent frame after another; two clips may be decoded by turns, or given up."""
    patch = vae.config.patch_size or 1
    small, large = decoder_blocks(vae.decoder)
    tiled = TiledBlocks(large, patch, tile, waiting)
    history = new_history(small)

    def decode(latents: Tensor, first: bool) -> Tensor:
        return unpatchify(tiled(run_blocks(small, latents, history, first), first), patch)

    return decode


def _statistics(vae: AutoencoderKLWan, latents: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(values, dtype=latents.dtype, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
