"""How a model is trained: every number of a run and its default, checked when it is built."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from mova.training.schedule import Schedule, Shape

# What may be another the next time: the run goes on as it would have.
FREE = frozenset({"steps", "save_every", "keep", "workers", "checkpoint_activations"})


class Recipe(BaseModel, frozen=True, extra="forbid"):
    """The numbers of a run. Steps are optimizer steps; each shows ``batch_size * accumulate`` samples to one expert.

    Attributes:
        learning_rate: of the towers, at its height; ``bridge_rate`` times as much for the bridge.
        floor: share of the learning rate that warm-up starts from and the schedule ends at.
        hold_steps: steps at full rate before it falls.
        clip: the norm that gradients are cut down to.
        ema: decay of the running mean that is kept of what learns, such as 0.999; None keeps none.
        text_dropout, independent, audio_weight: see ``mova.training.objective.Objective``.
        video_shift, audio_shift: of the noise levels; None is the checkpoint's own.
        rank, alpha, dropout: of the adapters that learn instead of the model; no rank, no adapters. An alpha of None
            is the rank, so that they count as they are.
        experts: which video experts learn; they take turns, a step each.
        autocast: compute in bfloat16, keep weights as they are.
        checkpoint_activations: compute blocks twice and spare the memory.
        save_every: steps between saved states, of which the last ``keep`` are kept.
        workers: processes that read samples ahead; 0 reads them in place.
    """

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False)
    bridge_rate: float = Field(2.0, gt=0, allow_inf_nan=False)
    schedule: Shape = "constant"
    warmup_steps: int = Field(0, ge=0)
    hold_steps: int = Field(0, ge=0)
    floor: float = Field(0.01, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    clip: float = Field(1.0, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    text_dropout: float = Field(0.1, ge=0, le=1)
    independent: float = Field(0.0, ge=0, le=1)
    audio_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    video_shift: float | None = Field(None, gt=0)
    audio_shift: float | None = Field(None, gt=0)
    experts: tuple[Literal["video_dit", "video_dit_2"], ...] = Field(("video_dit", "video_dit_2"), min_length=1)
    rank: int | None = Field(None, ge=1)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    dropout: float = Field(0.0, ge=0, lt=1)
    autocast: bool = False
    checkpoint_activations: bool = False
    save_every: int = Field(100, ge=1)
    keep: int = Field(2, ge=1)
    workers: int = Field(0, ge=0)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _within_the_run(self) -> Recipe:
        if self.warmup_steps + self.hold_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and hold_steps {self.hold_steps} together are more than the "
                f"run's {self.steps} steps; make them fewer."
            )
        return self

    @model_validator(mode="after")
    def _adapters_or_none(self) -> Recipe:
        if self.rank is None and (self.alpha is not None or self.dropout):
            raise ValueError("alpha and dropout are of adapters; give their rank too.")
        return self

    @property
    def rates(self) -> Schedule:
        """The learning rate's course."""
        return Schedule(self.schedule, self.steps, self.warmup_steps, self.hold_steps, self.floor)

    def changes(self, earlier: dict[str, object]) -> list[str]:
        """What an ``earlier`` recipe, as ``model_dump`` writes it for JSON, had otherwise and no run survives."""
        mine = self.model_dump(mode="json")
        return [
            f"{name} was {earlier.get(name)!r} and is {value!r}"
            for name, value in mine.items()
            if name not in FREE and earlier.get(name) != value
        ]
