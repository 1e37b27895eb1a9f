"""What the towers are asked: noise levels by expert, one for both modalities or two, dropped texts, separate losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_help import BOUNDARY_RATIO, levels, objective, sample

from mova.training.model import load_model
from mova.training.objective import Objective, sample_generator
from mova.training.samples import Batch, Order, read_batches


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [sample_generator(seed, place) for place in range(count)]


def batch_of(count: int) -> Batch:
    return Batch.of([sample(number) for number in range(count)])


def test_a_noisy_sample_lies_between_data_and_noise(playground: Path) -> None:
    batch = batch_of(3)
    question = objective(playground).ask(batch, "video_dit", generators(3))
    table = levels(playground)
    for noisy, target, data, timestep, column in (
        (question.noisy_video, question.video_target, batch.latents, question.timestep, 0),
        (question.noisy_audio, question.audio_target, batch.audio_latents, question.audio_timestep, 1),
    ):
        rows = (table.timesteps[:, column] - timestep.unsqueeze(1)).abs().argmin(1)
        sigma = table.sigmas[rows, column].view(-1, *[1] * (data.ndim - 1))
        torch.testing.assert_close(noisy, data + sigma * target)
        torch.testing.assert_close((target + data).std(), torch.tensor(1.0), rtol=0.1, atol=0)


def test_each_expert_gets_its_own_range_of_timesteps(playground: Path) -> None:
    objective_ = objective(playground)
    for expert in ("video_dit", "video_dit_2"):
        timestep = objective_.ask(batch_of(40), expert, generators(40)).timestep
        high = timestep >= 1000 * BOUNDARY_RATIO
        assert high.all() if expert == "video_dit" else not high.any()
        assert len(set(timestep.tolist())) > 20


def test_picture_and_sound_share_a_row_or_not(playground: Path) -> None:
    batch, noises = batch_of(40), generators(40)
    together = objective(playground).ask(batch, "video_dit", noises)
    assert torch.equal(together.timestep, together.audio_timestep)
    apart = replace(objective(playground), independent=0.5).ask(batch, "video_dit", generators(40))
    different = (apart.timestep != apart.audio_timestep).float().mean().item()
    assert 0.1 < different < 0.9
    assert (apart.timestep >= 1000 * BOUNDARY_RATIO).all()
    assert (apart.audio_timestep < 1000 * BOUNDARY_RATIO).any()


def test_shifts_give_picture_and_sound_a_level_each(playground: Path) -> None:
    shifted = replace(objective(playground), levels=levels(playground, video_shift=5.0, audio_shift=1.0))
    question = shifted.ask(batch_of(10), "video_dit_2", generators(10))
    s = question.audio_timestep / 1000  # with a shift of 1 the line itself
    torch.testing.assert_close(question.timestep, 1000 * 5 * s / (1 + 4 * s))


def test_some_texts_are_dropped(playground: Path) -> None:
    batch, empty = batch_of(40), torch.full((512, 64), 7.0)
    question = replace(objective(playground), text_dropout=0.25, empty_prompt=empty).ask(
        batch, "video_dit", generators(40)
    )
    dropped = (question.prompt_embeds == 7.0).flatten(1).all(1)
    assert 3 <= dropped.sum() <= 18
    assert torch.equal(question.prompt_embeds[~dropped], batch.prompt_embeds[~dropped])
    kept = replace(objective(playground), text_dropout=0).ask(batch, "video_dit", generators(40))
    assert torch.equal(kept.prompt_embeds, batch.prompt_embeds)
    torch.testing.assert_close(kept.noisy_video, question.noisy_video)  # nothing else depends on it


def test_a_sample_is_asked_the_same_in_whatever_batch(playground: Path) -> None:
    batch = objective(playground).ask(batch_of(3), "video_dit", generators(3))
    alone = objective(playground).ask(Batch.of([sample(1)]), "video_dit", [sample_generator(0, 1)])
    assert torch.equal(batch.noisy_video[1:2], alone.noisy_video)
    assert torch.equal(batch.noisy_audio[1:2], alone.noisy_audio)


@pytest.mark.parametrize("expert", ["video_dit", "video_dit_2"])
def test_gradients_reach_both_towers_and_the_bridge(playground: Path, expert: str) -> None:
    model = load_model(playground)
    with torch.no_grad():  # as after some steps; a bridge that says nothing yet gives its queries no gradient
        for parameter in model.dual_tower_bridge.parameters():
            parameter.add_(0.02)
    objective(playground)(model, batch_of(2), expert, generators(2)).total.backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    assert reached == {
        name
        for name, _ in model.named_parameters()
        if name.startswith((f"{expert}.", "audio_dit.", "dual_tower_bridge."))
    }


def test_losses_are_apart_and_the_sounds_has_a_weight(playground: Path) -> None:
    model, batch = load_model(playground), batch_of(2)

    def losses(**options: float) -> tuple[Tensor, Tensor, Tensor]:
        asks: Objective = replace(objective(playground), **options)  # type: ignore[arg-type]
        found = asks(model, batch, "video_dit", generators(2))
        return found.video, found.audio, found.total

    video, audio, total = losses(audio_weight=3.0)
    assert video.shape == audio.shape == (2,)
    torch.testing.assert_close(total, video.mean() + 3 * audio.mean())


def test_places_that_weigh_more_count_more(playground: Path) -> None:
    model, batch = load_model(playground), batch_of(2)
    plain = objective(playground)(model, batch, "video_dit", generators(2))
    even = replace(batch, video_weight=torch.full((2, 1, 2, 2, 2), 5.0), audio_weight=torch.full((2, 1, 12), 3.0))
    same = objective(playground)(model, even, "video_dit", generators(2))
    torch.testing.assert_close(same.video, plain.video)
    torch.testing.assert_close(same.audio, plain.audio)
    first = torch.zeros(2, 1, 12)
    first[..., 0] = 1
    other = objective(playground)(model, replace(even, audio_weight=first), "video_dit", generators(2))
    assert not torch.isclose(other.audio, plain.audio).any()
    torch.testing.assert_close(other.video, plain.video)


def test_computing_in_bfloat16_leaves_time_in_float32(playground: Path) -> None:
    model, batch = load_model(playground), batch_of(1)
    exact = model.video_dit.embed_time(torch.tensor([937.0]))[0]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.video_dit.embed_time(torch.tensor([937.0]))[0], exact)
        rough = objective(playground)(model, batch, "video_dit", generators(1))
    fine = objective(playground)(model, batch, "video_dit", generators(1))
    assert rough.video.dtype is torch.float32
    torch.testing.assert_close(rough.video, fine.video, rtol=0.02, atol=0)
    assert not torch.equal(rough.video, fine.video)


def test_every_clip_comes_up_once_an_epoch_in_batches_of_one_shape() -> None:
    order = Order(((1,), (2,), (1,), (2,), (1,), (1,)), batch_size=2, seed=1)
    assert order.batches_per_epoch == 3
    epochs = [[order.batch(3 * epoch + place) for place in range(3)] for epoch in range(4)]
    for batches in epochs:
        assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3, 4, 5]
        assert all(len({order.shapes[index] for index in batch}) == 1 for batch in batches)
    assert len({str(batches) for batches in epochs}) > 1
    assert Order(((1,), (1,), (1,)), batch_size=2, seed=1).batches_per_epoch == 2
    assert Order(((1,),), batch_size=3, seed=1).batch(0) == [0, 0, 0]


def test_reading_can_begin_at_any_batch() -> None:
    samples = [sample(number) for number in range(5)]

    class Five(list):  # type: ignore[type-arg]
        shapes, identity = [(1,)] * 5, ""

    order = Order(((1,),) * 5, batch_size=2, seed=4)
    reading = read_batches(Five(samples), order, 4)
    names = [next(reading).names for _ in range(4)]
    assert names == [tuple(f"clip{index}.mp4" for index in order.batch(number)) for number in range(4, 8)]
