import json

import pytest
import torch

from mova.audio_vae import DAC

CONFIG = {
    "encoder_dim": 4,
    "encoder_rates": [2, 3, 5],
    "latent_dim": 6,
    "decoder_dim": 16,
    "decoder_rates": [5, 3, 2],
    "sample_rate": 1500,
    "continuous": True,
}


def sound(samples: int, batch: int = 1) -> torch.Tensor:
    return (torch.arange(batch * samples) * 0.05).sin().reshape(batch, 1, samples) * 0.5


@pytest.fixture
def vae() -> DAC:
    torch.manual_seed(3)
    return DAC(**CONFIG, use_weight_norm=True).eval()


def test_lengths(vae: DAC) -> None:
    padded = vae.preprocess(sound(100))
    assert padded.shape[-1] == 120
    assert torch.equal(padded[..., 100:], torch.zeros(1, 1, 20))
    posterior = vae.encode(padded)
    assert posterior.mode().shape == (1, 6, 4)
    assert vae.decode(posterior.mode()).shape == (1, 1, 120)
    assert vae(sound(100)).shape == (1, 1, 100)


def test_a_batch_is_its_samples(vae: DAC) -> None:
    audio = sound(60, batch=3)
    torch.testing.assert_close(vae(audio)[1:2], vae(audio[1:2]), atol=1e-6, rtol=1e-5)


def test_fused_weights_give_the_same_sound_and_the_released_names(vae: DAC) -> None:
    before = vae(sound(60))
    normed = {key for key in vae.state_dict() if key.endswith("weight_g")}
    vae.fuse_weight_norm()
    torch.testing.assert_close(vae(sound(60)), before, atol=1e-6, rtol=1e-5)
    assert normed
    assert vae.state_dict().keys() == DAC(**CONFIG, use_weight_norm=False).state_dict().keys()
    assert vae.config["use_weight_norm"] is False


def test_a_fused_vae_is_saved_and_loaded(vae: DAC, tmp_path: object) -> None:
    vae.fuse_weight_norm()
    vae.save_pretrained(tmp_path)
    again = DAC.from_pretrained(tmp_path)
    assert torch.equal(again(sound(60)), vae(sound(60)))
    assert json.loads((tmp_path / "config.json").read_text())["use_weight_norm"] is False


def test_samples_come_from_the_generator(vae: DAC) -> None:
    posterior = vae.encode(sound(60))
    one, same, other = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one, posterior.mean + posterior.std * noise)


def test_the_discrete_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="continuous"):
        DAC(**{**CONFIG, "continuous": False})
