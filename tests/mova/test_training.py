"""The trainer: it learns, it is the same run however it was interrupted, and it stops before nonsense."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_help
from peft import LoraConfig, inject_adapter_in_model
from pydantic import ValidationError
from torch import Tensor
from training_help import QUICK, Few, few, sample, trainer

from mova.training.errors import TrainingError
from mova.training.model import JointExperts, load_model
from mova.training.recipe import Recipe
from mova.training.schedule import Schedule
from mova.training.state import last_state
from mova.training.trainer import Progress


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are in the same order in this process and in another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(playground: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    whole = trainer(playground, tmp_path_factory.mktemp("whole"))
    whole.run()
    return whole.weights()


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class Stopped(Exception):
    pass


def stop_after(step: int) -> Callable[[Progress], None]:
    def told(progress: Progress) -> None:
        if progress.step == step:
            raise Stopped

    return told


def test_the_losses_of_one_clip_fall_for_picture_and_sound(playground: Path, tmp_path: Path) -> None:
    recipe = Recipe(steps=60, learning_rate=3e-3, batch_size=4, text_dropout=0, save_every=1000)
    heard: list[Progress] = []
    trainer(playground, tmp_path, recipe, few(1), model=load_model(playground)).run(heard.append)
    for what in ("video_loss", "audio_loss"):
        losses = [getattr(progress, what) for progress in heard]
        assert sum(losses[-10:]) < 0.7 * sum(losses[:10]), what


def test_progress_tells_step_losses_and_the_time_left(playground: Path, tmp_path: Path) -> None:
    heard: list[Progress] = []
    ticks = iter(range(100))
    trainer(playground, tmp_path, clock=lambda: 2.0 * next(ticks)).run(heard.append)
    assert [progress.step for progress in heard] == [1, 2, 3, 4, 5, 6]
    assert [progress.seconds_left for progress in heard] == [10, 8, 6, 4, 2, 0]
    assert {progress.steps for progress in heard} == {6}
    assert all(progress.video_loss > 0 and progress.audio_loss > 0 for progress in heard)


def test_the_experts_take_turns_by_optimizer_step(playground: Path, tmp_path: Path) -> None:
    model = load_model(playground)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    heard: list[Progress] = []
    recipe = QUICK.model_copy(update={"accumulate": 2})
    moved: list[set[str]] = []

    def told(progress: Progress) -> None:
        heard.append(progress)
        moved.append(
            {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, start[name])}
        )
        start.update({name: value.detach().clone() for name, value in model.named_parameters()})

    trainer(playground, tmp_path, recipe, model=model).run(told)
    assert [progress.expert for progress in heard] == ["video_dit", "video_dit_2"] * 3
    shared = {"audio_dit", "dual_tower_bridge"}
    assert moved == [{"video_dit", *shared}, {"video_dit_2", *shared}] * 3


def test_one_expert_can_learn_alone(playground: Path, tmp_path: Path) -> None:
    heard: list[Progress] = []
    recipe = QUICK.model_copy(update={"experts": ("video_dit_2",)})
    trainer(playground, tmp_path, recipe).run(heard.append)
    assert {progress.expert for progress in heard} == {"video_dit_2"}


def test_the_bridge_learns_at_twice_the_rate(playground: Path, tmp_path: Path) -> None:
    run = trainer(playground, tmp_path)
    towers, bridge = run.optimizer.param_groups
    assert bridge["lr"] == 2 * towers["lr"]
    names = {id(value): name for name, value in run.learning.items()}
    assert {names[id(value)].split(".")[0] for value in bridge["params"]} == {"dual_tower_bridge"}
    assert len(towers["params"]) + len(bridge["params"]) == len(run.learning)


def test_gradients_are_cut_to_a_norm(playground: Path, tmp_path: Path) -> None:
    heard: list[Progress] = []
    run = trainer(playground, tmp_path, QUICK.model_copy(update={"clip": 1e-3, "steps": 1}))
    run.run(heard.append)
    total = sum(value.grad.square().sum().item() for value in run.learning.values() if value.grad is not None)
    assert heard[0].gradient_norm > 0.1
    assert total**0.5 == pytest.approx(1e-3, rel=1e-2)


def test_only_what_requires_a_gradient_learns_and_is_kept(playground: Path, tmp_path: Path) -> None:
    model = load_model(playground, trainable=False)
    model.video_dit.head.requires_grad_(True)
    frozen = model.audio_dit.head.head.weight.clone()
    recipe = QUICK.model_copy(update={"experts": ("video_dit",)})
    trainer(playground, tmp_path, recipe, model=model).run()
    assert torch.equal(model.audio_dit.head.head.weight, frozen)
    state = last_state(tmp_path)
    assert state is not None
    assert {name.split(".")[1] for name in state.part("weights/")} == {"head"}


def with_adapters(playground: Path) -> JointExperts:
    model = load_model(playground, trainable=False)
    torch.manual_seed(5)
    for part in model.children():
        inject_adapter_in_model(LoraConfig(r=2, lora_dropout=0.1, target_modules=["q", "v"]), part)
    return model


def test_adapters_learn_alone_and_go_on_bit_for_bit(playground: Path, tmp_path: Path) -> None:
    whole = trainer(playground, tmp_path / "whole", model=with_adapters(playground))
    whole.run()
    assert whole.learning
    assert all(".lora_" in name for name in whole.learning)
    assert any(value.any() for name, value in whole.weights().items() if "lora_B" in name)
    with pytest.raises(Stopped):
        trainer(playground, tmp_path / "parts", model=with_adapters(playground)).run(stop_after(3))
    rest = trainer(playground, tmp_path / "parts", model=with_adapters(playground))
    rest.run()
    assert_same(rest.weights(), whole.weights())


def test_nothing_to_learn_is_said(playground: Path, tmp_path: Path) -> None:
    model = load_model(playground, trainable=False)
    model.video_dit.head.requires_grad_(True)
    with pytest.raises(TrainingError, match="video_dit_2 uses, so nothing would learn"):
        trainer(playground, tmp_path, model=model)
    with pytest.raises(TrainingError, match="no clip"):
        trainer(playground, tmp_path, samples=Few((), "none"))


def test_accumulating_is_a_larger_batch(playground: Path, tmp_path: Path) -> None:
    gradients, losses = [], []
    for name, numbers in (("at once", {"batch_size": 2}), ("in turn", {"accumulate": 2})):
        recipe = QUICK.model_copy(update={"steps": 1, "clip": 1e9, **numbers})
        run = trainer(playground, tmp_path / name, recipe, few(1), model=load_model(playground))
        heard: list[Progress] = []
        run.run(heard.append)
        losses.append((heard[0].video_loss, heard[0].audio_loss))
        gradients.append({name: value.grad for name, value in run.learning.items() if value.grad is not None})
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_blocks_computed_twice_give_the_same_weights(
    playground: Path, tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    run = trainer(playground, tmp_path, QUICK.model_copy(update={"checkpoint_activations": True}))
    run.run()
    assert_same(run.weights(), uninterrupted)


def test_workers_give_the_same_weights(playground: Path, tmp_path: Path, uninterrupted: dict[str, Tensor]) -> None:
    run = trainer(playground, tmp_path, QUICK.model_copy(update={"workers": 1}))
    run.run()
    assert_same(run.weights(), uninterrupted)


def test_a_run_taken_up_again_ends_as_the_uninterrupted_one(
    playground: Path, tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    with pytest.raises(Stopped):
        trainer(playground, tmp_path).run(stop_after(3))
    torch.manual_seed(99)  # whatever else the process draws in between
    rest = trainer(playground, tmp_path)
    assert rest.step == 3
    rest.run()
    assert_same(rest.weights(), uninterrupted)


def test_a_killed_run_loses_the_steps_since_the_last_state_only(
    playground: Path, tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    command = [sys.executable, training_help.__file__, str(playground), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    rest = trainer(playground, tmp_path)
    assert rest.step == 4
    rest.run()
    assert_same(rest.weights(), uninterrupted)


def test_a_running_mean_is_kept_across_an_interruption(playground: Path, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"ema": 0.5})
    whole = trainer(playground, tmp_path / "whole", recipe)
    whole.run()
    with pytest.raises(Stopped):
        trainer(playground, tmp_path / "parts", recipe).run(stop_after(3))
    rest = trainer(playground, tmp_path / "parts", recipe)
    rest.run()
    assert_same(rest.weights(), whole.weights())
    name = "dual_tower_bridge.audio_to_video_conditioners.0.inner.o.weight"
    assert not torch.equal(whole.weights()[name], whole.learning[name])


def test_the_last_states_are_kept_and_a_damaged_one_is_passed_over(
    playground: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(playground, tmp_path).run()
    files = sorted(tmp_path.glob("state-*"))
    assert [file.name for file in files] == ["state-00000004.safetensors", "state-00000006.safetensors"]
    files[-1].write_bytes(files[-1].read_bytes()[:1000])
    assert trainer(playground, tmp_path).step == 4
    assert "state-00000006" in caplog.text


@pytest.mark.parametrize("what", ["latents", "audio_latents"])
def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_clip(
    playground: Path, tmp_path: Path, what: str
) -> None:
    good, bad = sample(0), sample(1)
    bad = replace(bad, **{what: torch.full_like(getattr(bad, what), torch.nan)})
    run = trainer(playground, tmp_path, samples=Few((good, bad)))
    before: list[dict[str, Tensor]] = [{name: value.clone() for name, value in run.weights().items()}]

    def told(_progress: Progress) -> None:
        before[0] = {name: value.clone() for name, value in run.weights().items()}

    with pytest.raises(TrainingError, match=r"loss is .*nan.* at step \d+, on clip1.mp4"):
        run.run(told)
    state = last_state(tmp_path)
    assert state is not None
    assert state.step == run.step < 2  # both clips come up in the first two steps
    assert_same(state.part("weights/"), before[0])


def test_another_run_is_not_taken_up(playground: Path, tmp_path: Path) -> None:
    trainer(playground, tmp_path, QUICK.model_copy(update={"steps": 2})).run()
    trainer(playground, tmp_path, QUICK.model_copy(update={"steps": 3, "keep": 1})).run()
    with pytest.raises(TrainingError, match=r"learning_rate was 0.001 and is 0.1"):
        trainer(playground, tmp_path, QUICK.model_copy(update={"learning_rate": 0.1}))
    with pytest.raises(TrainingError, match="clips or captions"):
        trainer(playground, tmp_path, samples=Few(few().samples, identity="others"))


def test_two_trainings_dont_share_a_folder(playground: Path, tmp_path: Path) -> None:
    first, second = (trainer(playground, tmp_path) for _ in range(2))

    def told(_progress: Progress) -> None:
        with pytest.raises(TrainingError, match="Another training is at work"):
            second.run()
        raise Stopped

    with pytest.raises(Stopped):
        first.run(told)


def test_a_disk_that_refuses_is_said_and_the_earlier_state_stays(playground: Path, tmp_path: Path) -> None:
    run = trainer(playground, tmp_path)
    with pytest.raises(Stopped):
        run.run(stop_after(2))
    blocker = tmp_path / f"state-{4:08}.safetensors"
    blocker.mkdir()  # no file can replace a folder, for whatever user
    with pytest.raises(TrainingError, match="can't be written"):
        run.run()
    blocker.rmdir()
    state = last_state(tmp_path)
    assert state is not None
    assert state.step == 2
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (Schedule("constant", 10, warmup_steps=2, floor=0), [0, 0.5, 1, 1, 1]),
        (Schedule("linear", 10, hold_steps=5, floor=0), [1, 1, 1, 1, 0.8]),
        (Schedule("cosine", 8, floor=0.5), [1, 0.98097, 0.92678, 0.75, 0.5]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: Schedule, shares: list[float]) -> None:
    steps = {"constant": (0, 1, 2, 5, 20), "linear": (0, 1, 4, 5, 6), "cosine": (0, 1, 2, 4, 9)}[schedule.shape]
    assert [schedule.share(step) for step in steps] == pytest.approx(shares, abs=1e-5)


def test_an_impossible_recipe_is_refused() -> None:
    for numbers, said in (
        ({"steps": 3, "warmup_steps": 4}, "more than the run's 3 steps"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"text_dropout": 1.5}, "less than or equal to 1"),
        ({"experts": ()}, "at least 1"),
        ({"alpha": 2.0}, "give their rank too"),
    ):
        with pytest.raises(ValidationError, match=said):
            Recipe(**numbers)  # type: ignore[arg-type]
