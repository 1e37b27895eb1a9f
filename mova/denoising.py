"""From noise to finished latents: the steps, their experts, and the weights of each layer when it is its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mova import fused
from mova.approximate import StepCache, choose_sage, guidance_at
from mova.attention import set_attention
from mova.clip import OnStep, no_report
from mova.evaluation import Lend, Part, TextContext, keep
from mova.guidance import Guidance
from mova.joint import JointTransformer
from mova.lanes import Lane
from mova.placement import Placement, lent
from mova.plan import Plan
from mova.planned import Planned
from mova.presets import Preset, preset_named
from mova.scheduler import FlowMatchPairScheduler
from mova.sources import FileSource, stored_extents
from mova.spec import ClipSpec
from mova.streaming import LayerStream

EXPERTS = ("video_dit", "video_dit_2")
SHARED = ("audio_dit", "dual_tower_bridge")
PULSE_SECONDS = 1.0  # a step of minutes is still heard of, and cancelled, between its layers


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


@dataclass(eq=False)
class Run:
    """A generation on its way: the steps that are left, and the latents that the last one gave."""

    prepared: Prepared
    guidance: Guidance
    spec: ClipSpec
    preset: Preset
    steps: list[Step]
    latents: tuple[Tensor, Tensor]
    heard: Pulse
    cache: StepCache | None = None


class Denoiser:
    """Leads both experts through the schedule.

    Args:
        placement: loads the towers.
        scheduler: the checkpoint's.
        boundary_ratio: below this fraction of the timesteps the second video expert takes over.
        files: the files that hold the weights of a component.
        attention: the exact kernel, see ``attention.choose_attention``.
        free_first_expert: forget the first expert after the switch where its weights are used in place (on the CPU).
        lane: the way to the device; None where weights are used in place.
    """

    def __init__(
        self,
        placement: Placement,
        scheduler: FlowMatchPairScheduler,
        boundary_ratio: float,
        *,
        attention: str,
        files: Callable[[str], Iterable[Path]],
        free_first_expert: bool = False,
        lane: Lane | None = None,
    ) -> None:
        self.placement = placement
        self.attention = attention
        self._files = files
        self.scheduler = scheduler
        self.boundary_ratio = boundary_ratio
        self.free_first_expert = free_first_expert
        self.lane = lane
        self._stream: LayerStream | None = None
        self._shape: tuple[Any, ...] = ()

    @torch.no_grad()
    def __call__(
        self, prepared: Prepared, spec: ClipSpec, guidance: Guidance, planned: Planned, on_step: OnStep = no_report
    ) -> tuple[Tensor, Tensor]:
        """From noise to finished latents: video [B, 16, T, h, w] and audio [B, C, N], float32.

        A step that runs out of memory is done again under the next plan; those before it stay done.
        """
        self._compile(planned)
        heard = Pulse(on_step, spec.num_inference_steps)
        latents = (prepared.latents, prepared.audio_latents)
        preset = preset_named(planned.plan.preset)
        cache = None if preset.cache is None else StepCache(preset.cache, spec.num_inference_steps)
        run = Run(prepared, guidance, spec, preset, self.schedule(spec), latents, heard, cache)
        try:
            planned.surviving("denoising", lambda plan: self._advance(run, plan))
        finally:
            planned.notes += [note for note in (self.lane.notes if self.lane else ()) if note not in planned.notes]
            self.vacate(planned.plan)  # decoding needs the room
        on_step("denoising", spec.num_inference_steps, spec.num_inference_steps)
        return run.latents

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
            steps.append(Step(index, video, audio, video_to, audio_to, EXPERTS[switched]))
        return steps

    def vacate(self, plan: Plan) -> None:
        """Leave the device to others, unless ``plan`` keeps there what the stream has; pinned memory stays filled."""
        if self._stream is not None and (plan.offload != "none" or self._shape_of(plan) != self._shape):
            self._stream.vacate()

    def close(self) -> None:
        """Give back what the stream holds; the next generation opens it again."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._shape = None, ()

    def _compile(self, planned: Planned) -> None:
        """Make kernels of the element-wise work if the plan counts on it, or say that it can't be done here."""
        able = planned.plan.compiled and fused.can_compile(self.placement.device)
        if planned.plan.compiled and not able:
            planned.notes.append("Element-wise work can't be compiled here (see the log), so that steps take longer.")
        fused.use(compiled=able)

    def _advance(self, run: Run, plan: Plan) -> None:
        """All steps that are left."""
        with self._lending(run, plan) as lend:
            for expert, steps in groupby(list(run.steps), key=lambda step: step.expert):
                if expert == EXPERTS[1] and self.free_first_expert and lend is keep:
                    self.placement.free(EXPERTS[0])
                self._lead(expert, list(steps), run, plan, lend)

    def _lead(self, expert: str, steps: Sequence[Step], run: Run, plan: Plan, lend: Lend) -> None:
        """The steps that ``expert`` leads; afterwards nothing here holds it, so that it can be freed."""
        joint = self._joint(expert)
        self._choose_attention(joint, run.preset)
        apart = run.cache is not None
        with lent(joint.resident(audio_apart=apart), self.placement.device) if self._streams else nullcontext():
            texts = self._read(joint, expert, run.prepared, plan, lend)
            for step in steps:
                velocities = self._velocities(joint, step, texts, run, plan, lend)
                self._take(step, velocities, run)

    def _read(
        self, joint: JointTransformer, expert: str, prepared: Prepared, plan: Plan, lend: Lend
    ) -> dict[bool, TextContext]:
        """What the towers know of the prompt (True) and, where it is needed, of the negative prompt (False)."""
        prompts = {True: prepared.prompt_embeds, False: prepared.negative_prompt_embeds}
        return {
            text: joint.read(embeds, expert=expert, lend=lend, cached=plan.text_kv)
            for text, embeds in prompts.items()
            if embeds is not None
        }

    def _velocities(
        self, joint: JointTransformer, step: Step, texts: dict[bool, TextContext], run: Run, plan: Plan, lend: Lend
    ) -> tuple[Tensor, Tensor]:
        """Velocities of video and audio at ``step``, float32, from as many evaluations as the guidance needs."""
        run.heard.begin(step.index)
        total = run.spec.num_inference_steps
        guidance = guidance_at(run.guidance, step.index, total, run.preset.guided_share)
        if run.cache is not None:
            run.cache.begin(step.index, (step.expert, guidance.branches))
        video_latents, audio_latents = run.latents
        batch = video_latents.shape[0]
        predictions = joint.evaluate(
            torch.cat((video_latents, run.prepared.condition), dim=1),
            audio_latents,
            video_latents.new_full((batch,), step.video_from),
            video_latents.new_full((batch,), step.audio_from),
            [(texts[branch.text], branch.bridge) for branch in guidance.branches],
            video_fps=run.spec.fps,
            lend=lend,
            token_chunk=plan.token_chunk,
            before_layer=run.heard,
            reuse=run.cache,
        )
        videos, audios = zip(*predictions, strict=True)
        return guidance.combine(videos), guidance.combine(audios)

    def _take(self, step: Step, velocities: tuple[Tensor, Tensor], run: Run) -> None:
        """Go where the velocities lead; the step is done for good."""
        run.latents = (
            self.scheduler.step_from_to(velocities[0], step.video_from, step.video_to, run.latents[0]),
            self.scheduler.step_from_to(velocities[1], step.audio_from, step.audio_to, run.latents[1]),
        )
        run.steps.remove(step)

    def _joint(self, expert: str) -> JointTransformer:
        return JointTransformer(*(self.placement.get(name) for name in (expert, *SHARED)))

    def _choose_attention(self, joint: JointTransformer, preset: Preset) -> None:
        """The exact kernel everywhere, but for the video's self-attention if the preset allows and the device can."""
        set_attention(joint, self.attention)
        if preset.sage and (rough := choose_sage(self.placement.device)):
            set_attention(joint.video_dit, rough, self_attention_only=True)

    @property
    def _streams(self) -> bool:
        return self.lane is not None

    @contextmanager
    def _lending(self, run: Run, plan: Plan) -> Iterator[Lend]:
        """How layers get their weights for the steps that are left."""
        if self.lane is None:
            yield keep
            return
        stream = self._open(self.lane, run, plan)
        try:
            stream.follow(self._order(run, run.steps, plan))
            yield partial(self._lend, stream, run, plan)
        except BaseException:
            stream.vacate()  # nothing is left in flight
            raise

    def _lend(self, stream: LayerStream, run: Run, plan: Plan, part: Hashable) -> AbstractContextManager[None]:
        """The pack of ``part``; audio blocks that are asked for alone are resident, and the step's rest is left out."""
        if isinstance(part, Part) and part.what == "audio":
            if part.layer == 1:
                stream.follow(self._order(run, run.steps[1:], plan, read=part.expert))
            return nullcontext()
        return stream.lend(part)

    def _open(self, lane: Lane, run: Run, plan: Plan) -> LayerStream:
        """The stream of ``plan``, the one that is open already if it is alike."""
        apart, shape = run.cache is not None, self._shape_of(plan)
        if self._stream is None or shape != self._shape:
            self.close()
            packs: dict[Any, list[Tensor]] = {}
            for expert in EXPERTS:
                packs.update(self._joint(expert).packs(expert, cached_text=plan.text_kv, audio_apart=apart))
            source = self._source(not plan.direct)
            self._stream = LayerStream(packs, lane, slots=plan.slots, buffers=plan.buffers, source=source)
            self._shape = shape
        return self._stream

    def _shape_of(self, plan: Plan) -> tuple[Any, ...]:
        """What a stream is made for."""
        apart = preset_named(plan.preset).cache is not None
        return (plan.slots, plan.buffers, plan.direct, plan.text_kv, plan.weights, apart)

    def _source(self, keep_cached: bool) -> FileSource:
        extents: dict[Any, Any] = {}
        for name in (*EXPERTS, *SHARED):
            extents |= stored_extents(self.placement.get(name), self._files(name))
        return FileSource(extents, keep_cached=keep_cached)

    def _order(self, run: Run, steps: Iterable[Step], plan: Plan, *, read: str | None = None) -> Iterator[Part]:
        """The parts in the order of their use; ``read``: the expert that has read the prompts already."""
        prompts = 1 if run.prepared.negative_prompt_embeds is None else 2
        for expert, led in groupby(steps, key=lambda step: step.expert):
            layers = range(len(self.placement.get(expert).blocks))
            for _ in range(prompts if plan.text_kv and expert != read else 0):
                yield from (Part(expert, layer, "text") for layer in layers)
            for _ in led:
                yield from (Part(expert, layer, "block") for layer in layers)


class Pulse:
    """Tells of every step when it begins, and between its layers if it takes long."""

    def __init__(
        self,
        on_step: OnStep,
        total: int,
        *,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_step, self._total = on_step, total
        self._seconds = PULSE_SECONDS if seconds is None else seconds
        self._clock = clock
        self._index = 0
        self._last = clock()

    def begin(self, index: int) -> None:
        """A step begins."""
        self._index = index
        self._tell()

    def __call__(self, _layer: int) -> None:
        """A layer begins."""
        if self._clock() - self._last >= self._seconds:
            self._tell()

    def _tell(self) -> None:
        self._on_step("denoising", self._index, self._total)
        self._last = self._clock()  # after it: a slow listener isn't called again at once
