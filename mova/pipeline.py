"""The generation, told in four steps: encode the prompt, prepare what is known, denoise, decode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mova.checkpoint import as_stored, load_component, load_scheduler, load_tokenizer, save_checkpoint
from mova.guidance import Guidance, guidance
from mova.joint import JointTransformer
from mova.layout import WEIGHTED, read_model_index
from mova.media import ClipReport, write_clip
from mova.picture import white_picture
from mova.placement import Offload, Placement, choose_device
from mova.scheduler import FlowMatchPairScheduler
from mova.spec import FRAME_GROUP, MAX_PROMPT_TOKENS, ClipSpec
from mova.text import encode_prompt, token_count
from mova.video_vae import decode_frames, encode_condition

logger = logging.getLogger(__name__)

OnStep = Callable[[str, int, int], None]  # (phase, step, total); an exception raised in it leaves the pipeline usable
PHASES = ("loading", "text", "frame", "denoising", "decoding", "writing")


def no_report(phase: str, step: int, total: int) -> None:
    """The step callback of those who don't listen."""


@dataclass(frozen=True)
class Step:
    """One denoising step: where video and audio are, where they go (None: the end), and which expert leads there."""

    index: int
    video_from: float
    audio_from: float
    video_to: float | None
    audio_to: float | None
    expert: str


@dataclass(frozen=True, eq=False)
class Prepared:
    """What denoising starts from and is told: latents [B, 16, T, h, w], [B, C, N]; condition [B, 20, T, h, w]."""

    latents: Tensor
    audio_latents: Tensor
    condition: Tensor
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None


@dataclass(frozen=True, eq=False)
class Clip:
    """A finished clip in latent form; picture and sound are decoded when asked for.

    ``video_latents`` [1, 16, T, h, w] and ``audio_latents`` [1, C, N] are float32, as they left the last step.
    ``notes`` are sentences that the creator should read.
    """

    spec: ClipSpec
    video_latents: Tensor
    audio_latents: Tensor
    sample_rate: int
    notes: tuple[str, ...]
    _decoder: MovaPipeline = field(repr=False)
    _on_step: OnStep = field(repr=False, default=no_report)

    @cached_property
    def audio(self) -> np.ndarray:
        """Samples in -1 to 1, float32, exactly ``spec.audio_samples(sample_rate)`` of them; decoded once."""
        return self._decoder.decode_audio(self.audio_latents)[0, : self.spec.audio_samples(self.sample_rate)]

    def frames(self) -> Generator[Tensor, None, None]:
        """Pictures [n, H, W, 3] in 0 to 1, float32 on the CPU, in groups as the VAE makes them."""
        groups = self.video_latents.shape[2]
        self._on_step("decoding", 0, groups)
        with closing(self._decoder.decode_video(self.video_latents)) as decoded:
            for index, frames in enumerate(decoded, start=1):
                self._on_step("decoding", index, groups)
                yield frames[0].permute(1, 2, 3, 0).div(2).add(0.5).clamp(0, 1).cpu()

    def save(
        self,
        target: Path | str,
        loudness: float | None = None,
        *,
        on_frames: Callable[[Tensor], None] | None = None,
    ) -> ClipReport:
        """Decode and encode into an mp4 at ``target``, which appears only when it is whole.

        The step callback hears ("writing", 0, 1) before the file is closed, where it may still raise to cancel, and
        ("writing", 1, 1) once it is there.

        Args:
            target: the file; its folder must exist.
            loudness: level the sound to this many LUFS (true peak at most -1 dBTP); as the model made it if None.
            on_frames: is given each group of pictures (see ``frames``) on its way into the file.

        Raises:
            MediaError: the file can't be written, or ``loudness`` is none.
        """
        with closing(self._pixels(on_frames)) as pixels:
            report = write_clip(
                Path(target),
                pixels,
                self.audio,
                fps=self.spec.fps,
                num_frames=self.spec.num_frames,
                sample_rate=self.sample_rate,
                loudness=loudness,
                on_frame=lambda done, total: self._on_step("writing", 0, 1) if done == total else None,
            )
        self._on_step("writing", 1, 1)
        return report

    def _pixels(self, on_frames: Callable[[Tensor], None] | None) -> Generator[np.ndarray, None, None]:
        with closing(self.frames()) as groups:
            for group in groups:
                if on_frames:
                    on_frames(group)
                yield from to_pixels(group)


class MovaPipeline:
    """MOVA as one callable: a prompt and a first frame become a clip with sound.

    Args:
        placement: lends the weighted components, see ``mova.placement``.
        scheduler: the checkpoint's.
        tokenizer: the checkpoint's.
        boundary_ratio: below this fraction of the timesteps the second video expert takes over.
        checkpoint: the folder it all came from.
        free_first_expert: drop the first expert's weights after the switch; the next run loads them again.
    """

    def __init__(
        self,
        placement: Placement,
        scheduler: FlowMatchPairScheduler,
        tokenizer: Any,
        *,
        boundary_ratio: float,
        checkpoint: Path,
        free_first_expert: bool = False,
    ) -> None:
        self.placement = placement
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.boundary_ratio = boundary_ratio
        self.checkpoint = checkpoint
        self.free_first_expert = free_first_expert

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: Path | str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        offload: str = "none",
        free_first_expert: bool = False,
        on_step: OnStep = no_report,
    ) -> MovaPipeline:
        """A pipeline from a checkpoint folder in the official layout, every component loaded and checked.

        Args:
            checkpoint: the folder with model_index.json.
            device: "auto", "cpu", "cuda" or "cuda:<number>".
            dtype: "auto" (as stored), "float32" or "bfloat16".
            offload: "none", "component" or "layer", see ``placement.Offload``.
            free_first_expert: see the class.
            on_step: hears ("loading", components loaded, components).

        Raises:
            CheckpointError: the checkpoint can't be used; names file, key and remedy.
            ValueError: no such device, dtype or offload mode.
        """
        folder = Path(checkpoint).absolute()
        index = read_model_index(folder)
        wanted = parse_dtype(dtype)
        placement = Placement(
            lambda name: load_component(folder, name, wanted), choose_device(device), parse_offload(offload)
        )
        pipeline = cls(
            placement,
            load_scheduler(folder),
            load_tokenizer(folder),
            boundary_ratio=index["boundary_ratio"],
            checkpoint=folder,
            free_first_expert=free_first_expert,
        )
        pipeline.load(on_step)
        return pipeline

    def load(self, on_step: OnStep = no_report) -> None:
        """Load every component that isn't."""
        for done, name in enumerate(WEIGHTED):
            on_step("loading", done, len(WEIGHTED))
            self.placement.get(name)
        on_step("loading", len(WEIGHTED), len(WEIGHTED))

    def save_pretrained(self, target: Path | str) -> None:
        """Write the checkpoint into the folder ``target`` in the official layout."""
        components = {component: self.placement.get(component) for component in WEIGHTED}
        # Computed in float32 whatever is stored, and given back as it was.
        components["audio_vae"] = as_stored(self.checkpoint, "audio_vae", components["audio_vae"])
        save_checkpoint(
            Path(target),
            components,
            self.scheduler,
            self.checkpoint,
            boundary_ratio=self.boundary_ratio,
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
        on_step: OnStep = no_report,
    ) -> Clip:
        """Make a clip.

        Args:
            prompt: what is seen and heard; cleaned as in training, cut at 512 tokens. May be empty.
            image: the first frame, RGB, ``spec.width`` x ``spec.height`` (see ``picture.fit_picture``). None is text
                only: a white frame.
            spec: size, length, steps, guidance, seed.
            last_image: the last frame, if the clip shall end there.
            on_step: hears (phase, step, total) in the order of ``PHASES``, before each evaluation of the model too;
                an exception raised in it ends the generation and leaves the pipeline usable.

        Raises:
            ValueError: a picture of another size than the clip, or a last frame for a clip of one frame.
        """
        spec = spec or ClipSpec()
        if any(name not in self.placement for name in WEIGHTED):
            self.load(on_step)
        plan = guidance(spec.guidance_scale, spec.bridge_guidance_scale)
        prepared = self.prepare([prompt], spec, plan, image, last_image, on_step)
        latents, audio_latents = self.denoise(prepared, spec, plan, on_step)
        sample_rate = self.placement.get("audio_vae").sample_rate
        return Clip(spec, latents, audio_latents, sample_rate, self._notes(prompt, image), self, on_step)

    def prepare(
        self,
        prompts: list[str],
        spec: ClipSpec,
        plan: Guidance,
        image: Image.Image | None = None,
        last_image: Image.Image | None = None,
        on_step: OnStep = no_report,
    ) -> Prepared:
        """Noise, condition and text for a batch of ``prompts`` that share first frame, settings and negative prompt.

        Sample i of a batch starts from the noise of seed ``spec.seed + i``, so it is the clip that a run of its own
        with that seed would give.
        """
        on_step("text", 0, 1)
        device = self.placement.device
        with self.placement.use("text_encoder") as (text_encoder,):
            embeds = encode_prompt(self.tokenizer, text_encoder, prompts, device=device)
            negative = None
            if plan.needs_negative_prompt:
                negative = encode_prompt(self.tokenizer, text_encoder, [spec.negative_prompt], device=device)
                negative = negative.expand_as(embeds)
        on_step("text", 1, 1)
        on_step("frame", 0, 1)
        first = to_tensor(image or white_picture(spec.height, spec.width), spec)
        last = None if last_image is None else to_tensor(last_image, spec).to(device)
        with self.placement.use("video_vae") as (vae,):
            condition = encode_condition(vae, first.to(device), spec.num_frames, last)
        noise = [self.draw_noise(spec, spec.seed + index) for index in range(len(prompts))]
        on_step("frame", 1, 1)
        return Prepared(
            latents=torch.cat([video for video, _ in noise]).to(device),
            audio_latents=torch.cat([audio for _, audio in noise]).to(device),
            condition=condition.expand(len(prompts), -1, -1, -1, -1),
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
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
        self, prepared: Prepared, spec: ClipSpec, plan: Guidance, on_step: OnStep = no_report
    ) -> tuple[Tensor, Tensor]:
        """From noise to finished latents: video [B, 16, T, h, w] and audio [B, C, N], float32."""
        latents, audio_latents = prepared.latents, prepared.audio_latents
        for expert, steps in groupby(self.schedule(spec), key=lambda step: step.expert):
            if expert == "video_dit_2" and self.free_first_expert:
                self.placement.free("video_dit")
            latents, audio_latents = self._denoise_with(
                expert, steps, (latents, audio_latents), prepared, spec, plan, on_step
            )
        on_step("denoising", spec.num_inference_steps, spec.num_inference_steps)
        return latents, audio_latents

    def _denoise_with(
        self,
        expert: str,
        steps: Iterable[Step],
        latents: tuple[Tensor, Tensor],
        prepared: Prepared,
        spec: ClipSpec,
        plan: Guidance,
        on_step: OnStep,
    ) -> tuple[Tensor, Tensor]:
        """The steps that ``expert`` leads; afterwards nothing here holds it, so that it can be freed."""
        with self.placement.use(expert, "audio_dit", "dual_tower_bridge") as towers:
            joint = JointTransformer(*towers)
            for step in steps:
                before_evaluation = _reporter(on_step, step.index, spec.num_inference_steps)
                video, audio = _guided_velocity(joint, prepared, latents, step, plan, spec.fps, before_evaluation)
                latents = (
                    self.scheduler.step_from_to(video, step.video_from, step.video_to, latents[0]),
                    self.scheduler.step_from_to(audio, step.audio_from, step.audio_to, latents[1]),
                )
        return latents

    def schedule(self, spec: ClipSpec) -> list[Step]:
        """The steps of a generation, each with its expert: once below the boundary, the second one for good."""
        self.scheduler.set_timesteps(spec.num_inference_steps)
        if spec.video_shift is None and spec.audio_shift is None:
            self.scheduler.single_sigma_shift()
        else:
            self.scheduler.dual_sigma_shift(spec.video_shift, spec.audio_shift)
        pairs: list[list[float]] = self.scheduler.get_pairs()[0].tolist()
        boundary = self.boundary_ratio * self.scheduler.config["num_train_timesteps"]
        ends: list[list[float] | list[None]] = [*pairs[1:], [None, None]]
        steps, switched = [], False
        for index, ((video, audio), (video_to, audio_to)) in enumerate(zip(pairs, ends, strict=True)):
            switched = switched or video < boundary
            expert = "video_dit_2" if switched else "video_dit"
            steps.append(Step(index, video, audio, video_to, audio_to, expert))
        return steps

    @torch.no_grad()
    def decode_audio(self, audio_latents: Tensor) -> np.ndarray:
        """Sound [B, N * hop_length] in -1 to 1, float32."""
        with self.placement.use("audio_vae") as (audio_vae,):
            return audio_vae.decode(audio_latents.float())[:, 0].float().cpu().numpy()

    def decode_video(self, latents: Tensor) -> Generator[Tensor, None, None]:
        """Pictures [B, 3, n, H, W] in -1 to 1, float32, a group of frames at a time."""
        with self.placement.use("video_vae") as (vae,):
            yield from decode_frames(vae, latents)

    def _notes(self, prompt: str, image: Image.Image | None) -> tuple[str, ...]:
        notes = []
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


def to_pixels(frames: Tensor) -> np.ndarray:
    """uint8 [n, H, W, 3] of pictures in 0 to 1, rounded half to even."""
    return (frames * 255).round().to(torch.uint8).numpy()


def parse_dtype(name: str) -> torch.dtype | None:
    """The torch dtype of "float32" or "bfloat16"; None for "auto", as stored. float16 would overflow in UMT5."""
    known = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ValueError(f"'{name}' is no dtype; choose {', '.join(known)}.")
    return known[name]


def parse_offload(name: str) -> Offload:
    """The offload mode of that name."""
    try:
        return Offload(name)
    except ValueError:
        raise ValueError(f"'{name}' is no offload mode; choose {', '.join(Offload)}.") from None


def _reporter(on_step: OnStep, index: int, total: int) -> Callable[[], None]:
    return lambda: on_step("denoising", index, total)


def _guided_velocity(
    joint: JointTransformer,
    prepared: Prepared,
    latents: tuple[Tensor, Tensor],
    step: Step,
    plan: Guidance,
    video_fps: float,
    before_evaluation: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Velocities of video and audio at ``step``, float32, from as many evaluations as the guidance needs."""
    video_latents, audio_latents = latents
    batch = video_latents.shape[0]
    model_input = torch.cat((video_latents, prepared.condition), dim=1)
    timestep = video_latents.new_full((batch,), step.video_from)
    audio_timestep = video_latents.new_full((batch,), step.audio_from)
    videos, audios = [], []
    for branch in plan.branches:
        before_evaluation()
        embeds = prepared.prompt_embeds if branch.text else prepared.negative_prompt_embeds
        assert embeds is not None, "a plan with a branch without text comes with negative embeddings"
        video, audio = joint(
            model_input,
            audio_latents,
            timestep,
            audio_timestep,
            embeds,
            video_fps=video_fps,
            use_bridge=branch.bridge,
        )
        videos.append(video)
        audios.append(audio)
    return plan.combine(videos), plan.combine(audios)
