"""What is trained, as one module: both video experts, the audio tower, the bridge, by the checkpoint's names."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mova.audio_dit import WanAudioModel
from mova.bridge import ConditionalCrossAttention, DualTowerConditionalBridge
from mova.checkpoint import load_component
from mova.joint import JointTransformer, Prediction
from mova.model import EXPERTS
from mova.tower import DiTBlock
from mova.video_dit import WanModel

TRAINED = (*EXPERTS, "audio_dit", "dual_tower_bridge")
BRIDGE = "dual_tower_bridge"
SHARED = ("audio_dit.", f"{BRIDGE}.")  # prefixes of what both experts use


class JointExperts(nn.Module):
    """All that a checkpoint has to learn; the names of its parameters begin with the components'."""

    def __init__(
        self,
        video_dit: WanModel,
        video_dit_2: WanModel,
        audio_dit: WanAudioModel,
        dual_tower_bridge: DualTowerConditionalBridge,
    ) -> None:
        super().__init__()
        self.video_dit = video_dit
        self.video_dit_2 = video_dit_2
        self.audio_dit = audio_dit
        self.dual_tower_bridge = dual_tower_bridge
        # In a dict, which nn.Module doesn't look into: the same parameters under one name only.
        self._joints = {
            name: JointTransformer(tower, audio_dit, dual_tower_bridge)
            for name, tower in zip(EXPERTS, (video_dit, video_dit_2), strict=True)
        }

    def forward(
        self,
        expert: str,
        latents: Tensor,
        audio_latents: Tensor,
        timestep: Tensor,
        audio_timestep: Tensor,
        prompt_embeds: Tensor,
        *,
        video_fps: float,
    ) -> Prediction:
        """What ``expert``, one of ``mova.model.EXPERTS``, predicts; the rest as ``JointTransformer.forward`` has it."""
        joint = self._joints[expert]
        return cast(
            Prediction,
            joint(latents, audio_latents, timestep, audio_timestep, prompt_embeds, video_fps=video_fps),
        )


def load_model(folder: Path, *, dtype: torch.dtype | None = torch.float32, trainable: bool = True) -> JointExperts:
    """The model of the checkpoint ``folder``, on the CPU.

    Args:
        folder: a checkpoint in the official layout.
        dtype: of its weights; None as stored. Small steps are lost in bfloat16, so what learns is best float32.
        trainable: whether all of it learns; if not, nothing does yet, and whoever adds adapters says what.

    Raises:
        CheckpointError: the checkpoint can't be used.
    """
    model = JointExperts(*(load_component(folder, name, dtype) for name in TRAINED))  # type: ignore[arg-type]
    if trainable:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # not the file's own memory, which may be mapped read-only
    return model.requires_grad_(trainable)


def checkpoint_activations(model: nn.Module) -> None:
    """Compute each block again on the way back instead of keeping what it computed: less memory, the same numbers.

    See Chen et al., "Training Deep Nets with Sublinear Memory Cost". It can't be undone.
    """
    for block in _blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _blocks(model: nn.Module) -> Iterable[nn.Module]:
    return (module for module in model.modules() if isinstance(module, DiTBlock | ConditionalCrossAttention))
