"""The whole table: `python -m tests.bench`. What `python -m mova bench` tells, and times on this machine's CPU.

On the CPU a time is told only as a share of another of the same run, and only after both gave the same numbers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mova import fused
from mova.__main__ import add_bench
from mova.audio_dit import WanAudioModel
from mova.bench.figures import Figure, Result, guarded
from mova.bench.run import report, results
from mova.bridge import DualTowerConditionalBridge
from mova.checkpoint import load_component
from mova.evaluation import Evaluation, Pair
from mova.joint import JointTransformer, Lend, keep
from mova.playground import make_playground
from mova.spec import ClipSpec
from mova.streaming import LayerStream
from mova.video_dit import WanModel
from tests.plain import State, advance, bridge_turns, evaluate_plainly, exchange, tower_angles, tower_turn
from tests.speed import (
    Pace,
    alternate,
    clip_inputs,
    layers_against_products,
    lone_layer,
    noise,
    real_layer,
    step_against_plain,
)

SECTION = "Measured on this CPU, as a share of another time of this run; steps on one thread"
EXPERT = "video_dit"
TINY_CLIP = ClipSpec(height=32, width=48, num_frames=5, fps=24)
SMALL_CLIP = ClipSpec(height=128, width=176, num_frames=17, fps=24)  # 440 tokens
Predictions = list[tuple[Tensor, Tensor]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    add_bench(parser)
    parser.add_argument("--compiled", action="store_true", help="also time the functions compiled, on the CPU")
    options = parser.parse_args()
    for line in report(everything(options), options):
        print(line, flush=True)
    return 0


def everything(options: argparse.Namespace) -> Iterator[Result]:
    yield from results(options)
    if options.part == "all":
        yield from times(compiled=options.compiled)


def times(*, compiled: bool = False) -> Iterator[Result]:
    """Every part that is timed on the CPU."""
    parts: dict[str, Callable[[], Iterator[Figure]]] = {
        "a step, 96/72 wide": lambda: alone(against_plain(made(96, 72, 24), TINY_CLIP, 1 / 1.6, rounds=60)),
        "a step, 384/288 wide": lambda: alone(against_plain(made(384, 288, 96), SMALL_CLIP, 0.85, rounds=7)),
        "a step of the playground": lambda: alone(against_plain(playground(), TINY_CLIP)),
        "a step, streamed": lambda: alone(against_resident(made(384, 288, 96), SMALL_CLIP)),
        "a layer, 5120/1536 wide, 440 tokens": lambda: real_width(5, 0.87),
        "a layer, 5120/1536 wide, 880 tokens": lambda: real_width(10, 0.90),
    }
    if compiled:
        parts["a step, compiled"] = lambda: alone(against_formulas(made(384, 288, 96), SMALL_CLIP))
    for name, part in parts.items():
        yield from guarded(SECTION, name, part)


def alone(part: Iterator[Figure]) -> Iterator[Figure]:
    """On one thread: small operations on several measure how these wait for each other on a machine that is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from part
    finally:
        torch.set_num_threads(threads)


def against_plain(
    joint: JointTransformer, spec: ClipSpec, at_most: float | None = None, rounds: int = 30
) -> Iterator[Figure]:
    run = Step(joint, spec)
    agree(run(), run.plain(), 1e-3)
    pace = step_against_plain(joint, spec, rounds=rounds)
    yield told(f"a step, {described(joint)}", "engine / plain path", pace, at_most)


def against_resident(joint: JointTransformer, spec: ClipSpec, rounds: int = 7) -> Iterator[Figure]:
    """Two slots; every layer in the host's memory, from where it is copied beside the computing."""
    run, lane = Step(joint, spec), HostLane()
    packs: dict[Any, list[Tensor]] = joint.packs(EXPERT, cached_text=True)
    order = [key for key in packs if key.what == "block"]
    stream = LayerStream(packs, lane, slots=2, buffers=len(order))
    try:
        stream.follow(order * (rounds + 2))
        agree(run(stream.lend), run(), 0)
        pace = alternate(run, lambda: run(stream.lend), rounds)
    finally:
        stream.close()
        lane.close()
    yield told(f"a step, {described(joint)}", "streamed / resident", pace, 1.05)


def against_formulas(joint: JointTransformer, spec: ClipSpec, rounds: int = 7) -> Iterator[Figure]:
    run = Step(joint, spec)

    def compiled() -> Predictions:
        fused.use(compiled=True, devices=frozenset({"cpu"}))
        try:
            return run()
        finally:
            fused.use(compiled=False)

    agree(compiled(), run(), 1e-4)
    yield told(f"a step, {described(joint)}", "compiled / not", alternate(run, compiled, rounds))


def real_width(frames: int, at_most: float, audio_tokens: int = 400, rounds: int = 5) -> Iterator[Figure]:
    """The first joint layer of the released widths, whose text was read, for one branch."""
    layer = Layer(real_layer(), (frames, 8, 11), audio_tokens)
    agree([layer()], [layer.plain()], 1e-3)
    name = f"a layer, 5120/1536 wide, {frames * 88} tokens"
    yield told(name, "engine / plain path", alternate(layer.plain, layer, rounds), at_most)
    del layer
    pace = layers_against_products(frames=frames, audio_tokens=audio_tokens, rounds=rounds)
    yield told(name, "engine / its matrix products", pace, 1.10)


class Step:
    """A guided step of a clip on random inputs: both branches, whose texts were read before."""

    def __init__(self, joint: JointTransformer, spec: ClipSpec) -> None:
        self.joint, self.spec = joint, spec
        self.inputs = clip_inputs(joint, spec)
        self.prompts = [noise(1, 512, joint.video_dit.config["text_dim"]) for _ in range(2)]
        self.branches = [(joint.read(prompt, expert=EXPERT), True) for prompt in self.prompts]

    def __call__(self, lend: Lend = keep) -> Predictions:
        return self.joint.evaluate(*self.inputs, self.branches, video_fps=self.spec.fps, lend=lend)

    def plain(self) -> Predictions:
        return [evaluate_plainly(self.joint, *self.inputs, prompt, video_fps=self.spec.fps) for prompt in self.prompts]


class Layer:
    """A joint layer, by the engine and by the plain path, from the same states."""

    def __init__(self, joint: JointTransformer, grid: tuple[int, ...], audio_tokens: int) -> None:
        self.joint, self.grid = joint, grid
        self.evaluation: Evaluation = lone_layer(joint, grid, audio_tokens, 512)
        length = grid[0] * grid[1] * grid[2]
        self.start = Pair(noise(1, length, joint.video_dit.dim), noise(1, audio_tokens, joint.audio_dit.dim))
        angles = (tower_angles(joint.video_dit, grid), tower_angles(joint.audio_dit, (audio_tokens,)))
        self.turns = [tower_turn(part) for part in angles]
        self.bridge_turns = bridge_turns(joint.bridge.config, 24.0, grid, audio_tokens, torch.float32)

    @torch.no_grad()
    def __call__(self) -> tuple[Tensor, Tensor]:
        (pair,) = self.evaluation.run(Pair(self.start.video.clone(), self.start.audio.clone()))
        return pair

    @torch.no_grad()
    def plain(self) -> tuple[Tensor, Tensor]:
        moment, (text, _) = self.evaluation.moment, self.evaluation.branches[0]
        none = torch.empty(0)  # the time of the head, which is not of a layer
        video = State(self.start.video, text.video, none, moment.video_t_mod, self.turns[0], self.grid)
        audio = State(
            self.start.audio, text.audio, none, moment.audio_t_mod, self.turns[1], self.start.audio.shape[1:2]
        )
        video.x, audio.x = exchange(self.joint.bridge, 0, video, audio, self.bridge_turns)
        return advance(self.joint.video_dit.blocks[0], video), advance(self.joint.audio_dit.blocks[0], audio)


class HostLane:
    """A lane (see ``mova.lanes``) from memory to memory: another thread copies while this one computes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.pinned_bytes = 0
        self._copying = ThreadPoolExecutor(1)

    def slot(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def buffer(self, nbytes: int) -> Tensor:
        return self.slot(nbytes)

    def release(self, memory: Tensor) -> None:
        """It goes with its last tensor."""

    def copy(self, slot: Tensor, buffer: Tensor, after: None) -> Future[Tensor]:
        """Computing is done when it returns, so that there is nothing to wait for first."""
        return self._copying.submit(slot.copy_, buffer)

    def mark(self) -> None:
        """Now."""

    def wait(self, event: Future[Tensor]) -> None:
        event.result()

    def finished(self, event: Future[Tensor] | None) -> None:
        if event is not None:
            event.result()

    def close(self) -> None:
        self._copying.shutdown()


def told(name: str, subject: str, pace: Pace, at_most: float | None = None) -> Figure:
    return Figure(SECTION, name, subject, pace.ratio, at_most=at_most)


def described(joint: JointTransformer) -> str:
    """Its widths and depths."""
    video, audio = joint.video_dit, joint.audio_dit
    return f"{video.dim}/{audio.dim} wide, {len(video.blocks)} + {len(audio.blocks)} layers"


def agree(found: Predictions, expected: Predictions, tolerance: float) -> None:
    """ArithmeticError unless results are within ``tolerance`` of the largest number; 0 is to the last bit."""
    for mine, its in zip(found, expected, strict=True):
        for name, one, other in zip(("video", "audio"), mine, its, strict=True):
            error = float((one - other).abs().max() / other.abs().max())
            if not error <= tolerance:
                raise ArithmeticError(f"The {name} differs by {error:.1e} of its largest number.")


def playground() -> JointTransformer:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_playground(Path(folder) / "playground")
        parts = (load_component(checkpoint, name) for name in ("video_dit", "audio_dit", "dual_tower_bridge"))
        return JointTransformer(*parts)


def made(video_dim: int, audio_dim: int, head_dim: int) -> JointTransformer:
    """3 + 2 layers of random weights, float32."""
    common: dict[str, Any] = {"text_dim": 64, "freq_dim": 64, "eps": 1e-6}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        video = WanModel(
            **common,
            dim=video_dim,
            ffn_dim=3 * video_dim,
            num_heads=video_dim // head_dim,
            num_layers=3,
            in_dim=36,
            out_dim=16,
            patch_size=(1, 2, 2),
        )
        audio = WanAudioModel(
            **common,
            dim=audio_dim,
            ffn_dim=3 * audio_dim,
            num_heads=audio_dim // head_dim,
            num_layers=2,
            in_dim=16,
            out_dim=16,
            patch_size=(1,),
            vae_type="dac",
        )
        bridge = DualTowerConditionalBridge(
            visual_layers=3,
            audio_layers=2,
            visual_hidden_dim=video_dim,
            audio_hidden_dim=audio_dim,
            audio_fps=50.0,
            head_dim=head_dim,
            interaction_strategy="full",
        )
    return JointTransformer(video, audio, bridge).eval().requires_grad_(False)


if __name__ == "__main__":
    sys.exit(main())
