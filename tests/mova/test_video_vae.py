import pytest
import torch
from diffusers import AutoencoderKLWan

from mova.video_vae import decode_frames, denormalise, encode_condition, normalise


@pytest.fixture(scope="module", params=["plain", "residual"])
def vae(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    torch.manual_seed(5)
    if request.param == "plain":
        return AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1).eval()
    patched = {"in_channels": 12, "out_channels": 12, "patch_size": 2, "is_residual": True}
    return AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, **patched).eval()


def test_frame_by_frame_is_the_whole(vae: AutoencoderKLWan) -> None:
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    groups = list(decode_frames(vae, latents))
    assert [group.shape[2] for group in groups] == [1, 4, 4]
    assert torch.equal(torch.cat(groups, dim=2), vae.decode(denormalise(vae, latents)).sample)


def test_a_decode_that_is_given_up_leaves_no_trace(vae: AutoencoderKLWan) -> None:
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    first = next(decode_frames(vae, latents)).clone()
    given_up = decode_frames(vae, latents)
    next(given_up)
    next(given_up)
    given_up.close()
    assert torch.equal(next(decode_frames(vae, latents)), first)


def test_normalising_and_back(vae: AutoencoderKLWan) -> None:
    latents = torch.randn(1, 16, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(denormalise(vae, normalise(vae, latents)), latents)


def test_the_mask_says_which_frames_are_given(vae: AutoencoderKLWan) -> None:
    first, last = torch.full((2, 3, 32, 32), 0.5), torch.full((2, 3, 32, 32), -0.5)
    condition = encode_condition(vae, first, 9)
    h, w = condition.shape[-2:]
    assert condition.shape[:3] == (2, 20, 3)
    assert torch.equal(condition[:, :4, 0], torch.ones(2, 4, h, w))
    assert not condition[:, :4, 1:].any()
    with_last = encode_condition(vae, first, 9, last)
    assert torch.equal(with_last[:, :4, :2], condition[:, :4, :2])
    # Only the last of the four frames that share the last latent is given.
    assert torch.equal(with_last[:, :4, 2, 0, 0], torch.tensor([[0.0, 0, 0, 1]] * 2))
    assert torch.equal(with_last[:, 4:, 0], condition[:, 4:, 0])
    assert not torch.equal(with_last[:, 4:, 2], condition[:, 4:, 2])
