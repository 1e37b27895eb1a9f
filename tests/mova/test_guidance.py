import pytest
import torch

from mova.guidance import guidance

V00, V0B, VTB = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
BY_BRANCH = {(False, False): V00, (False, True): V0B, (True, True): VTB}


def guided(text: float, bridge: float) -> torch.Tensor:
    plan = guidance(text, bridge)
    return plan.combine([BY_BRANCH[branch.text, branch.bridge] for branch in plan.branches])


@pytest.mark.parametrize("text", [0.0, 1.0, 3.5, 5.0])
@pytest.mark.parametrize("bridge", [0.0, 1.0, 2.0, 3.5])
def test_every_pair_of_scales_gives_the_reports_formula(text: float, bridge: float) -> None:
    expected = V00 + bridge * (V0B - V00) + text * (VTB - V0B)
    torch.testing.assert_close(guided(text, bridge), expected, atol=1e-5, rtol=1e-5)


def test_text_guidance_alone_is_the_originals_expression() -> None:
    assert torch.equal(guided(5.0, 1.0), V0B + 5.0 * (VTB - V0B))


@pytest.mark.parametrize(
    ("text", "bridge", "evaluations"),
    [
        (1.0, 1.0, 1),
        (5.0, 1.0, 2),
        (3.5, 3.5, 2),
        (5.0, 3.5, 3),
        (1.0, 3.5, 3),
        (0.0, 1.0, 1),
        (0.0, 0.0, 1),
        (0.0, 3.0, 2),
    ],
)
def test_no_more_evaluations_than_needed(text: float, bridge: float, evaluations: int) -> None:
    assert len(guidance(text, bridge).branches) == evaluations


def test_without_guidance_the_negative_prompt_is_not_needed() -> None:
    assert not guidance(1.0).needs_negative_prompt
    assert guidance(5.0).needs_negative_prompt


def test_velocities_are_combined_in_float32() -> None:
    plan = guidance(5.0)
    assert plan.combine([V0B.bfloat16(), VTB.bfloat16()]).dtype is torch.float32


@pytest.mark.parametrize(("text", "bridge"), [(5.0, 1.0), (3.5, 3.5), (5.0, 3.5), (0.0, 0.0), (0.0, 3.0)])
def test_unguided_is_what_heard_most_alone(text: float, bridge: float) -> None:
    plan = guidance(text, bridge)
    assert plan.unguided.branches == plan.branches[-1:]
    assert torch.equal(plan.unguided.combine([VTB]), VTB)
    assert plan.unguided.needs_negative_prompt == (text == 0.0)
