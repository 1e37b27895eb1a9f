"""However a plan places weights and cuts the work, the clip is the same; and memory that runs out lowers the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mova.clip import Clip
from mova.denoising import Denoiser, Run
from mova.guidance import guidance
from mova.joint import JointTransformer
from mova.pipeline import MovaPipeline
from mova.plan import Card, Plan, Resources
from mova.playground import make_playground
from mova.presets import PRESETS
from mova.spec import ClipSpec
from tests.plain import evaluate_plainly
from tests.standin import StandIn

PROMPT = "The red ball bounces on a wood floor."
GUIDED = {"guidance 1": {"guidance_scale": 1.0}, "cfg": {}, "dual": {"bridge_guidance_scale": 3.0}}
GB = 10**9
LAYERS = 4  # of the playground's experts


class Stop(Exception):
    """A creator's cancel."""


def changed(**changes: Any) -> ClipSpec:
    return ClipSpec(**{**TINY.model_dump(), **changes})


def same(one: Clip, other: Clip) -> bool:
    return torch.equal(one.video_latents, other.video_latents) and torch.equal(one.audio_latents, other.audio_latents)


def streaming(checkpoint: Path, lane: StandIn) -> MovaPipeline:
    """A pipeline over a stand-in for a device: layers are copied to it, the rest is lent on the CPU."""
    pipeline = MovaPipeline.from_pretrained(checkpoint, device="cpu")
    pipeline.denoiser.lane = lane
    return with_card(pipeline)


def with_card(pipeline: MovaPipeline) -> MovaPipeline:
    """Plans are lowered as for a card; what computes is the CPU."""
    machine = Resources(Card("NVIDIA GeForce RTX 4090", 24 * GB, 24 * GB, (8, 9)), 32 * GB, 32 * GB, 99 * GB)
    pipeline._resources = lambda: machine  # type: ignore[method-assign]
    return pipeline


def plainly(pipeline: MovaPipeline, picture: Image.Image, spec: ClipSpec) -> tuple[Tensor, Tensor]:
    """The latents of a clip by the plain path: one branch after the other, nothing cached, shared or in place."""
    guide = guidance(spec.guidance_scale, spec.bridge_guidance_scale)
    prepared = pipeline.prepare([PROMPT], spec, guide, picture)
    video, audio = prepared.latents, prepared.audio_latents
    step_from_to = pipeline.scheduler.step_from_to
    for step in pipeline.denoiser.schedule(spec):
        parts = (pipeline.placement.get(name) for name in (step.expert, "audio_dit", "dual_tower_bridge"))
        joint = JointTransformer(*parts)
        told = [
            evaluate_plainly(
                joint,
                torch.cat((video, prepared.condition), dim=1),
                audio,
                video.new_full((1,), step.video_from),
                video.new_full((1,), step.audio_from),
                prepared.prompt_embeds if branch.text else prepared.negative_prompt_embeds,
                video_fps=spec.fps,
                use_bridge=branch.bridge,
            )
            for branch in guide.branches
        ]
        video = step_from_to(guide.combine([one for one, _ in told]), step.video_from, step.video_to, video)
        audio = step_from_to(guide.combine([one for _, one in told]), step.audio_from, step.audio_to, audio)
    return video, audio


@pytest.fixture(scope="module")
def clip(pipeline: MovaPipeline, picture: Image.Image) -> Clip:
    return pipeline(PROMPT, picture, spec=TINY)


@pytest.mark.parametrize("guided", GUIDED)
@pytest.mark.parametrize("first", [0.0, 0.9, 1.0])
def test_a_clip_is_what_the_plain_path_makes(
    pipeline: MovaPipeline, picture: Image.Image, guided: str, first: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one expert, with both in their order, with the other alone."""
    monkeypatch.setattr(pipeline.denoiser, "boundary_ratio", first)
    spec = changed(**GUIDED[guided])
    made = pipeline(PROMPT, picture, spec=spec)
    video, audio = plainly(pipeline, picture, spec)
    torch.testing.assert_close(made.video_latents, video, rtol=0, atol=2e-6)
    torch.testing.assert_close(made.audio_latents, audio, rtol=0, atol=2e-6)


@pytest.mark.parametrize("guided", GUIDED)
@pytest.mark.parametrize(
    "places",
    [
        {"slots": 2, "buffers": 2, "offload": "layer"},
        {"slots": 3, "buffers": 2, "offload": "layer", "text_kv": False, "token_chunk": 5},
        {"slots": 3, "buffers": LAYERS, "offload": "layer", "direct": True},
        {"slots": 2 * LAYERS, "buffers": 2, "offload": "component", "token_chunk": 7},
        {"slots": 4 * LAYERS, "buffers": 4 * LAYERS, "offload": "none"},
    ],
    ids=str,
)
def test_streamed_is_resident(
    playground: Path, pipeline: MovaPipeline, picture: Image.Image, guided: str, places: dict[str, Any]
) -> None:
    """Twice, so that what the shelves kept is used too."""
    spec = changed(**GUIDED[guided])
    lane = StandIn(seed=len(guided))
    streamed = streaming(playground, lane)
    # In the same chunks: products of a few rows may round otherwise than those of many, see test_exact.py.
    chunked = replace(pipeline.plan(spec), token_chunk=places.get("token_chunk"))
    expected = pipeline(PROMPT, picture, spec=spec, plan=chunked)
    plan = replace(chunked, device="cuda", **places)
    for _ in range(2):
        assert same(streamed(PROMPT, picture, spec=spec, plan=plan), expected)
    assert lane.copies
    assert lane.syncs == 0, "the thread that computes never waits for the device"
    kept = lane.held_bytes > 0
    assert kept is (places["offload"] == "none"), "decoding has the device for itself, unless all of it fits"
    streamed.close()
    lane.check()
    assert (lane.held_bytes, lane.pinned_bytes) == (0, 0)


def test_another_plan_has_the_device_for_itself(playground: Path, picture: Image.Image, clip: Clip) -> None:
    """What a plan kept there for good is gone before the next one, which doesn't count on it, computes anything."""
    lane = StandIn()
    streamed = streaming(playground, lane)
    kept = replace(streamed.plan(TINY), device="cuda", slots=4 * LAYERS, buffers=2, offload="none", text="device")
    streamed(PROMPT, picture, spec=TINY, plan=kept).audio  # noqa: B018  decoded, so that its VAE is there
    assert lane.held_bytes
    assert streamed.placement.kept
    held: dict[str, int] = {}

    def listen(phase: str, _index: int, _total: int) -> None:
        held.setdefault(phase, lane.held_bytes if phase == "frame" else len(streamed.placement.kept))

    plan = replace(kept, slots=2, offload="layer")
    assert same(streamed(PROMPT, picture, spec=TINY, plan=plan, on_step=listen), clip)
    assert held["frame"] == 0
    assert held["denoising"] == 0
    streamed.close()
    lane.check()


def test_each_layer_is_copied_once_a_step(playground: Path, picture: Image.Image) -> None:
    lane = StandIn()
    streamed = streaming(playground, lane)
    plan = replace(streamed.plan(TINY), slots=2, buffers=2, offload="layer", text_kv=False)
    streamed(PROMPT, picture, spec=TINY, plan=plan)
    assert lane.copies == LAYERS * TINY.num_inference_steps


def test_text_that_was_read_is_not_read_again(playground: Path, picture: Image.Image) -> None:
    with_text, without = (StandIn(), StandIn())
    for lane, cached in ((with_text, True), (without, False)):
        streamed = streaming(playground, lane)
        plan = replace(streamed.plan(TINY), slots=2, buffers=2, offload="layer", text_kv=cached)
        streamed(PROMPT, picture, spec=changed(num_inference_steps=20), plan=plan)
    assert with_text.bytes < without.bytes


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_cancel_between_layers_of_a_stream(
    playground: Path, picture: Image.Image, clip: Clip, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mova.denoising.PULSE_SECONDS", 0.0)
    lane = StandIn(seed=step)
    streamed = streaming(playground, lane)
    plan = replace(streamed.plan(TINY), slots=2, buffers=3, offload="layer")
    heard = 0

    def stop(phase: str, index: int, _total: int) -> None:
        nonlocal heard
        heard += phase == "denoising" and index == step
        if heard == 3:  # the step itself, its first layer, and then the second
            raise Stop

    with pytest.raises(Stop):
        streamed(PROMPT, picture, spec=TINY, plan=plan, on_step=stop)
    assert lane.held_bytes == 0
    assert same(streamed(PROMPT, picture, spec=TINY, plan=plan), clip)
    streamed.close()
    lane.check()


# Memory that runs out


class Scarce(TorchDispatchMode):
    """Memory in which no operation's result may be as large as ``limit`` bytes: a real allocation that is refused."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.refused = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        size = result.untyped_storage().nbytes() if isinstance(result, Tensor) else 0
        self.largest = max(self.largest, size)
        if size > self.limit:
            self.refused += 1
            raise torch.OutOfMemoryError(f"No room for {size} bytes.")
        return result


def test_layers_that_find_no_room_come_in_smaller_numbers(playground: Path, picture: Image.Image, clip: Clip) -> None:
    """The device holds two layers and a bit; the plan had asked for all."""
    lane = StandIn(memory=2_500_000)
    streamed = streaming(playground, lane)
    plan = replace(streamed.plan(TINY), device="cuda", slots=4 * LAYERS, buffers=4, offload="component")
    made = streamed(PROMPT, picture, spec=TINY, plan=plan)
    assert same(made, clip)
    assert made.planned.plan.slots < plan.slots
    (note, *_) = made.planned.notes
    assert "Memory ran out while denoising" in note
    assert f"{made.planned.plan.slots} layers" in made.planned.notes[-1]
    assert same(streamed(PROMPT, picture, spec=TINY, plan=made.planned.plan), clip), "the next job runs"
    streamed.close()
    lane.check()


def test_steps_that_are_done_stay_done(playground: Path, picture: Image.Image, clip: Clip) -> None:
    """Memory is taken by somebody else in the last step."""
    lane = StandIn()
    streamed = streaming(playground, lane)
    plan = replace(streamed.plan(TINY), device="cuda", slots=3, buffers=4, offload="layer")
    heard: list[int] = []
    troubled = iter([True])

    def listen(phase: str, index: int, _total: int) -> None:
        if phase == "denoising":
            heard.append(index)
            if index == 2 and next(troubled, False):
                raise torch.OutOfMemoryError("Somebody else took it.")

    made = streamed(PROMPT, picture, spec=TINY, plan=plan, on_step=listen)
    assert same(made, clip)
    assert heard.index(2) == heard.count(0) + heard.count(1), "the third step came after the second"
    assert 0 not in heard[heard.index(2) :]
    assert made.planned.plan.slots == 2


def test_what_finds_no_room_at_all_fails_and_the_next_job_runs(
    playground: Path, picture: Image.Image, clip: Clip
) -> None:
    lane = StandIn(memory=1_000)
    streamed = streaming(playground, lane)
    plan = replace(streamed.plan(TINY), device="cuda", slots=4, buffers=2, offload="layer")
    with pytest.raises(torch.OutOfMemoryError):
        streamed(PROMPT, picture, spec=TINY, plan=plan)
    assert lane.held_bytes == 0
    streamed.close()
    streamed.denoiser.lane = StandIn()
    assert same(streamed(PROMPT, picture, spec=TINY, plan=replace(plan, slots=2)), clip)


def test_decoding_goes_on_in_tiles(pipeline: MovaPipeline, picture: Image.Image) -> None:
    """The pictures before the one that found no room are given once."""
    spec = changed(width=272, height=32)
    made = pipeline(PROMPT, picture.resize((272, 32)), spec=spec)
    whole = torch.cat(list(made.frames()))
    with Scarce(1 << 40) as roomy:
        list(made.frames())
    with Scarce(roomy.largest - 1) as scarce:
        frames = list(made.frames())
    assert scarce.refused
    assert torch.cat(frames).shape == whole.shape
    assert made.planned.plan.vae_tile is not None
    assert "tiles" in made.notes[-1]
    torch.testing.assert_close(torch.cat(frames), whole, atol=1e-4, rtol=0)


def test_the_frame_is_encoded_in_tiles(pipeline: MovaPipeline, picture: Image.Image) -> None:
    spec, guide = changed(width=1040, height=64), guidance(5.0)
    wide = picture.resize((1040, 64))
    with Scarce(1 << 40) as roomy:
        expected = pipeline.prepare([PROMPT], spec, guide, wide).condition
    planned = pipeline.planned(spec)
    with Scarce(roomy.largest - 1) as scarce:
        condition = pipeline.prepare([PROMPT], spec, guide, wide, planned=planned).condition
    assert scarce.refused
    assert planned.plan.vae_tile is not None
    assert "Memory ran out while encoding the frame" in planned.notes[0]
    torch.testing.assert_close(condition, expected, atol=1e-4, rtol=0)


def test_the_prompt_is_read_part_by_part(playground: Path, picture: Image.Image, clip: Clip) -> None:
    pipeline = with_card(MovaPipeline.from_pretrained(playground, device="cpu"))
    planned = pipeline.planned(TINY, replace(pipeline.plan(TINY), device="cuda", offload="component", text="device"))
    refusals = iter([True])

    embed = pipeline._embed

    def refused(texts: list[str], plan: Plan) -> Tensor:
        if next(refusals, False):
            raise torch.OutOfMemoryError("No room.")
        return embed(texts, plan)

    pipeline._embed = refused  # type: ignore[method-assign]
    made = pipeline(PROMPT, picture, spec=TINY, plan=planned.plan)
    assert made.planned.plan.text == "parts"
    assert same(made, clip)


def test_what_is_no_lack_of_memory_is_not_tried_again(
    pipeline: MovaPipeline, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    def broken(_self: Denoiser, _run: Run, _plan: Plan) -> None:
        nonlocal tried
        tried += 1
        raise RuntimeError("The device is gone.")

    monkeypatch.setattr(Denoiser, "_advance", broken)
    with pytest.raises(RuntimeError, match="gone"):
        pipeline(PROMPT, picture, spec=TINY)
    assert tried == 1


def test_a_step_is_told_between_its_layers(
    pipeline: MovaPipeline, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mova.denoising.PULSE_SECONDS", 0.0)
    heard: list[tuple[str, int, int]] = []
    pipeline(PROMPT, picture, spec=TINY, on_step=lambda *step: heard.append(step))
    assert heard.count(("denoising", 1, 3)) == 1 + LAYERS


# Approximate presets


@pytest.mark.parametrize("preset", ["light", "fast", "fastest"])
def test_an_approximate_clip_is_near_and_the_same_streamed(
    tmp_path: Path, picture: Image.Image, clip: Clip, preset: str
) -> None:
    checkpoint = make_playground(tmp_path / "MOVA-playground")
    pipeline = MovaPipeline.from_pretrained(checkpoint, device="cpu", preset=preset)
    spec = changed(num_inference_steps=8)
    exact = pipeline(PROMPT, picture, spec=spec, plan=pipeline.plan(spec, preset="exact"))
    made = pipeline(PROMPT, picture, spec=spec)
    assert not same(made, exact)
    assert (made.video_latents - exact.video_latents).abs().mean() < 0.5 * exact.video_latents.abs().mean()
    lane = StandIn()
    streamed = streaming(checkpoint, lane)
    plan = replace(pipeline.plan(spec), slots=3, buffers=2, offload="layer")
    assert same(streamed(PROMPT, picture, spec=spec, plan=plan), made)
    lane.check()
    assert same(pipeline(PROMPT, picture, spec=spec, plan=pipeline.plan(spec, preset="exact")), exact), "and back"
    streamed.close()


def test_reused_steps_copy_less(tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the video's layers are left out, the stream goes on with the next step."""
    checkpoint = make_playground(tmp_path / "MOVA-playground")
    monkeypatch.setitem(PRESETS, "fastest", replace(PRESETS["fastest"], cache=1e9))
    monkeypatch.setattr("mova.approximate.AUDIO_THRESHOLD", 1e9)
    lane = StandIn()
    streamed = streaming(checkpoint, lane)
    spec = changed(num_inference_steps=8)
    for cached in (False, True):  # with text read at the switch, which comes after a step that was left out
        before = lane.copies
        plan = replace(streamed.plan(spec, preset="fastest"), slots=2, buffers=2, offload="layer", text_kv=cached)
        assert streamed(PROMPT, picture, spec=spec, plan=plan).video_latents.isfinite().all()
        reading = 2 * 2 * LAYERS if cached else 0  # two prompts, two experts
        assert lane.copies - before - reading < LAYERS * spec.num_inference_steps
    streamed.close()
    lane.check()
