"""The generation, told in four steps: encode the prompt, prepare what is known, denoise, decode."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mova.attention import choose_attention
from mova.checkpoint import as_stored, load_component, load_scheduler, load_tokenizer, save_checkpoint
from mova.clip import Clip, OnStep, no_report
from mova.denoising import Denoiser, Prepared
from mova.embeddings import TextCache, embed_prompts, reader_identity
from mova.guidance import Guidance, guidance
from mova.lanes import CudaLane, Lane
from mova.layout import WEIGHTED, read_model_index, read_weights
from mova.lora import Applied, combined, notes_of, read_parts
from mova.lora_choice import LoraChoice
from mova.lora_files import ADAPTED, LoraError, base_of
from mova.memory import device_name, own_memory, release_memory
from mova.picture import white_picture
from mova.placement import CPU, Placement, Stay, choose_device
from mova.plan import Card, Plan, Resources, notch_down, plan_for, read_model, read_resources
from mova.planned import Planned
from mova.presets import preset_named
from mova.scheduler import FlowMatchPairScheduler
from mova.spec import FRAME_GROUP, MAX_PROMPT_TOKENS, ClipSpec
from mova.text import token_count
from mova.video_vae import decode_frames, encode_condition
from mova.weights import Weights

logger = logging.getLogger(__name__)

OFFLOADS = ("auto", "none", "component", "layer")
DTYPE_NAMES = {None: "auto", torch.float32: "float32", torch.bfloat16: "bfloat16"}
PHASES = ("loading", "text", "frame", "denoising", "decoding", "writing")
TEXT_STAYS = {"device": Stay.LENT, "parts": Stay.PARTS, "cpu": Stay.HOME}


class MovaPipeline:
    """MOVA as one callable: a prompt and a first frame become a clip with sound.

    Args:
        checkpoint: the folder it all comes from.
        scheduler: the checkpoint's.
        tokenizer: the checkpoint's.
        device: where to compute.
        dtype: what weights are turned into; None as stored.
        offload: "auto", "none", "component" or "layer": what plans are made for, see ``mova.plan``.
        preset: the name of one of ``mova.presets.PRESETS``.
        free_first_expert: on the CPU, forget the first expert after the switch; the next run loads it again.
        text_cache: where encoded prompts are kept; None keeps none.
        lane: the way of layers to the device; None on the CPU, where weights are used in place.
    """

    def __init__(
        self,
        checkpoint: Path,
        scheduler: FlowMatchPairScheduler,
        tokenizer: Any,
        *,
        device: torch.device,
        dtype: torch.dtype | None = None,
        offload: str = "auto",
        preset: str = "exact",
        free_first_expert: bool = False,
        text_cache: TextCache | None = None,
        lane: Lane | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.model = read_model(checkpoint)
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.offload = offload
        self.preset = preset
        self.attention = choose_attention(device)
        self._weights = Weights(checkpoint, dtype, device)
        self.placement = Placement(self._weights.load, device)
        self.denoiser = Denoiser(
            self.placement,
            scheduler,
            read_model_index(checkpoint)["boundary_ratio"],
            attention=self.attention,
            files=self._weights.files,
            free_first_expert=free_first_expert,
            lane=lane,
        )
        self._text_cache = text_cache
        self._lora_notes: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: Path | str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        offload: str = "auto",
        preset: str = "exact",
        free_first_expert: bool = False,
        text_cache: Path | None = None,
        on_step: OnStep = no_report,
    ) -> MovaPipeline:
        """A pipeline from a checkpoint folder in the official layout, every component checked.

        Args:
            checkpoint: the folder with model_index.json.
            device: "auto", "cpu", "cuda" or "cuda:<number>".
            dtype: "auto" (as stored), "float32" or "bfloat16".
            offload: see the class.
            preset: see the class.
            free_first_expert: see the class.
            text_cache: a folder for encoded prompts, so that the text encoder isn't opened for one seen before.
            on_step: hears ("loading", components loaded, components).

        Raises:
            CheckpointError: the checkpoint can't be used; names file, key and remedy.
            ValueError: no such device, dtype, offload mode or preset.
        """
        folder = Path(checkpoint).absolute()
        read_model_index(folder)
        where = choose_device(device)
        if where.type == "cuda" and where.index is not None:
            torch.cuda.set_device(where)
        pipeline = cls(
            folder,
            load_scheduler(folder),
            load_tokenizer(folder),
            device=where,
            dtype=parse_dtype(dtype),
            offload=parse_offload(offload),
            preset=preset_named(preset).name,
            free_first_expert=free_first_expert,
            text_cache=None if text_cache is None else TextCache(text_cache),
            lane=CudaLane(where) if where.type == "cuda" else None,
        )
        pipeline.load(on_step)
        return pipeline

    def load(self, on_step: OnStep = no_report) -> None:
        """Map every component that isn't; the text encoder only once a prompt has to be read."""
        for done, name in enumerate(WEIGHTED):
            on_step("loading", done, len(WEIGHTED))
            if name == "text_encoder":
                read_weights(self.checkpoint / name)
            else:
                self.placement.get(name)
        on_step("loading", len(WEIGHTED), len(WEIGHTED))

    def close(self) -> None:
        """Give back what is held on the device and in pinned memory; the next call takes it again."""
        self.denoiser.close()
        self.placement.give_back(*WEIGHTED)

    def use_loras(self, choices: Sequence[LoraChoice] = (), *, merge: bool = False) -> None:
        """Make clips with these LoRAs from now on, instead of those before; without any if there are none.

        Args:
            choices: files and strengths. Their effects add up.
            merge: put them into the weights instead of beside them: nothing to compute at each step, but the changed
                weights are in memory. Either way the next call brings the old weights back, bit for bit.

        Raises:
            LoraError: a file can't be used with this checkpoint, or merged; nothing has changed then.
        """
        base = base_of(self.checkpoint)
        parts = read_parts(choices, base)
        applied = Applied(combined(parts, self.placement.get), merge)
        self.denoiser.close()  # its packs have other tensors
        self._weights.adapt(applied, {name: self.placement.get(name) for name in ADAPTED if name in self.placement})
        self._lora_notes = notes_of(parts, base)

    def save_pretrained(self, target: Path | str) -> None:
        """Write the checkpoint into the folder ``target`` in the official layout; merged LoRAs are part of it.

        Raises:
            LoraError: LoRAs are beside the weights.
        """
        if self._weights.adapted:
            raise LoraError(
                "A checkpoint has no place for LoRAs. Merge them, or make clips without them, then save it."
            )
        components = {name: self._stored(name) for name in WEIGHTED}
        # Computed in float32 whatever is stored, and given back as it was.
        components["audio_vae"] = as_stored(self.checkpoint, "audio_vae", components["audio_vae"])
        save_checkpoint(
            Path(target),
            components,
            self.scheduler,
            self.checkpoint,
            boundary_ratio=self.denoiser.boundary_ratio,
            name=read_model_index(self.checkpoint).get("_name_or_path"),
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        image: Image.Image | None = None,
        *,
        spec: ClipSpec | None = None,
        last_image: Image.Image | None = None,
        plan: Plan | None = None,
        on_step: OnStep = no_report,
    ) -> Clip:
        """Make a clip.

        Args:
            prompt: what is seen and heard; cleaned as in training, cut at 512 tokens. May be empty.
            image: the first frame, RGB, ``spec.width`` x ``spec.height`` (see ``picture.fit_picture``). None is text
                only: a white frame.
            spec: size, length, steps, guidance, seed.
            last_image: the last frame, if the clip shall end there.
            plan: where weights live and how the clip is computed; ``self.plan(spec)`` if None.
            on_step: hears (phase, step, total) in the order of ``PHASES``, between the layers of a long step too;
                an exception raised in it ends the generation and leaves the pipeline usable.

        Raises:
            ValueError: a picture of another size than the clip, or a last frame for a clip of one frame.
            DoesNotFit: this machine's memory can't hold such a clip; says what would fit.
        """
        spec = spec or ClipSpec()
        planned = self.planned(spec, plan)
        self._adopt(planned.plan, on_step)
        if any(name not in self.placement for name in WEIGHTED if name != "text_encoder"):
            self.load(on_step)
        guide = guidance(spec.guidance_scale, spec.bridge_guidance_scale)
        prepared = self.prepare([prompt], spec, guide, image, last_image, planned=planned, on_step=on_step)
        latents, audio_latents = self.denoiser(prepared, spec, guide, planned, on_step)
        sample_rate = self.placement.get("audio_vae").sample_rate
        notes = self._notes(prompt, image)
        return Clip(spec, latents, audio_latents, sample_rate, planned, self, on_step, notes)

    def plan(self, spec: ClipSpec, *, offload: str | None = None, preset: str | None = None) -> Plan:
        """The plan for such a clip on this machine as it is now; the pipeline's own mode and preset if not given.

        Raises:
            DoesNotFit: by how much, and what would.
        """
        device = self.placement.device
        return plan_for(
            self.model,
            spec,
            self._resources(),
            offload=offload or self.offload,
            preset=preset or self.preset,
            device=device.type,
            dtype=DTYPE_NAMES[self._weights.dtype],
        )

    def planned(self, spec: ClipSpec, plan: Plan | None = None) -> Planned:
        """``plan`` (or this machine's own), ready to be lowered when memory runs out."""

        def lower(plan: Plan, phase: str) -> Plan | None:
            return notch_down(plan, phase, self.model, spec, self._resources())

        return Planned(plan or self.plan(spec), lower, self._make_room)

    def prepare(
        self,
        prompts: list[str],
        spec: ClipSpec,
        guide: Guidance,
        image: Image.Image | None = None,
        last_image: Image.Image | None = None,
        *,
        planned: Planned | None = None,
        on_step: OnStep = no_report,
    ) -> Prepared:
        """Noise, condition and text for a batch of ``prompts`` that share first frame, settings and negative prompt.

        Sample i of a batch starts from the noise of seed ``spec.seed + i``, so it is the clip that a run of its own
        with that seed would give.
        """
        planned = planned or self.planned(spec)
        device = self.placement.device
        on_step("text", 0, 1)
        texts = [*prompts, spec.negative_prompt] if guide.needs_negative_prompt else prompts
        embeds = planned.surviving("text", lambda plan: self._embed(texts, plan)).to(device)
        read, negative = embeds[: len(prompts)], embeds[len(prompts) :]
        on_step("text", 1, 1)
        on_step("frame", 0, 1)
        first = to_tensor(image or white_picture(spec.height, spec.width), spec)
        last = None if last_image is None else to_tensor(last_image, spec)
        condition = planned.surviving("frame", lambda plan: self._condition(first, last, spec, plan)).to(device)
        noise = [self.draw_noise(spec, spec.seed + index) for index in range(len(prompts))]
        on_step("frame", 1, 1)
        return Prepared(
            latents=torch.cat([video for video, _ in noise]).to(device),
            audio_latents=torch.cat([audio for _, audio in noise]).to(device),
            condition=condition.expand(len(prompts), -1, -1, -1, -1),
            prompt_embeds=read,
            negative_prompt_embeds=negative.expand_as(read) if guide.needs_negative_prompt else None,
        )

    def draw_noise(self, spec: ClipSpec, seed: int) -> tuple[Tensor, Tensor]:
        """Initial latents of video [1, 16, T, h, w], then audio [1, C, N].

        float32 and drawn on the CPU, so that a seed means the same clip on every device.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        vae, audio_vae = self.placement.get("video_vae"), self.placement.get("audio_vae")
        frames = (spec.num_frames - 1) // FRAME_GROUP + 1
        scale = vae.config.scale_factor_spatial
        video_shape = (1, vae.config.z_dim, frames, spec.height // scale, spec.width // scale)
        # Longer than the clip by a part of a latent; the sound is cut to length once decoded.
        steps = (spec.audio_samples(audio_vae.sample_rate) - 1) // audio_vae.hop_length + 1
        video = torch.randn(video_shape, generator=generator)
        return video, torch.randn((1, audio_vae.config.latent_dim, steps), generator=generator)

    @torch.no_grad()
    def denoise(
        self, prepared: Prepared, spec: ClipSpec, guide: Guidance, on_step: OnStep = no_report
    ) -> tuple[Tensor, Tensor]:
        """From noise to finished latents: video [B, 16, T, h, w] and audio [B, C, N], float32."""
        return self.denoiser(prepared, spec, guide, self.planned(spec), on_step)

    @torch.no_grad()
    def decode_audio(self, audio_latents: Tensor, planned: Planned) -> np.ndarray:
        """Sound [B, N * hop_length] in -1 to 1, float32."""
        return planned.surviving("decoding", lambda plan: self._sound(audio_latents, plan))

    def decode_video(self, latents: Tensor, planned: Planned) -> Generator[Tensor, None, None]:
        """Pictures [B, 3, n, H, W] in -1 to 1, float32, a group of frames at a time.

        Out of memory, it begins again under the next plan and goes on with the group that was due.
        """
        given = 0
        while given < latents.shape[2]:
            try:
                planned.make_room()
                with self.placement.use("video_vae", _stay(planned.plan)) as vae:
                    for index, frames in enumerate(decode_frames(vae, latents, **_tiling(planned.plan))):
                        if index >= given:
                            given = index + 1
                            yield frames
            except (RuntimeError, MemoryError) as error:
                planned.lower("decoding", error)
            release_memory()

    @torch.no_grad()
    def _embed(self, texts: list[str], plan: Plan) -> Tensor:
        stay = Stay.KEPT if plan.offload == "none" and plan.text == "device" else TEXT_STAYS[plan.text]
        device = CPU if stay is Stay.HOME else self.placement.device
        return embed_prompts(
            self.tokenizer,
            lambda: self.placement.use("text_encoder", stay),
            texts,
            reader=reader_identity(self.checkpoint, self._weights.dtype, device),
            cache=self._text_cache,
            device=device,
        )

    @torch.no_grad()
    def _condition(self, first: Tensor, last: Tensor | None, spec: ClipSpec, plan: Plan) -> Tensor:
        device = self.placement.device
        last = None if last is None else last.to(device)
        with self.placement.use("video_vae", _stay(plan)) as vae:
            return encode_condition(vae, first.to(device), spec.num_frames, last, **_tiling(plan))

    def _sound(self, audio_latents: Tensor, plan: Plan) -> np.ndarray:
        # It is float32 for precision's sake, which TF32 would take from its convolutions.
        exact = torch.backends.cudnn.flags(allow_tf32=False)
        with exact, self.placement.use("audio_vae", _stay(plan)) as audio_vae:
            return audio_vae.decode(audio_latents.float())[:, 0].float().cpu().numpy()

    def _make_room(self, plan: Plan) -> None:
        """Let go of what an earlier plan kept on the device and ``plan`` doesn't count on."""
        self.denoiser.vacate(plan)
        if plan.offload != "none":
            self.placement.give_back(*WEIGHTED)

    def _resources(self) -> Resources:
        """This machine now; what this process holds counts as free, since it makes room for what a plan wants."""
        device, found = self.placement.device, read_resources(self.checkpoint, "cpu")
        found = replace(found, ram_free=min(found.ram_free + own_memory(), max(found.ram_total, found.ram_free)))
        if device.type != "cuda":
            return found
        free, total = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
        card = Card(device_name(device), free + held, total, torch.cuda.get_device_capability(device))
        return replace(found, card=card)

    def _stored(self, name: str) -> Any:
        """Component ``name`` as it is, but never in 8 bits."""
        if self._weights.in_8_bits(name):
            return load_component(self.checkpoint, name, self._weights.dtype)
        return self.placement.get(name)

    def _adopt(self, plan: Plan, on_step: OnStep) -> None:
        """Let the joint layers' weights be of the plan's kind from now on."""
        changed = self._weights.adopt(plan, lambda done, total: on_step("loading", done, total))
        if changed:
            self.denoiser.close()
        for name in changed:
            self.placement.free(name)

    def _notes(self, prompt: str, image: Image.Image | None) -> tuple[str, ...]:
        notes = list(self._lora_notes)
        tokens = token_count(self.tokenizer, prompt)
        if tokens > MAX_PROMPT_TOKENS:
            notes.append(
                f"The prompt has {tokens} tokens; the model reads the first {MAX_PROMPT_TOKENS} and the rest was cut."
            )
        if image is None:
            notes.append("No first frame was given; the clip starts from a white picture.")
        for note in notes:
            logger.info(note)
        return tuple(notes)


def to_tensor(image: Image.Image, spec: ClipSpec) -> Tensor:
    """[1, 3, H, W] in -1 to 1, float32. ValueError unless the picture has the clip's size."""
    if image.size != (spec.width, spec.height):
        raise ValueError(
            f"The picture is {image.width}x{image.height}, the clip {spec.width}x{spec.height}. "
            "Fit it first (mova.picture.fit_picture)."
        )
    pixels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32))
    return (pixels / 255.0).permute(2, 0, 1).unsqueeze(0) * 2.0 - 1.0


def parse_dtype(name: str) -> torch.dtype | None:
    """The torch dtype of "float32" or "bfloat16"; None for "auto", as stored. float16 would overflow in UMT5."""
    known = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ValueError(f"'{name}' is no dtype; choose {', '.join(known)}.")
    return known[name]


def parse_offload(name: str) -> str:
    """The offload mode of that name; ValueError names those that there are."""
    if name not in OFFLOADS:
        raise ValueError(f"'{name}' is no offload mode; choose {', '.join(OFFLOADS)}.")
    return name


def _stay(plan: Plan) -> Stay:
    return Stay.KEPT if plan.offload == "none" else Stay.LENT


def _tiling(plan: Plan) -> dict[str, Any]:
    """How pictures are encoded and decoded: the size of tiles, and where what they remember waits."""
    return {"tile": plan.vae_tile, "waiting": CPU if plan.tiles_wait else None}
