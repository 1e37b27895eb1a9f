import math

import numpy as np
import pytest
from pydantic import ValidationError

from mova.spec import ClipSpec, frames_for, nearest, problems


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("height", 360, "352 and 368"),
        ("height", 0, "nearest valid: 16"),
        ("width", -16, "nearest valid: 16"),
        ("width", 640.5, "640 and 656"),
        ("height", "tall", "whole number of pixels"),
        ("num_frames", 192, "189 and 193"),
        ("num_frames", 0, "nearest valid: 1"),
        ("num_frames", 194, "193 and 197"),
        ("num_inference_steps", 0, "nearest valid: 1"),
        ("num_inference_steps", 2.5, "2 and 3"),
        ("num_inference_steps", 5000, "nearest valid: 1000"),
        ("guidance_scale", -1, "nearest valid: 0"),
        ("guidance_scale", math.nan, "finite"),
        ("bridge_guidance_scale", math.inf, "finite"),
        ("fps", 0, "nearest valid: 1"),
        ("fps", 1e6, "nearest valid: 240"),
        ("height", 16_000_000, "nearest valid: 4096"),
        ("num_frames", 10**400, "nearest valid: 4001"),
        ("seed", 10**400, "nearest valid: 9223372036854775807"),
        ("fps", math.nan, "finite"),
        ("video_shift", 0, "trained with 5"),
        ("audio_shift", math.nan, "finite"),
        ("seed", -1, "nearest valid: 0"),
        ("seed", 2**63, "nearest valid: 9223372036854775807"),
        ("seed", True, "whole number"),
    ],
)
def test_a_wrong_number_is_refused_with_the_nearest_valid_ones(field: str, value: object, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ClipSpec(**{field: value})
    (sentence,) = problems(caught.value)
    assert sentence.startswith(field)
    assert says in sentence


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        ClipSpec(height=350, num_frames=4, guidance_scale=math.nan)
    assert [sentence.split()[0] for sentence in problems(caught.value)] == ["height", "num_frames", "guidance_scale"]


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError):
        ClipSpec(sigma_shift=5)


def test_the_nearest_values_named_are_valid() -> None:
    for wrong in range(1, 700, 7):
        for height in nearest(wrong, 16, lowest=16):
            assert ClipSpec(height=height).height == height
        for frames in nearest(wrong, 4, 1):
            assert ClipSpec(num_frames=frames).num_frames == frames


@pytest.mark.parametrize(("seconds", "fps", "frames"), [(8, 24, 193), (2, 12, 25), (0, 24, 1), (5, 24, 121)])
def test_frames_for_seconds(seconds: float, fps: float, frames: int) -> None:
    assert frames_for(seconds, fps) == frames
    ClipSpec(num_frames=frames)


def test_audio_belongs_to_exactly_the_frames() -> None:
    assert ClipSpec().audio_samples(48_000) == 386_000
    assert ClipSpec(num_frames=5, fps=24).audio_samples(48_000) == 10_000


def test_numbers_of_other_kinds_are_numbers() -> None:
    spec = ClipSpec(height=np.int64(352), guidance_scale=np.float32(5), fps=24)
    assert spec == ClipSpec(height=352, guidance_scale=5.0, fps=24.0)


def test_a_spec_survives_json() -> None:
    spec = ClipSpec(height=144, width=256, video_shift=3.5, seed=2**63 - 1)
    assert ClipSpec.model_validate_json(spec.model_dump_json()) == spec
