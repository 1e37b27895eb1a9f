"""Both towers and the bridge as one model: the loop over their layers. It has no parameters of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mova.audio_dit import WanAudioModel
from mova.bridge import DualTowerConditionalBridge
from mova.evaluation import Branch, Evaluation, Lend, Moment, Pair, Part, Reuse, Tables, TextContext, keep, no_word
from mova.tower import TowerState
from mova.video_dit import WanModel

__all__ = ["JointTransformer", "Lend", "Part", "Reuse", "TextContext", "keep"]

Prediction = tuple[Tensor, Tensor]  # velocities of video [B, out, T, h, w] and audio [B, C, N]
TEXT_WEIGHTS = ("cross_attn.k.", "cross_attn.v.", "cross_attn.norm_k.")  # of a block: used by ``read`` alone


class JointTransformer(nn.Module):
    """One video expert, the audio tower and the bridge between them.

    ``forward`` is one evaluation as the formula has it. Inference reads each prompt once (``read``) and evaluates all
    branches together, layer by layer (``evaluate``).

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
        self._tables: tuple[Hashable, Tables] | None = None

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
    ) -> Prediction:
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

    @torch.no_grad()
    def read(
        self, prompt_embeds: Tensor, *, expert: str = "video_dit", lend: Lend = keep, cached: bool = True
    ) -> TextContext:
        """What ``evaluate`` needs of a prompt.

        Args:
            prompt_embeds: [B, 512, text_dim].
            expert: what the video tower is called in the keys of packs.
            lend: is asked for every layer's "text" pack, in order, if ``cached``.
            cached: keep every layer's keys and values of the text, instead of making them at every evaluation.
        """
        video, audio = (
            tower.text_embedding(prompt_embeds.to(tower.dtype)) for tower in (self.video_dit, self.audio_dit)
        )
        if not cached:
            return TextContext(expert, video, audio)
        heard = []
        for layer in range(len(self.video_dit.blocks)):
            sides = ((self.video_dit.layer(layer), video), (self.audio_dit.layer(layer), audio))
            with lend(Part(expert, layer, "text")):
                heard.append(tuple(block.read_text(context) for block, context in sides if block is not None))
        return TextContext(expert, video, audio, tuple(heard))

    @torch.no_grad()
    def evaluate(
        self,
        latents: Tensor,
        audio_latents: Tensor,
        timestep: Tensor,
        audio_timestep: Tensor,
        branches: Sequence[Branch],
        *,
        video_fps: float,
        lend: Lend = keep,
        token_chunk: int | None = None,
        before_layer: Callable[[int], None] = no_word,
        reuse: Reuse | None = None,
    ) -> list[Prediction]:
        """What ``forward`` predicts for every branch, all branches on a layer while it is there.

        Args:
            latents: and the following as in ``forward``.
            branches: the text of each, and whether it uses the bridge. What the first layer does before it reads the
                text is done once for those that agree on the bridge.
            video_fps: as in ``forward``.
            lend: is asked for every layer's "block" pack, in order.
            token_chunk: video tokens at a time, all of them if None: less memory, the same result.
            before_layer: is told each layer before its pack is asked for; an exception raised there ends it all.
            reuse: may leave out the video's layers after the first; "audio" packs are asked for then.
        """
        with torch.inference_mode():  # it spares a small operation a tenth of its time
            video_t, video_t_mod = self.video_dit.embed_time(timestep)
            audio_t, audio_t_mod = self.audio_dit.embed_time(audio_timestep)
            start, grid = self._embed(latents, audio_latents)
            moment = Moment(grid, self._tables_for(grid, start, video_fps), video_t_mod, audio_t_mod, token_chunk)
            evaluation = Evaluation(self, moment, branches, lend=lend, before_layer=before_layer, reuse=reuse)
            pairs = evaluation.run(start)
            del start
            predictions = [self._project(pairs.pop(0), video_t, audio_t, moment) for _ in branches]
        return [(video.clone(), audio.clone()) for video, audio in predictions]  # tensors like all others

    def packs(self, expert: str, *, cached_text: bool, audio_apart: bool = False) -> dict[Part, list[Tensor]]:
        """Which weights travel under which key, in the order in which ``evaluate`` asks for them; "text" packs last.

        Args:
            expert: what the video tower is called in the keys.
            cached_text: what only ``read`` needs travels in "text" packs, not in "block".
            audio_apart: the audio blocks stay on the device, so they travel in none.
        """
        blocks: dict[Part, list[Tensor]] = {}
        texts: dict[Part, list[Tensor]] = {}
        for layer in range(len(self.video_dit.blocks)):
            block, text = Part(expert, layer, "block"), Part(expert, layer, "text")
            blocks[block], texts[text] = [], []
            for module in self._travelling(layer, audio_apart):
                for name, tensor in _weights(module):
                    apart = cached_text and name.startswith(TEXT_WEIGHTS)
                    (texts[text] if apart else blocks[block]).append(tensor)
        return blocks | texts if cached_text else blocks

    def resident(self, *, audio_apart: bool = False) -> list[Tensor]:
        """The weights that travel in no pack: they stay on the device while the expert leads."""
        packs = self.packs("", cached_text=True, audio_apart=audio_apart)
        travelling = {id(tensor) for pack in packs.values() for tensor in pack}
        return [tensor for _, tensor in _weights(self) if id(tensor) not in travelling]

    def _travelling(self, layer: int, audio_apart: bool) -> Iterator[nn.Module]:
        yield self.video_dit.blocks[layer]
        if layer in self.bridge.layers:
            yield from self.bridge.conditioners(layer)
        if layer < len(self.audio_dit.blocks) and not audio_apart:
            yield self.audio_dit.blocks[layer]

    def _embed(self, latents: Tensor, audio_latents: Tensor) -> tuple[Pair, tuple[int, ...]]:
        video, grid = self.video_dit.patchify(latents)
        audio, _ = self.audio_dit.patchify(audio_latents)
        return Pair(video, audio), grid

    def _tables_for(self, grid: tuple[int, ...], start: Pair, video_fps: float) -> Tables:
        """The rotary tables of a clip; those of the last one are kept."""
        steps, device, dtype = start.audio.shape[1], start.video.device, start.video.dtype
        key = (grid, steps, video_fps, device, dtype)
        if self._tables is None or self._tables[0] != key:
            aligned = self.bridge.aligned_rotary(video_fps, grid, steps, device, dtype)
            tables = Tables(self.video_dit.rope(grid, device), self.audio_dit.rope((steps,), device), aligned)
            self._tables = (key, tables)
        return self._tables[1]

    def _project(self, pair: Pair, video_t: Tensor, audio_t: Tensor, moment: Moment) -> Prediction:
        video = self.video_dit.project_rows(pair.video, video_t, moment.grid, moment.size)
        return video, self.audio_dit.project_rows(pair.audio, audio_t, (pair.audio.shape[1],), None)


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
