"""Both towers and the bridge as one model: the loop over their layers. It has no parameters of its own."""

from __future__ import annotations

from torch import Tensor, nn

from mova.audio_dit import WanAudioModel
from mova.bridge import DualTowerConditionalBridge
from mova.tower import TowerState
from mova.video_dit import WanModel


class JointTransformer(nn.Module):
    """One video expert, the audio tower and the bridge between them.

    Raises:
        ValueError: the audio tower has more layers than the video tower.
    """

    def __init__(self, video_dit: WanModel, audio_dit: WanAudioModel, bridge: DualTowerConditionalBridge) -> None:
        super().__init__()
        if len(audio_dit.blocks) > len(video_dit.blocks):
            raise ValueError(
                f"audio_dit has {len(audio_dit.blocks)} layers, video_dit only {len(video_dit.blocks)}; "
                "the audio tower can't be the deeper one."
            )
        self.video_dit = video_dit
        self.audio_dit = audio_dit
        self.bridge = bridge

    def forward(
        self,
        latents: Tensor,
        audio_latents: Tensor,
        timestep: Tensor,
        audio_timestep: Tensor,
        encoder_hidden_states: Tensor,
        *,
        video_fps: float,
        use_bridge: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Predicted velocities of video [B, out, T, h, w] and audio [B, C, N].

        Args:
            latents: [B, 36, T, h, w]: noise, mask, first-frame condition.
            audio_latents: [B, C, N].
            timestep: [B], 0 to 1000, of the video; ``audio_timestep`` likewise.
            encoder_hidden_states: [B, 512, text_dim]; every row takes part, the zero rows after the text too.
            video_fps: frames per second, which place video on the audio's time line.
            use_bridge: False runs the towers side by side, without a word between them (for dual guidance).
        """
        video = self.video_dit.embed(latents, timestep, encoder_hidden_states)
        audio = self.audio_dit.embed(audio_latents, audio_timestep, encoder_hidden_states)
        visual_x, audio_x = self.run_layers(video, audio, video_fps=video_fps, use_bridge=use_bridge)
        return self.video_dit.project(visual_x, video), self.audio_dit.project(audio_x, audio)

    def run_layers(
        self,
        video: TowerState,
        audio: TowerState,
        *,
        video_fps: float,
        use_bridge: bool = True,
        condition_scale: float | None = None,
        a2v_condition_scale: float | None = None,
        v2a_condition_scale: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All layers: the bridge, the video block, the audio block; then the video blocks that have no partner."""
        visual_x, audio_x = video.hidden_states, audio.hidden_states
        rotary = self.bridge.aligned_rotary(video_fps, video.grid, audio_x.shape[1], audio_x.device, visual_x.dtype)
        for layer, block in enumerate(self.video_dit.blocks):
            paired = layer < len(self.audio_dit.blocks)
            if paired and use_bridge:
                visual_x, audio_x = self.bridge(
                    layer,
                    visual_x,
                    audio_x,
                    rotary,
                    video.grid,
                    condition_scale=condition_scale,
                    a2v_condition_scale=a2v_condition_scale,
                    v2a_condition_scale=v2a_condition_scale,
                )
            visual_x = block(visual_x, video.context, video.t_mod, video.rope)
            if paired:
                audio_x = self.audio_dit.blocks[layer](audio_x, audio.context, audio.t_mod, audio.rope)
        return visual_x, audio_x
