import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from mova.guidance import Guidance, guidance
from mova.joint import JointTransformer
from mova.layout import WEIGHTED
from mova.pipeline import PHASES, Clip, MovaPipeline
from mova.spec import ClipSpec

PROMPT = "The red ball bounces on a wood floor."


class Stop(Exception):
    """A creator's cancel."""


def changed(**changes: Any) -> ClipSpec:
    return ClipSpec(**{**TINY.model_dump(), **changes})


def same(one: Clip, other: Clip) -> bool:
    return torch.equal(one.video_latents, other.video_latents) and torch.equal(one.audio_latents, other.audio_latents)


@pytest.fixture(scope="module")
def clip(pipeline: MovaPipeline, picture: Image.Image) -> Clip:
    return pipeline(PROMPT, picture, spec=TINY)


def test_a_clip_has_the_length_and_size_asked_for(clip: Clip) -> None:
    frames = torch.cat(list(clip.frames()))
    assert frames.shape == (5, 32, 48, 3)
    assert 0 <= frames.min() <= frames.max() <= 1
    assert frames.std() > 0.01
    audio = clip.audio
    assert audio.shape == (int(16_000 * 5 / 12),)
    assert audio.dtype == np.float32
    assert 0 < np.abs(audio).max() <= 1


def test_the_same_seed_gives_the_same_clip(pipeline: MovaPipeline, picture: Image.Image, clip: Clip) -> None:
    again = pipeline(PROMPT, picture, spec=TINY)
    assert same(again, clip)
    assert torch.equal(torch.cat(list(again.frames())), torch.cat(list(clip.frames())))
    assert np.array_equal(again.audio, clip.audio)


def test_torchs_own_generator_has_no_part_in_it(pipeline: MovaPipeline, picture: Image.Image, clip: Clip) -> None:
    torch.manual_seed(99)
    assert same(pipeline(PROMPT, picture, spec=TINY), clip)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"num_inference_steps": 4},
        {"fps": 24},
        {"num_frames": 9},
        {"height": 48},
        {"width": 64},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"bridge_guidance_scale": 2.0},
        {"bridge_guidance_scale": 0.0},
        {"video_shift": 3.0},
        {"audio_shift": 3.0},
        {"negative_prompt": "loud"},
    ],
    ids=str,
)
def test_every_setting_changes_the_clip(
    pipeline: MovaPipeline, picture: Image.Image, clip: Clip, change: dict[str, Any]
) -> None:
    spec = changed(**change)
    other = pipeline(PROMPT, picture.resize((spec.width, spec.height)), spec=spec)
    assert not same(other, clip)


def test_prompt_and_pictures_change_the_clip(pipeline: MovaPipeline, picture: Image.Image, clip: Clip) -> None:
    assert not same(pipeline("A blue cube.", picture, spec=TINY), clip)
    assert not same(pipeline(PROMPT, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), spec=TINY), clip)
    assert not same(pipeline(PROMPT, picture, spec=TINY, last_image=picture), clip)


def test_text_only_is_a_white_first_frame_and_said(pipeline: MovaPipeline) -> None:
    made = pipeline(PROMPT, spec=TINY)
    assert same(made, pipeline(PROMPT, Image.new("RGB", (48, 32), "white"), spec=TINY))
    assert any("white" in note for note in made.notes)


def test_a_cut_prompt_is_said(pipeline: MovaPipeline, picture: Image.Image, clip: Clip) -> None:
    long = pipeline("red ball " * 400, picture, spec=changed(num_inference_steps=1))
    assert any("first 512" in note for note in long.notes)
    assert clip.notes == ()


def test_an_empty_prompt_is_allowed(pipeline: MovaPipeline, picture: Image.Image) -> None:
    assert pipeline("", picture, spec=changed(num_inference_steps=1)).video_latents.isfinite().all()


def test_a_clip_of_one_frame_has_no_last_frame(pipeline: MovaPipeline, picture: Image.Image) -> None:
    one = changed(num_frames=1, num_inference_steps=1)
    assert torch.cat(list(pipeline(PROMPT, picture, spec=one).frames())).shape[0] == 1
    with pytest.raises(ValueError, match="5 frames"):
        pipeline(PROMPT, picture, spec=one, last_image=picture)


def test_a_picture_of_another_size_is_refused(pipeline: MovaPipeline) -> None:
    with pytest.raises(ValueError, match=r"64x64.*48x32"):
        pipeline(PROMPT, Image.new("RGB", (64, 64)), spec=TINY)


@pytest.mark.parametrize("offload", ["none", "component", "layer"])
@pytest.mark.parametrize("free_first_expert", [False, True])
def test_every_offload_mode_gives_the_same_clip_twice(
    playground: Path, picture: Image.Image, clip: Clip, offload: str, free_first_expert: bool
) -> None:
    pipeline = MovaPipeline.from_pretrained(
        playground, device="cpu", offload=offload, free_first_expert=free_first_expert
    )
    for _ in range(2):
        made = pipeline(PROMPT, picture, spec=TINY)
        assert same(made, clip)
        assert torch.equal(torch.cat(list(made.frames())), torch.cat(list(clip.frames())))
        assert np.array_equal(made.audio, clip.audio)
        assert ("video_dit" in pipeline.placement) is not free_first_expert


def test_a_freed_expert_is_really_gone(playground: Path, picture: Image.Image) -> None:
    pipeline = MovaPipeline.from_pretrained(playground, device="cpu", free_first_expert=True)
    weight = weakref.ref(pipeline.placement.get("video_dit").blocks[0].ffn[0].weight)
    alive: dict[int, bool] = {}

    def look(phase: str, step: int, _total: int) -> None:
        if phase == "denoising":
            alive[step] = weight() is not None

    pipeline(PROMPT, picture, spec=changed(num_inference_steps=4), on_step=look)
    assert (
        list(alive.values()) == [True] * 2 + [False] * 3
    )  # two steps of the first expert, then the second one's, and the end


@pytest.mark.parametrize("offload", ["none", "component", "layer"])
def test_clips_may_be_decoded_by_turns_and_given_up(
    playground: Path, picture: Image.Image, clip: Clip, offload: str
) -> None:
    pipeline = MovaPipeline.from_pretrained(playground, device="cpu", offload=offload)
    one, other = (pipeline(PROMPT, picture, spec=changed(seed=seed)) for seed in (TINY.seed, 8))
    alone = [torch.cat(list(each.frames())) for each in (one, other)]
    given_up = one.frames()
    next(given_up)
    assert same(pipeline(PROMPT, picture, spec=TINY), clip)
    turns = list(zip(one.frames(), other.frames(), strict=True))
    for index in range(2):
        assert torch.equal(torch.cat([turn[index] for turn in turns]), alone[index])


def test_both_experts_lead_in_turn_at_the_published_shares(pipeline: MovaPipeline) -> None:
    for steps, high in ((50, 18), (25, 9), (20, 8), (10, 4), (4, 2), (1, 1)):
        experts = [step.expert for step in pipeline.denoiser.schedule(changed(num_inference_steps=steps))]
        assert experts == ["video_dit"] * high + ["video_dit_2"] * (steps - high)


def test_what_the_callback_hears(pipeline: MovaPipeline, picture: Image.Image, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    pipeline.placement.free("audio_dit")
    made = pipeline(PROMPT, picture, spec=TINY, on_step=lambda *step: heard.append(step))
    made.save(tmp_path / "clip.mp4")
    phases = [phase for phase, _, _ in heard]
    assert sorted(set(phases), key=phases.index) == list(PHASES)
    for phase in PHASES:
        steps = [(step, total) for name, step, total in heard if name == phase]
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1]
        assert steps == sorted(steps)
    assert {step for phase, step, _ in heard if phase == "denoising"} == {0, 1, 2, 3}


@pytest.mark.parametrize("offload", ["none", "component", "layer"])
def test_a_cancel_anywhere_leaves_the_pipeline_usable(
    playground: Path, picture: Image.Image, clip: Clip, offload: str, tmp_path: Path
) -> None:
    pipeline = MovaPipeline.from_pretrained(playground, device="cpu", offload=offload, free_first_expert=True)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    pipeline(PROMPT, picture, spec=TINY, on_step=count).save(tmp_path / "whole.mp4")
    total = calls - 1  # the last call is made once the file is there
    for stop_at in [*range(1, total, 3), total]:
        calls = 0

        def stop(*_: object, stop_at: int = stop_at) -> None:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise Stop

        with pytest.raises(Stop):
            pipeline(PROMPT, picture, spec=TINY, on_step=stop).save(tmp_path / "stopped.mp4")
    assert same(pipeline(PROMPT, picture, spec=TINY), clip)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.mp4"]


def count_evaluations(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list that grows by whether the bridge is used, with every branch that is evaluated."""
    seen: list[bool] = []
    evaluate = JointTransformer.evaluate

    def counted(self: JointTransformer, *args: Any, **kwargs: Any) -> Any:
        seen.extend(bridge for _, bridge in args[4])
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(JointTransformer, "evaluate", counted)
    return seen


@pytest.mark.parametrize(
    ("text", "bridge", "evaluations"),
    [(1.0, 1.0, [True]), (5.0, 1.0, [True] * 2), (3.5, 3.5, [False, True]), (5.0, 3.5, [False, True, True])],
)
def test_a_step_takes_as_many_evaluations_as_its_guidance_needs(
    pipeline: MovaPipeline,
    picture: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    text: float,
    bridge: float,
    evaluations: list[bool],
) -> None:
    seen = count_evaluations(monkeypatch)
    pipeline(PROMPT, picture, spec=changed(guidance_scale=text, bridge_guidance_scale=bridge))
    assert seen == evaluations * TINY.num_inference_steps


def test_without_guidance_the_negative_prompt_is_not_read(pipeline: MovaPipeline, picture: Image.Image) -> None:
    one, other = (
        pipeline(PROMPT, picture, spec=changed(guidance_scale=1.0, negative_prompt=negative))
        for negative in ("loud", "soft")
    )
    assert same(one, other)


def test_dual_guidance_at_bridge_scale_one_is_text_guidance(
    pipeline: MovaPipeline, picture: Image.Image, clip: Clip
) -> None:
    whole = guidance(TINY.guidance_scale, 3.0)  # all three evaluations, then with a bridge scale of one
    plan = Guidance(whole.branches, (1.0, TINY.guidance_scale))
    assert len(plan.branches) == 3
    video, audio = pipeline.denoise(pipeline.prepare([PROMPT], TINY, plan, picture), TINY, plan)
    torch.testing.assert_close(video, clip.video_latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(audio, clip.audio_latents, atol=1e-4, rtol=1e-4)


def test_a_batch_is_its_samples(pipeline: MovaPipeline, picture: Image.Image) -> None:
    prompts, plan = [PROMPT, "A blue cube.", "loud"], guidance(5.0)
    prepared = pipeline.prepare(prompts, TINY, plan, picture)
    video, audio = pipeline.denoise(prepared, TINY, plan)
    for index, prompt in enumerate(prompts):
        alone = pipeline(prompt, picture, spec=changed(seed=TINY.seed + index))
        torch.testing.assert_close(video[index : index + 1], alone.video_latents, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(audio[index : index + 1], alone.audio_latents, atol=2e-4, rtol=1e-4)


def test_noise_is_drawn_video_first_in_float32(pipeline: MovaPipeline) -> None:
    video, audio = pipeline.draw_noise(TINY, 7)
    torch.manual_seed(7)
    assert torch.equal(video, torch.randn(1, 16, 2, 4, 6))
    assert torch.equal(audio, torch.randn(audio.shape))
    assert audio.shape == (1, 16, (6666 - 1) // 320 + 1)


def test_bfloat16_runs(playground: Path, picture: Image.Image) -> None:
    pipeline = MovaPipeline.from_pretrained(playground, device="cpu", dtype="bfloat16")
    made = pipeline(PROMPT, picture, spec=TINY)
    assert made.video_latents.dtype is torch.float32
    assert torch.cat(list(made.frames())).isfinite().all()
    assert np.isfinite(made.audio).all()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"device": "tpu9"}, "tpu9"),
        ({"device": "meta"}, "cpu or cuda"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"dtype": "int3"}, "bfloat16"),
        ({"offload": "everything"}, "component"),
    ],
)
def test_an_unknown_option_is_named(playground: Path, option: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MovaPipeline.from_pretrained(playground, **option)


def test_loading_is_reported_and_can_be_cancelled(playground: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    MovaPipeline.from_pretrained(playground, device="cpu", on_step=lambda *step: heard.append(step))
    assert heard == [("loading", index, len(WEIGHTED)) for index in range(len(WEIGHTED) + 1)]

    def stop(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        MovaPipeline.from_pretrained(playground, device="cpu", on_step=stop)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("offload", ["none", "component", "layer"])
def test_on_a_gpu_every_offload_mode_gives_the_same_clip(
    playground: Path, picture: Image.Image, clip: Clip, offload: str
) -> None:
    pipeline = MovaPipeline.from_pretrained(playground, device="cuda", offload=offload)
    made, again = (pipeline(PROMPT, picture, spec=TINY) for _ in range(2))
    resident = MovaPipeline.from_pretrained(playground, device="cuda")(PROMPT, picture, spec=TINY)
    torch.testing.assert_close(made.video_latents.cpu(), clip.video_latents, atol=1e-2, rtol=1e-2)
    assert same(made, again)
    assert same(made, resident)
    assert torch.equal(torch.cat(list(made.frames())), torch.cat(list(resident.frames())))
    assert np.array_equal(made.audio, resident.audio)
