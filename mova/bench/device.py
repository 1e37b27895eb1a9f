"""Seconds, rates and memory on a device, with random weights at real size that are made there.

Every figure is of a computation whose result was checked in the same run. A part that fails is told, and others go on.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mova import fused
from mova.attention import NATIVE, choose_attention, set_attention
from mova.bench import ceilings
from mova.bench.counted import EXPERT, Cost, step_cost
from mova.bench.figures import Figure, Result, guarded
from mova.bench.sizes import GB, LARGE, SMALL, Size, inputs_for, joint_of, prompt_for, video_vae_of
from mova.bench.stepping import Predictions, Step, Timed, close, move, random_weights, same
from mova.cards import rates_of
from mova.costs import shape_of
from mova.joint import JointTransformer
from mova.lanes import Lane
from mova.memory import device_name
from mova.model import Model
from mova.placement import CPU
from mova.resources import read_memory
from mova.streaming import LayerStream
from mova.video_vae import decode_frames

TERA = 1e12
CAP = int(12 * GB)
SLOTS = 3
STREAMED = 3  # steps that are timed
DECODED_FIRST = 2  # latent frames whose pictures are compared
PLAIN_TOLERANCE, COMPILED_TOLERANCE = 0.05, 0.02  # root mean square of the difference, of 40 layers in bfloat16
# What is aimed at, by a word of the card's name: seconds.
TARGETS = {
    "H200": {"360p resident": 8.8, "720p resident": 98.0, "720p decoding": 12.0},
    "4090": {"360p streamed": 36.0},
}


class Trial:
    """Everything that is measured on one device; parts use what earlier ones found.

    Args:
        model: whose shapes.
        device: where.
        lane: the way there.
        seconds: begin nothing that would end after so many.
        sizes: a small and a large clip.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        lane: Callable[[torch.device], Lane],
        *,
        seconds: float,
        sizes: tuple[Size, Size] = (SMALL, LARGE),
    ) -> None:
        self.model, self.device, self.lane = model, device, lane
        self.small, self.large = sizes
        self.name = device_name(device)
        self.section = f"Measured on {self.name}, random weights at real size"
        self.dtype = torch.bfloat16
        self.until = time.monotonic() + seconds
        self.ceilings: dict[str, float] = {}
        self.joint: JointTransformer | None = None
        self.compiled = False
        self.costs: dict[str, Cost] = {}
        self.resident: Timed | None = None

    def run(self) -> Iterator[Result]:
        """All parts, what matters most first."""
        parts: tuple[tuple[str, Callable[[], Iterator[Figure]]], ...] = (
            ("products", self.products),
            *((f"attention, {name}", lambda name=name: self.attention(name)) for name in self._backends()),
            ("copies", self.copies),
            (f"{self.small.name} resident", self.resident_step),
            (f"{self.small.name} resident, compiled", self.compiled_step),
            (f"{self.small.name} streamed", self.streamed_step),
            (f"{self.large.name} decoding", self.decoding),
            (f"{self.large.name} resident", self.large_step),
        )
        for name, part in parts:
            yield from guarded(self.section, name, partial(self._in_time, part))
            if self.device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
        fused.use(compiled=False)

    def products(self) -> Iterator[Figure]:
        """The ceiling of matrix products: the best of a large square and of the feed-forward's own shape."""
        tower, rows = self.model.experts[0], shape_of(self.model, self.small.spec).video
        side = min(16_384, rows)
        for shape in ((side, side, side), (rows, tower.dim, tower.ffn_dim)):
            rate = ceilings.products(self.device, self.dtype, shape)
            self.ceilings["products"] = max(rate, self.ceilings.get("products", 0))
            yield self._figure("products, bf16", " x ".join(map(str, shape)), rate / TERA, "TFLOPS")

    def attention(self, name: str) -> Iterator[Figure]:
        """The ceiling of attention by one kernel, at the small size."""
        tower, rows = self.model.experts[0], shape_of(self.model, self.small.spec).video
        shape = (rows, tower.num_heads, tower.dim // tower.num_heads)
        rate = ceilings.attention(self.device, self.dtype, name, shape)
        self.ceilings["attention"] = max(rate, self.ceilings.get("attention", 0))
        yield self._figure(f"attention, {rows} tokens", name, rate / TERA, "TFLOPS")

    def copies(self) -> Iterator[Figure]:
        """Bytes per second from pinned memory."""
        rate = ceilings.copies(self.device)
        yield self._figure("copies to the device", "pinned", rate / GB, "GB/s")

    def resident_step(self) -> Iterator[Figure]:
        """A step with all weights on the device."""
        self.joint = joint = self._make_joint(self.device)
        step = self._step(self.small, joint)
        step.read()
        close(step()[:1], step.plain(), PLAIN_TOLERANCE)
        self.resident = self._timed(step)
        yield from self._told(self.small, "resident", self.resident, f"attention {_kernel(joint)}")

    def compiled_step(self) -> Iterator[Figure]:
        """The same with compiled functions, which the parts that follow use if they are faster."""
        before = self._needed(self.resident)
        if self.device.type == "cuda" and not fused.can_compile(self.device):
            raise RuntimeError("Kernels can't be made here; Triton or a C compiler is missing.")
        fused.use(compiled=True, devices=frozenset({self.device.type}))
        self.compiled = True
        try:
            step = self._step(self.small, self._needed(self.joint))
            step.read()
            close(step(), before.result, COMPILED_TOLERANCE, self.device)
            timed = self._timed(step)
            yield from self._told(self.small, "resident, compiled", timed)
            self.compiled = timed.seconds < before.seconds
            self.resident = timed if self.compiled else before
        except BaseException:
            self.compiled = False
            raise
        finally:
            fused.use(compiled=self.compiled, devices=frozenset({self.device.type}))

    def streamed_step(self) -> Iterator[Figure]:
        """A step whose layers are streamed from the host's memory, in little memory of the device.

        It must give what the resident one gave, to the last bit. On a card that holds no expert there is none: then
        the first layers are compared with the formula, and every step with the first.
        """
        joint = self.joint or self._make_joint(CPU)
        resident = None if joint is not self.joint else self._needed(self.resident)
        self.joint = joint
        if resident is None:
            self._check_first(self.small, joint)
        move(joint.parameters(), CPU)
        with ceilings.capped(self.device, CAP):
            yield from self._streamed(joint, resident)

    def _streamed(self, joint: JointTransformer, resident: Timed | None) -> Iterator[Figure]:
        packs: dict[Any, list[Tensor]] = joint.packs(EXPERT, cached_text=True)
        texts, blocks = ([key for key in packs if key.what == what] for what in ("text", "block"))
        weights = sum(tensor.nbytes for pack in packs.values() for tensor in pack)
        buffers = len(blocks) if read_memory()[0] > 1.2 * weights else SLOTS
        stream = LayerStream(packs, self.lane(self.device), slots=SLOTS, buffers=buffers)
        try:
            stream.follow([*texts, *texts, *blocks * (STREAMED + 1)])
            move(joint.resident(), self.device)
            step = self._step(self.small, joint)
            step.read(stream.lend)
            first = [(video.cpu(), audio.cpu()) for video, audio in step(stream.lend)]
            before = stream.stats
            timed = self._timed(lambda: step(stream.lend), STREAMED)
            done = stream.stats
        finally:
            stream.close()
        same([*first, *timed.result], 2 * (resident.result if resident else first))
        note = f"{SLOTS} slots, {'pinned' if buffers == len(blocks) else 'staged'}"
        yield from self._told(self.small, "streamed", timed, note, cap=CAP)
        name = f"{self.small.name}, a step"
        if resident:
            ratio = timed.seconds / resident.seconds
            yield self._figure(name, "streamed / resident", ratio, at_most=1.05, note="equal to the last bit")
        copied = (done.copied_bytes - before.copied_bytes) / STREAMED
        yield self._figure(name, "streamed, copied", copied / GB, "GB")
        yield self._figure(name, "streamed, layers late", (done.waits - before.waits) / STREAMED)

    def decoding(self) -> Iterator[Figure]:
        """All pictures of the large size."""
        vae = random_weights(video_vae_of(self.model, self.dtype), self.device, self.device)
        shape = shape_of(self.model, self.large.spec).latents
        latents = torch.randn(1, self.model.vae.z_dim, *shape, device=self.device)
        self._check_pictures(vae, latents[:, :, :DECODED_FIRST])

        def decode() -> None:
            for _ in decode_frames(vae, latents):
                pass

        with ceilings.capped(self.device, None):
            taken = ceilings.once(decode, self.device)
            peak = self._peak()
        part = f"{self.large.name} decoding"
        name = f"{self.large.name}, pictures of {self.large.spec.num_frames} frames"
        yield self._figure(name, "whole", taken, "s", at_most=self._target(part))
        if peak:
            yield self._figure(name, "most memory", peak / GB, "GB")

    def large_step(self) -> Iterator[Figure]:
        """A step of the large size, once, if there is time for it."""
        small, joint = self._needed(self.resident), self._needed(self.joint)
        expected = small.seconds * self._cost(self.large).flops / self._cost(self.small).flops
        if time.monotonic() + 1.2 * expected > self.until:
            raise TimeoutError(f"It takes about {expected:.0f} s, more than are left. Give it more --minutes.")
        move(joint.parameters(), self.device)
        self._check_first(self.large, joint)
        step = self._step(self.large, joint)
        step.read()
        timed = self._timed(step, 1)
        if not all(bool(part.isfinite().all()) for pair in timed.result for part in pair):
            raise ArithmeticError("The result has numbers that are none.")
        yield from self._told(self.large, "resident", timed)

    def _in_time(self, part: Callable[[], Iterator[Figure]]) -> Iterator[Figure]:
        if time.monotonic() > self.until:
            raise TimeoutError("There was no time left. Give it more --minutes.")
        return part()

    def _make_joint(self, home: torch.device) -> JointTransformer:
        joint: JointTransformer = random_weights(joint_of(self.model, dtype=self.dtype), self.device, home)
        set_attention(joint, choose_attention(self.device))
        return joint

    def _step(self, size: Size, joint: JointTransformer) -> Step:
        """The same inputs every time."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            prompts = [prompt_for(self.model, self.device, self.dtype) for _ in range(2)]
            return Step(joint, inputs_for(self.model, size.spec, self.device), prompts)

    def _check_first(self, size: Size, joint: JointTransformer) -> None:
        """The first layers of ``joint`` against the formula."""
        first = joint_of(self.model, (1, 1), self.dtype)
        names = first.state_dict().keys()
        first.load_state_dict({name: value for name, value in joint.state_dict().items() if name in names}, assign=True)
        move(first.parameters(), self.device)
        set_attention(first, choose_attention(self.device))
        step = self._step(size, first)
        step.read()
        close(step()[:1], step.plain(), PLAIN_TOLERANCE)

    def _check_pictures(self, vae: Any, latents: Tensor) -> None:
        mean, std = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        found = torch.cat(list(decode_frames(vae, latents)), dim=2)
        with torch.no_grad():
            expected = vae.decode((latents * std + mean).to(vae.dtype)).sample
        close([(found, found)], [(expected, expected)], PLAIN_TOLERANCE)

    def _timed(self, work: Callable[[], Predictions], runs: int = 2) -> Timed:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        taken: list[float] = []
        result: Predictions = []

        def run() -> None:
            result[:] = work()

        for _ in range(runs):
            taken.append(ceilings.once(run, self.device))
        peak = self._peak()
        return Timed(median(taken), peak, [(video.cpu(), audio.cpu()) for video, audio in result])

    def _told(self, size: Size, how: str, timed: Timed, note: str = "", cap: int | None = None) -> Iterator[Figure]:
        cost, name = self._cost(size), f"{size.name}, a step"
        rate = cost.flops / timed.seconds
        yield self._figure(name, how, timed.seconds, "s", at_most=self._target(f"{size.name} {how}"), note=note)
        yield self._figure(name, f"{how}, rate", rate / TERA, "TFLOPS")
        if rates := rates_of(self.name):
            yield self._figure(name, f"{how}, share of the peak", rate / rates.bf16)
        if {"products", "attention"} <= self.ceilings.keys():
            least = cost.attention / self.ceilings["attention"]
            least += (cost.flops - cost.attention) / self.ceilings["products"]
            yield self._figure(name, f"{how}, efficiency", least / timed.seconds, at_least=0.93)
        if timed.peak:
            yield self._figure(name, f"{how}, most memory", timed.peak / GB, "GB", at_most=cap and cap / GB)

    def _cost(self, size: Size) -> Cost:
        if size.name not in self.costs:
            self.costs[size.name] = step_cost(self.model, size.spec)
        return self.costs[size.name]

    def _figure(
        self,
        name: str,
        subject: str,
        value: float,
        unit: str = "",
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        note: str = "",
    ) -> Figure:
        return Figure(self.section, name, subject, value, unit, at_most=at_most, at_least=at_least, note=note)

    def _target(self, part: str) -> float | None:
        return next((targets.get(part) for card, targets in TARGETS.items() if card in self.name), None)

    def _backends(self) -> list[str]:
        missing = {"FlashAttention 3"} if find_spec("flash_attn_interface") is None else set()
        return [name for name in ceilings.BACKENDS if name not in missing]

    def _peak(self) -> int:
        return int(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else 0

    def _needed(self, found: Any) -> Any:
        """What an earlier part should have left."""
        if found is None:
            raise LookupError("A part before it failed.")
        return found


def _kernel(joint: JointTransformer) -> str:
    block = joint.video_dit.layer(0)
    assert block is not None, "a tower has layers"
    return str(getattr(block.self_attn.processor._attention_backend, "value", NATIVE))


def measured(
    model: Model,
    device: torch.device,
    lane: Callable[[torch.device], Lane],
    *,
    seconds: float,
    sizes: tuple[Size, Size] = (SMALL, LARGE),
) -> Iterator[Result]:
    """What a device does of ``model``; arguments as ``Trial``."""
    return Trial(model, device, lane, seconds=seconds, sizes=sizes).run()
