"""What is counted and measured: released sizes, what the original needs for them, a model on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from mova.audio_dit import WanAudioModel
from mova.bridge import DualTowerConditionalBridge
from mova.costs import shape_of
from mova.eightbit import KINDS, is_matrix
from mova.joint import JointTransformer
from mova.model import Model, Tower
from mova.quantise import DTYPES
from mova.quantised import QuantisedLinear
from mova.spec import MAX_PROMPT_TOKENS, ClipSpec
from mova.video_dit import WanModel

GB, TB, PF = 1e9, 1e12, 1e15
META = torch.device("meta")


@dataclass(frozen=True)
class Original:
    """The original implementation at one size, published or counted from its code; None where neither was done."""

    flops: float
    block_peak: float
    traffic: float | None = None
    streamed_bytes: float | None = None
    syncs: int | None = None
    copies: int | None = None
    pinned_share: float | None = None  # pinned bytes / weight bytes
    encoded_frames: int = 193


@dataclass(frozen=True)
class Size:
    """A released size: 8 seconds at 24 frames a second."""

    name: str
    spec: ClipSpec
    original: Original


SMALL = Size(
    "360p",
    ClipSpec(height=352, width=640, num_frames=193, fps=24),
    Original(5.532 * PF, 5.90 * GB, 2.90 * TB, 73.5 * GB, syncs=3112, copies=5300, pinned_share=1.48),
)
LARGE = Size("720p", ClipSpec(height=720, width=1280, num_frames=193, fps=24), Original(61.13 * PF, 23.6 * GB))


@dataclass(frozen=True, eq=False)
class Inputs:
    """What one evaluation is given besides texts: latents [1, 36, T, h, w] and [1, C, N], timesteps [1]."""

    latents: Tensor
    audio_latents: Tensor
    timestep: Tensor
    audio_timestep: Tensor
    video_fps: float

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order in which the model takes them."""
        return self.latents, self.audio_latents, self.timestep, self.audio_timestep


def inputs_for(model: Model, spec: ClipSpec, device: torch.device = META) -> Inputs:
    """Standard normal noise, in the middle of the schedule."""
    shape = shape_of(model, spec)
    latents = torch.randn(1, model.experts[0].in_dim, *shape.latents, device=device)
    audio = torch.randn(1, model.audio.in_dim, shape.audio, device=device)
    timestep = torch.full((1,), 500.0, device=device)
    return Inputs(latents, audio, timestep, timestep.clone(), spec.fps)


def prompt_for(model: Model, device: torch.device = META, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """An encoded prompt [1, 512, text_dim] of standard normal numbers."""
    return torch.randn(1, MAX_PROMPT_TOKENS, model.text.dim, device=device, dtype=dtype)


def joint_of(
    model: Model,
    layers: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    *,
    weights: str = "stored",
    products: str = "plain",
) -> JointTransformer:
    """The first expert, the audio tower and the bridge of ``model`` on the meta device.

    Args:
        model: whose widths.
        layers: of the video and of the audio tower, if other than the model's.
        dtype: of the numbers.
        weights: "stored", or the kind of 8 bits that matrices are kept in.
        products: how those multiply, see ``mova.quantised``.
    """
    video_layers, audio_layers = layers or (model.experts[0].layers, model.audio.layers)
    with META:
        video = WanModel(**_tower(model.experts[0]), patch_size=model.experts[0].patch, num_layers=video_layers)
        audio = WanAudioModel(
            **_tower(model.audio), patch_size=model.audio.patch, num_layers=audio_layers, vae_type="dac"
        )
        bridge = DualTowerConditionalBridge(
            visual_layers=video_layers,
            audio_layers=audio_layers,
            visual_hidden_dim=model.experts[0].dim,
            audio_hidden_dim=model.audio.dim,
            audio_fps=model.sound.sample_rate / model.sound.hop,
            head_dim=model.bridge.head_dim,
            interaction_strategy="full",
        )
    joint: JointTransformer = ready(JointTransformer(video, audio, bridge), dtype)
    if weights != "stored":
        _reduce(joint.video_dit, "video_dit", weights, products)
        _reduce(joint.bridge, "dual_tower_bridge", weights, products)
    return joint


def video_vae_of(model: Model, dtype: torch.dtype = torch.bfloat16) -> AutoencoderKLWan:
    """The video VAE of ``model`` on the meta device."""
    vae = model.vae
    with META:
        module = AutoencoderKLWan(
            base_dim=vae.encoder_base,
            decoder_base_dim=vae.decoder_base,
            dim_mult=list(vae.multiples),
            num_res_blocks=vae.blocks,
            temperal_downsample=list(vae.halves_time),
            z_dim=vae.z_dim,
        )
    return ready(module, dtype)


def text_encoder_of(model: Model, dtype: torch.dtype = torch.bfloat16) -> UMT5EncoderModel:
    """The text encoder of ``model`` on the meta device."""
    text = model.text
    config = UMT5Config(
        vocab_size=text.table.elements // text.dim,
        d_model=text.dim,
        d_kv=text.head_dim,
        d_ff=text.ffn_dim,
        num_layers=text.layers,
        num_heads=text.num_heads,
        feed_forward_proj="gated-gelu",
    )
    config._attn_implementation = "eager"  # as ``mova.checkpoint`` loads it
    with META:
        module = UMT5EncoderModel(config)
    return ready(module, dtype)


def ready(module: Any, dtype: torch.dtype) -> Any:
    """``module`` for inference, its numbers of type ``dtype``."""
    return nn.Module.to(module, dtype).eval().requires_grad_(False)


def _tower(tower: Tower) -> Mapping[str, Any]:
    names = ("dim", "ffn_dim", "num_heads", "in_dim", "out_dim", "text_dim", "freq_dim")
    return {"eps": 1e-6, **{name: getattr(tower, name) for name in names}}


def _reduce(module: nn.Module, component: str, kind: str, products: str) -> None:
    """Matrices in 8 bits, as ``quantised.load_quantised`` has them."""
    for path, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and is_matrix(component, f"{path}.weight"):
            with META:
                reduced = QuantisedLinear(layer.in_features, layer.out_features, DTYPES[KINDS[kind]], bias=False)
            reduced.bias, reduced.products = layer.bias, products
            module.set_submodule(path, reduced)
