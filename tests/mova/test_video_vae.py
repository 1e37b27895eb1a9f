from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from mova.spec import FRAME_GROUP
from mova.vae_kernels import VaeKernels
from mova.vae_tiles import Tile
from mova.video_vae import condition_frames, decode_frames, denormalise, encode_condition, normalise

PATCHED = {"in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual": {"is_residual": True, **PATCHED},
    "patched": PATCHED,
    "early": {"temperal_downsample": [True, True, False]},
}
SETTLED = {"plain": 85, "residual": 85, "patched": 85, "early": 97}  # frames, of any number beyond


def build(kind: str) -> AutoencoderKLWan:
    torch.manual_seed(5)
    vae = AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, **KINDS[kind])
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["plain", "residual"])
def vae(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    return build(request.param)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def encode_all(vae: AutoencoderKLWan, first: Tensor, num_frames: int, last: Tensor | None = None) -> Tensor:
    """The latents of the whole clip, as diffusers encodes it."""
    video = first.new_zeros(*first.shape[:2], num_frames, *first.shape[2:])
    video[:, :, 0] = first
    if last is not None:
        video[:, :, -1] = last
    with VaeKernels(vae.dtype):
        return normalise(vae, vae.encode(video.to(vae.dtype)).latent_dist.mode().float())


def decode_all(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    with VaeKernels(vae.dtype):
        return vae.decode(denormalise(vae, latents).to(vae.dtype)).sample.float()


@contextmanager
def counted_groups(vae: AutoencoderKLWan) -> Iterator[list[int]]:
    """Frames of each group that the encoder is given."""
    groups: list[int] = []
    hook = vae.encoder.conv_in.register_forward_pre_hook(lambda _module, args: groups.append(args[0].shape[2]))
    yield groups
    hook.remove()


def test_frame_by_frame_is_the_whole(vae: AutoencoderKLWan) -> None:
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    groups = list(decode_frames(vae, latents))
    assert [group.shape[2] for group in groups] == [1, 4, 4]
    assert torch.equal(torch.cat(groups, dim=2), decode_all(vae, latents))


def test_a_decode_that_is_given_up_leaves_no_trace(vae: AutoencoderKLWan) -> None:
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    first = next(decode_frames(vae, latents)).clone()
    given_up = decode_frames(vae, latents)
    next(given_up)
    next(given_up)
    given_up.close()
    assert torch.equal(next(decode_frames(vae, latents)), first)


def test_two_clips_are_decoded_by_turns(vae: AutoencoderKLWan) -> None:
    one, other = (torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    turns = list(zip(decode_frames(vae, one), decode_frames(vae, other), strict=True))
    assert torch.equal(torch.cat([turn[0] for turn in turns], dim=2), decode_all(vae, one))
    assert torch.equal(torch.cat([turn[1] for turn in turns], dim=2), decode_all(vae, other))


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_is_the_whole_clip_encoded(kind: str) -> None:
    vae = build(kind)
    first, last = random(1, 3, 32, 32), random(1, 3, 32, 32, seed=2)
    whole = encode_all(vae, first, SETTLED[kind] + 8)  # causal: of a shorter clip, the beginning
    for groups in range(1, whole.shape[2] + 1, 3):
        condition = encode_condition(vae, first, FRAME_GROUP * (groups - 1) + 1)
        assert torch.equal(condition[:, 4:], whole[:, :, :groups])
    for num_frames in (5, SETTLED[kind], SETTLED[kind] + 8):
        condition = encode_condition(vae, first, num_frames, last)
        assert torch.equal(condition[:, 4:], encode_all(vae, first, num_frames, last))


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_is_encoded_until_it_stays_the_same(kind: str) -> None:
    vae = build(kind)
    first = random(1, 3, 32, 32)
    assert condition_frames(vae, 1) == 1
    assert condition_frames(vae, 9) == 9
    assert condition_frames(vae, 1001) == SETTLED[kind]
    assert condition_frames(vae, 1001, last_frame=True) == SETTLED[kind] + FRAME_GROUP
    latents = encode_all(vae, first, SETTLED[kind] + 8)
    settled = (SETTLED[kind] - 1) // FRAME_GROUP
    assert torch.equal(latents[:, :, settled], latents[:, :, -1])
    assert not torch.equal(latents[:, :, settled - 1], latents[:, :, -1])  # not a frame too many
    for last in (None, first):
        with counted_groups(vae) as groups:
            encode_condition(vae, first, 1001, last)
        assert sum(groups) == condition_frames(vae, 1001, last_frame=last is not None)
        assert max(groups) == FRAME_GROUP


def test_of_193_frames_the_released_vae_encodes_117() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert condition_frames(vae, 193) == 117
    assert condition_frames(vae, 193, last_frame=True) == 121


@pytest.mark.parametrize(
    ("kind", "latent_size", "tile"), [("plain", (14, 12), 64), ("patched", (10, 4), 128), ("residual", (10, 4), 144)]
)
@pytest.mark.parametrize("waiting", [None, torch.device("cpu")])
def test_tiles_are_the_whole_picture(
    kind: str, latent_size: tuple[int, int], tile: int, waiting: torch.device | None
) -> None:
    vae = build(kind)
    latents = torch.randn(1, 16, 2, *latent_size, generator=torch.Generator().manual_seed(1))
    whole = torch.cat(list(decode_frames(vae, latents)), dim=2)
    height, width = whole.shape[-2:]
    assert tile < height
    tiled = torch.cat(list(decode_frames(vae, latents, tile, waiting)), dim=2)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-5)
    assert torch.equal(torch.cat(list(decode_frames(vae, latents, max(height, width))), dim=2), whole)

    first, last = random(1, 3, height, width), random(1, 3, height, width, seed=2)
    condition = encode_condition(vae, first, 9, last)
    tiled = encode_condition(vae, first, 9, last, tile=tile, waiting=waiting)
    torch.testing.assert_close(tiled, condition, rtol=0, atol=2e-5)
    assert torch.equal(encode_condition(vae, first, 9, last, tile=max(height, width)), condition)


def test_tiles_wait_where_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = build("plain")
    moves: list[str] = []
    monkeypatch.setattr(Tile, "move", lambda _tile, device: moves.append(device.type))
    list(decode_frames(vae, torch.zeros(1, 16, 2, 8, 6), 56, torch.device("meta")))
    assert moves[:4] == ["cpu", "meta"] * 2
    assert moves.count("cpu") == moves.count("meta")


def test_a_tile_that_is_all_margin_says_how_large_one_must_be() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan().eval()
    latents, picture = torch.zeros(1, 16, 1, 8, 8, device="meta"), torch.zeros(1, 3, 64, 64, device="meta")
    with pytest.raises(ValueError, match="A tile of 48 pixels is all margin; take 52 or more"):
        next(decode_frames(vae, latents, 48))
    with pytest.raises(ValueError, match="take 44 or more"):
        encode_condition(vae, picture, 1, tile=40)
