"""What a model learns from: clips as latents, read by worker processes, in an order that a seed fixes."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Shape = tuple[float | int, ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """A clip, encoded; float32 but for the text, on the CPU.

    The weights say which parts of a clip count for more in the loss; they are spread over what they leave out.
    """

    name: str
    latents: Tensor  # [16, T, h, w], normalised
    audio_latents: Tensor  # [C, N]
    condition: Tensor  # [20, T, h, w], mask and first frame
    prompt_embeds: Tensor  # [512, text_dim]
    fps: float
    video_weight: Tensor | None = None  # [1, T, h, w]
    audio_weight: Tensor | None = None  # [1, N]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one shape, stacked; the fields are theirs."""

    names: tuple[str, ...]
    latents: Tensor
    audio_latents: Tensor
    condition: Tensor
    prompt_embeds: Tensor
    fps: float
    video_weight: Tensor | None = None
    audio_weight: Tensor | None = None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Batch:
        """``samples``, all of one shape and frame rate, as a batch."""
        return cls(
            names=tuple(sample.name for sample in samples),
            latents=torch.stack([sample.latents for sample in samples]),
            audio_latents=torch.stack([sample.audio_latents for sample in samples]),
            condition=torch.stack([sample.condition for sample in samples]),
            prompt_embeds=torch.stack([sample.prompt_embeds for sample in samples]),
            fps=samples[0].fps,
            video_weight=_stacked([sample.video_weight for sample in samples]),
            audio_weight=_stacked([sample.audio_weight for sample in samples]),
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        moved: dict[str, Any] = {key: value.to(device) for key, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **moved)


class Samples(Protocol):
    """Samples by number. ``shapes`` tells which may share a batch, ``identity`` whether they are the same as before."""

    @property
    def shapes(self) -> Sequence[Shape]: ...

    @property
    def identity(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class Order:
    """Which samples make up which batch: every one once an epoch, in an order of its own, one shape a batch.

    A batch that a shape's samples don't fill is filled from the start of their order.
    """

    shapes: tuple[Shape, ...]
    batch_size: int
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        """How many batches show every sample."""
        return sum(-(-len(members) // self.batch_size) for members in self._alike())

    def batch(self, number: int) -> list[int]:
        """The samples of batch ``number``, counted from the beginning of the run."""
        epoch, place = divmod(number, self.batches_per_epoch)
        return self._epoch(epoch)[place]

    def _alike(self) -> list[list[int]]:
        by_shape: dict[Shape, list[int]] = {}
        for index, shape in enumerate(self.shapes):
            by_shape.setdefault(shape, []).append(index)
        return list(by_shape.values())

    def _epoch(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        batches = []
        for members in self._alike():
            order = [members[place] for place in torch.randperm(len(members), generator=generator)]
            starts = range(0, len(order), self.batch_size)
            batches += [[order[(start + k) % len(order)] for k in range(self.batch_size)] for start in starts]
        return [batches[place] for place in torch.randperm(len(batches), generator=generator)]


def read_batches(samples: Samples, order: Order, first: int, *, workers: int = 0) -> Generator[Batch, None, None]:
    """The batches from number ``first`` on, without end, read ahead by ``workers`` processes if there are any.

    Close it to end those processes.
    """
    loader = DataLoader(
        _Gathered(samples),
        batch_sampler=_Endless(order, first),
        collate_fn=Batch.of,
        num_workers=workers,
        # Its own, or starting to read would draw from the generator that the model's dropout draws from.
        generator=torch.Generator().manual_seed(order.seed),
    )
    yield from loader


class _Gathered(Dataset[Sample]):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


class _Endless:
    def __init__(self, order: Order, first: int) -> None:
        self._order = order
        self._first = first

    def __iter__(self) -> Iterator[list[int]]:
        epoch, place = divmod(self._first, self._order.batches_per_epoch)
        while True:
            batches = self._order._epoch(epoch)
            yield from batches[place:]
            epoch, place = epoch + 1, 0


def _stacked(weights: Sequence[Tensor | None]) -> Tensor | None:
    present = [weight for weight in weights if weight is not None]
    return torch.stack(present) if present else None
