"""The audio VAE: DAC's convolutional encoder and decoder around a continuous latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

Factory = Callable[..., nn.Module]
DILATIONS = (1, 3, 9)


class DAC(ModelMixin, ConfigMixin):
    """Mono sound [B, 1, S] to latents [B, latent_dim, S / hop_length] and back.

    Latents are not normalised. ``codebook_*``, ``n_codebooks`` and ``quantizer_dropout`` belong to the discrete
    variant, which MOVA doesn't use; they are kept for config.json.
    """

    @register_to_config
    def __init__(
        self,
        encoder_dim: int = 64,
        encoder_rates: Sequence[int] = (2, 4, 8, 8),
        latent_dim: int | None = None,
        decoder_dim: int = 1536,
        decoder_rates: Sequence[int] = (8, 8, 4, 2),
        n_codebooks: int = 9,
        codebook_size: int = 1024,
        codebook_dim: int = 8,
        quantizer_dropout: bool = False,
        sample_rate: int = 44100,
        continuous: bool = False,
        use_weight_norm: bool = False,
    ) -> None:
        super().__init__()
        if not continuous:
            raise ValueError("config.json sets 'continuous' to false; this engine knows MOVA's continuous DAC only.")
        latent_dim = latent_dim or encoder_dim * 2 ** len(encoder_rates)
        self.hop_length = prod(encoder_rates)
        conv, transposed = (NormedConv1d, NormedConvTranspose1d) if use_weight_norm else (nn.Conv1d, nn.ConvTranspose1d)
        self.encoder = Encoder(encoder_dim, encoder_rates, latent_dim, conv)
        self.quant_conv = nn.Conv1d(latent_dim, 2 * latent_dim, 1)
        self.post_quant_conv = nn.Conv1d(latent_dim, latent_dim, 1)
        self.decoder = Decoder(latent_dim, decoder_dim, decoder_rates, conv, transposed)

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return int(self.config["sample_rate"])

    def preprocess(self, audio: Tensor) -> Tensor:
        """[B, 1, S], zeros appended up to a multiple of ``hop_length``."""
        return F.pad(audio, (0, -audio.shape[-1] % self.hop_length))

    def encode(self, audio: Tensor) -> DiagonalGaussianDistribution:
        """The posterior over latents [B, latent_dim, S / hop_length] of ``audio`` [B, 1, S], preprocessed."""
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(audio)))

    def decode(self, latents: Tensor) -> Tensor:
        """Sound [B, 1, N * hop_length] in -1 to 1 of ``latents`` [B, latent_dim, N]."""
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, audio: Tensor) -> Tensor:
        """``audio`` [B, 1, S] through encoder and decoder, at its own length."""
        return self.decode(self.encode(self.preprocess(audio)).mode())[..., : audio.shape[-1]]

    @torch.no_grad()
    def fuse_weight_norm(self) -> None:
        """Turn each normed convolution into a plain one with the same weight, as the released files have it."""
        for module in self.modules():
            if isinstance(module, NormedConv1d | NormedConvTranspose1d):
                _fuse(module)
        self.register_to_config(use_weight_norm=False)


class Encoder(nn.Module):
    """[B, 1, S] to [B, latent_dim, S / prod(rates)]."""

    def __init__(self, dim: int, rates: Sequence[int], latent_dim: int, conv: Factory) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(1, dim, 7, padding=3)]
        for rate in rates:
            layers.append(EncoderBlock(dim, rate, conv))
            dim *= 2
        self.block = nn.Sequential(*layers, Snake1d(dim), conv(dim, latent_dim, 3, padding=1))

    def forward(self, audio: Tensor) -> Tensor:
        return self.block(audio)


class EncoderBlock(nn.Module):
    """Three residual units, then a strided convolution that doubles the channels."""

    def __init__(self, dim: int, rate: int, conv: Factory) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualUnit(dim, dilation, conv) for dilation in DILATIONS),
            Snake1d(dim),
            conv(dim, 2 * dim, 2 * rate, stride=rate, padding=ceil(rate / 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Decoder(nn.Module):
    """[B, latent_dim, N] to [B, 1, N * prod(rates)]."""

    def __init__(self, latent_dim: int, dim: int, rates: Sequence[int], conv: Factory, transposed: Factory) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(latent_dim, dim, 7, padding=3)]
        for rate in rates:
            layers.append(DecoderBlock(dim, rate, conv, transposed))
            dim //= 2
        self.model = nn.Sequential(*layers, Snake1d(dim), conv(dim, 1, 7, padding=3), nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        return self.model(latents)


class DecoderBlock(nn.Module):
    """A strided transposed convolution that halves the channels, then three residual units."""

    def __init__(self, dim: int, rate: int, conv: Factory, transposed: Factory) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake1d(dim),
            transposed(dim, dim // 2, 2 * rate, stride=rate, padding=ceil(rate / 2), output_padding=rate % 2),
            *(ResidualUnit(dim // 2, dilation, conv) for dilation in DILATIONS),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ResidualUnit(nn.Module):
    """A dilated and a pointwise convolution around a skip."""

    def __init__(self, dim: int, dilation: int, conv: Factory) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake1d(dim), conv(dim, dim, 7, dilation=dilation, padding=3 * dilation), Snake1d(dim), conv(dim, dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Snake1d(nn.Module):
    """x + sin(alpha x)^2 / alpha, alpha per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


class NormedConv1d(nn.Conv1d):
    """Conv1d that stores ``weight_g * weight_v / |weight_v|`` under the names of older torch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _split_weight(self)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, _normed_weight(self), self.bias)


class NormedConvTranspose1d(nn.ConvTranspose1d):
    """ConvTranspose1d, stored likewise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _split_weight(self)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        geometry: Any = (self.stride, self.padding, self.output_padding)
        return F.conv_transpose1d(input, _normed_weight(self), self.bias, *geometry)


def _split_weight(conv: nn.Module) -> None:
    weight = conv.get_parameter("weight").detach()
    del conv.weight
    conv.register_parameter("weight_g", nn.Parameter(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)))
    conv.register_parameter("weight_v", nn.Parameter(weight))


def _normed_weight(conv: nn.Module) -> Tensor:
    return torch._weight_norm(conv.get_parameter("weight_v"), conv.get_parameter("weight_g"), 0)


def _fuse(conv: NormedConv1d | NormedConvTranspose1d) -> None:
    weight = _normed_weight(conv)
    del conv.weight_g, conv.weight_v
    conv.weight = nn.Parameter(weight)
    plain: Any = nn.Conv1d if isinstance(conv, NormedConv1d) else nn.ConvTranspose1d
    conv.__class__ = plain
