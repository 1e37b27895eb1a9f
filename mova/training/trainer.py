"""The trainer: shows batches to the experts in turn, steps the optimizer, saves states and goes on from them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mova.training.errors import TrainingError
from mova.training.model import BRIDGE, SHARED, checkpoint_activations
from mova.training.objective import Losses, Objective, sample_generator
from mova.training.recipe import Recipe
from mova.training.samples import Batch, Order, Samples, read_batches
from mova.training.state import (
    EMA,
    OPTIMIZER,
    RANDOM,
    WEIGHTS,
    State,
    alone_in,
    last_state,
    optimizer_tensors,
    prefixed,
    random_tensors,
    restore_optimizer,
    restore_random,
    save_state,
)

Groups = list[dict[str, object]]


@dataclass(frozen=True)
class Progress:
    """What a step came to. Losses are means over its samples; ``gradient_norm`` is from before clipping."""

    step: int  # optimizer steps done
    steps: int  # of the run
    video_loss: float
    audio_loss: float
    seconds_left: float
    expert: str
    learning_rate: float
    gradient_norm: float


OnProgress = Callable[[Progress], None]


def no_progress(_progress: Progress) -> None:
    """For whoever doesn't want to hear of it."""


class Trainer:
    """One run of ``recipe`` in ``folder``, which goes on from the last state there, if there is one.

    On the CPU a run that was interrupted, in whatever way, ends with the very weights of one that wasn't.

    Args:
        model: a ``JointExperts``; those of its parameters learn that require a gradient, so all or adapters alone.
        objective: what is to fall.
        samples: what is learned from.
        recipe: how.
        folder: where states are kept.
        device: where to compute; the model is moved there.
        make_optimizer: from parameter groups with their "lr"; AdamW if None.
        clock: seconds, for the time left.

    Raises:
        TrainingError: an expert's turn would change nothing, there are no samples, or the folder holds another run;
            says how it differs.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        samples: Samples,
        recipe: Recipe,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        make_optimizer: Callable[[Groups], torch.optim.Optimizer] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not len(samples):
            raise TrainingError("There is no clip to learn from.")
        self.model = model.to(device).train()
        self.objective = objective
        self.samples = samples
        self.recipe = recipe
        self.folder = folder
        self.device = torch.device(device)
        self.step = 0
        self.learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
        for expert in recipe.experts:
            if not any(name.startswith((expert + ".", *SHARED)) for name in self.learning):
                raise TrainingError(f"No parameter requires a gradient that {expert} uses, so nothing would learn.")
        self.optimizer = (make_optimizer or self._adamw)(self._groups())
        self._full_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.ema = {name: value.detach().clone() for name, value in self.learning.items()} if recipe.ema else {}
        self._clock = clock
        self._random: dict[str, Tensor] | None = None
        if recipe.checkpoint_activations:
            checkpoint_activations(model)
        self._resume()

    def run(self, on_progress: OnProgress = no_progress) -> None:
        """Train up to ``recipe.steps``. Torch's own generators, for dropout, are set by the recipe's seed or the state.

        Args:
            on_progress: hears of every step. An exception raised in it ends the run, whose state is saved first.

        Raises:
            TrainingError: a loss is no number any more, a state can't be written, or another run is at work there.
        """
        with alone_in(self.folder), closing(self._batches()) as batches:
            self._draw_as_before()
            began, first = self._clock(), self.step
            while self.step < self.recipe.steps:
                told = self._advance(batches)
                pace = (self._clock() - began) / (self.step - first)
                if self.step % self.recipe.save_every == 0 or self.step == self.recipe.steps:
                    self.save()
                with ExitStack() as if_it_raises:
                    if_it_raises.callback(self.save)
                    on_progress(told(pace * (self.recipe.steps - self.step)))
                    if_it_raises.pop_all()

    def save(self) -> Path:
        """Write the state that the run is in; see ``save_state``."""
        tensors = {
            **dict(prefixed(WEIGHTS, self.learning)),
            **dict(prefixed(OPTIMIZER, optimizer_tensors(self.optimizer, self.learning))),
            **dict(prefixed(EMA, self.ema)),
            **dict(prefixed(RANDOM, random_tensors(self.device))),
        }
        return save_state(self.folder, State(self.step, self._run(), tensors), keep=self.recipe.keep)

    def weights(self) -> dict[str, Tensor]:
        """What was learned, by the model's names: the running mean if the recipe asks for one."""
        return dict(self.ema) if self.ema else {name: value.detach() for name, value in self.learning.items()}

    def _advance(self, batches: Iterator[Batch]) -> Callable[[float], Progress]:
        """One optimizer step; what there is to tell of it once the time left is known."""
        expert = self.recipe.experts[self.step % len(self.recipe.experts)]
        share = self.recipe.rates.share(self.step)
        for group, full in zip(self.optimizer.param_groups, self._full_rates, strict=True):
            group["lr"] = full * share
        self.optimizer.zero_grad(set_to_none=True)
        names: list[str] = []
        video = audio = 0.0
        for turn in range(self.recipe.accumulate):
            batch = next(batches)
            losses = self._learn_from(batch, expert, turn)
            video += losses.video.mean().item() / self.recipe.accumulate
            audio += losses.audio.mean().item() / self.recipe.accumulate
            names += batch.names
        norm = nn.utils.clip_grad_norm_(self.learning.values(), self.recipe.clip).item()
        if not math.isfinite(norm):
            self._give_up(f"The gradient is {norm}", names)
        self.optimizer.step()
        self._follow()
        self.step += 1
        rate = self.recipe.learning_rate * share
        return lambda left: Progress(self.step, self.recipe.steps, video, audio, left, expert, rate, norm)

    def _learn_from(self, batch: Batch, expert: str, turn: int) -> Losses:
        """Gradients of one batch, added to those that are there."""
        first = (self.step * self.recipe.accumulate + turn) * self.recipe.batch_size
        generators = [sample_generator(self.recipe.seed, first + place) for place in range(len(batch.names))]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.autocast):
            losses = self.objective(self.model, batch.to(self.device), expert, generators)
        self._refuse_nonsense(losses, batch.names)
        torch.autograd.backward(losses.total / self.recipe.accumulate)
        return losses

    def _refuse_nonsense(self, losses: Losses, names: tuple[str, ...]) -> None:
        for name, video, audio in zip(names, losses.video.tolist(), losses.audio.tolist(), strict=True):
            if not math.isfinite(video + audio):
                self._give_up(f"The loss is {video} for the picture and {audio} for the sound", [name])

    def _give_up(self, what: str, names: list[str]) -> None:
        """The state before this step is a good one, its losses were numbers: it is kept."""
        self.optimizer.zero_grad(set_to_none=True)
        state = self.save()
        clips = ", ".join(sorted(set(names)))
        raise TrainingError(
            f"{what} at step {self.step + 1}, on {clips}. The state after step {self.step} is kept in {state}. "
            "Look at that clip, or start again with a lower learning rate."
        )

    @torch.no_grad()
    def _follow(self) -> None:
        """The running mean comes nearer to what learns."""
        for name, mean in self.ema.items():
            mean.lerp_(self.learning[name].detach(), 1 - (self.recipe.ema or 0.0))

    def _draw_as_before(self) -> None:
        """Torch's own generators, as the seed or the state that was found has them."""
        if self._random is None:
            torch.manual_seed(self.recipe.seed)
        else:
            restore_random(self._random, self.device)

    def _batches(self) -> Generator[Batch, None, None]:
        order = Order(tuple(self.samples.shapes), self.recipe.batch_size, self.recipe.seed)
        return read_batches(self.samples, order, self.step * self.recipe.accumulate, workers=self.recipe.workers)

    def _groups(self) -> Groups:
        """The towers at the learning rate, the bridge at ``bridge_rate`` times as much."""
        rate = self.recipe.learning_rate
        bridge = [value for name, value in self.learning.items() if name.startswith(BRIDGE)]
        towers = [value for name, value in self.learning.items() if not name.startswith(BRIDGE)]
        groups: Groups = [{"params": towers, "lr": rate}, {"params": bridge, "lr": rate * self.recipe.bridge_rate}]
        return [group for group in groups if group["params"]]

    def _adamw(self, groups: Groups) -> torch.optim.Optimizer:
        recipe = self.recipe
        return torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay)

    def _run(self) -> dict[str, object]:
        return {"recipe": self.recipe.model_dump(mode="json"), "samples": self.samples.identity}

    @torch.no_grad()
    def _resume(self) -> None:
        state = last_state(self.folder)
        if state is None:
            return
        self._refuse_another_run(state)
        for name, tensor in state.part(WEIGHTS).items():
            self.learning[name].copy_(tensor)
        for name, tensor in state.part(EMA).items():
            self.ema[name].copy_(tensor)
        restore_optimizer(self.optimizer, self.learning, state.part(OPTIMIZER))
        self._random = state.part(RANDOM)
        self.step = state.step

    def _refuse_another_run(self, state: State) -> None:
        differs = self.recipe.changes(state.run["recipe"])
        if state.run["samples"] != self.samples.identity:
            differs.append("the clips or captions are not the same")
        if {name: value.shape for name, value in self.learning.items()} != {
            name: value.shape for name, value in state.part(WEIGHTS).items()
        }:
            differs.append("the weights that learn are not the same")
        if differs:
            raise TrainingError(
                f"{self.folder} holds another run, {state.step} steps old: {'; '.join(differs)}. "
                "Go on with what it was, or choose another folder."
            )
