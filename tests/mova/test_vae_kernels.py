import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from mova.meter import Meter
from mova.vae_kernels import VaeKernels


def build(dtype: torch.dtype = torch.float32, device: str = "cpu", base_dim: int = 4) -> AutoencoderKLWan:
    torch.manual_seed(5)
    with torch.device(device):
        vae = AutoencoderKLWan(base_dim=base_dim, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
    for parameter in vae.parameters():
        parameter.data = parameter.data.to(dtype)
    return vae.eval().requires_grad_(False)


def there_and_back(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    video = torch.rand(1, 3, 9, 32, 48, generator=torch.Generator().manual_seed(1)).to(vae.dtype) * 2 - 1
    latents = vae.encode(video).latent_dist.mode()
    return latents, vae.decode(latents).sample


def kernels_run(x: Tensor) -> set[str]:
    """The names of what a convolution of 3 x 3 x 3 runs on."""
    convolution = nn.Conv3d(x.shape[1], 4, 3).requires_grad_(False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        convolution(x)
    return {event.key for event in profile.key_averages()}


def test_float32_is_the_same_but_for_rounding_and_always_the_same() -> None:
    vae = build()
    plain = there_and_back(vae)
    with VaeKernels(vae.dtype):
        once, again = there_and_back(vae), there_and_back(vae)
    for expected, first, second in zip(plain, once, again, strict=True):
        torch.testing.assert_close(first, expected, rtol=0, atol=2e-5)
        assert torch.equal(first, second)


def test_bfloat16_is_bit_for_bit_the_same() -> None:
    vae = build(torch.bfloat16)
    plain = there_and_back(vae)
    with VaeKernels(vae.dtype):
        lean = there_and_back(vae)
    assert all(torch.equal(expected, found) for expected, found in zip(plain, lean, strict=True))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of PyTorch is without oneDNN")
def test_one_small_sample_is_convolved_by_onednn() -> None:
    small = torch.zeros(1, 4, 3, 8, 8)
    assert "aten::slow_conv3d_forward" in kernels_run(small)  # or torch chooses better by now, and this can go
    with VaeKernels(torch.float32):
        assert "aten::mkldnn_convolution" in kernels_run(small)
    with VaeKernels(torch.float32), torch.backends.mkldnn.flags(enabled=False):
        assert "aten::mkldnn_convolution" not in kernels_run(small)


def test_double_precision_is_left_alone() -> None:
    x, convolution = torch.randn(1, 4, 3, 8, 8, dtype=torch.float64), nn.Conv3d(4, 2, 3).double()
    expected = convolution(x)
    with VaeKernels(torch.float64):
        assert torch.equal(convolution(x), expected)


def test_a_vector_of_zeros_stays_zero() -> None:
    with VaeKernels(torch.float32):
        assert torch.equal(F.normalize(torch.zeros(2, 3, 4), dim=1), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_ways_of_enlarging_are_left_alone(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 4, 4)
    for settings in ({"scale_factor": (3.0, 3.0), "mode": "nearest-exact"}, {"scale_factor": 2.0, "mode": "bilinear"}):
        expected = F.interpolate(x, **settings)
        with VaeKernels(dtype):
            assert torch.equal(F.interpolate(x, **settings), expected)


def test_16_bits_need_less_memory() -> None:
    vae = build(torch.bfloat16, device="meta", base_dim=32)
    z = torch.zeros(1, 16, 2, 16, 16, dtype=torch.bfloat16, device="meta")
    with Meter(fused=False) as plain:
        vae.decode(z)
    with Meter(fused=False) as lean, VaeKernels(vae.dtype):
        vae.decode(z)
    assert lean.peak < 0.95 * plain.peak
