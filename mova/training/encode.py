"""Clips as the towers see them, computed once: latents, first-frame condition and text, kept in a folder of a run."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from mova.audio_vae import DAC
from mova.vae_kernels import VaeKernels
from mova.video_vae import normalise


@torch.no_grad()
def encode_video(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Normalised latents [B, 16, T, h, w], float32, of ``video`` [B, 3, F, H, W] in -1 to 1: the posterior's mode."""
    with VaeKernels(vae.dtype):
        latents = vae.encode(video.to(vae.dtype)).latent_dist.mode().float()
    return normalise(vae, latents)


@torch.no_grad()
def encode_audio(audio_vae: DAC, audio: Tensor) -> Tensor:
    """Latents [B, C, N], float32, of mono ``audio`` [B, 1, S] in -1 to 1: the posterior's mode, not normalised."""
    padded = audio_vae.preprocess(audio.to(next(audio_vae.parameters()).dtype))
    latents: Tensor = audio_vae.encode(padded).mode()
    return latents.float()
