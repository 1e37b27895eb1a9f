"""How fast the engine evaluates on this machine's CPU, against the plain path and against its own matrix products.

Functions that measure, for whoever prints a table; nothing here is asserted.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mova.audio_dit import WanAudioModel
from mova.bridge import DualTowerConditionalBridge
from mova.evaluation import Evaluation, Moment, Pair, Tables, TextContext
from mova.joint import JointTransformer
from mova.spec import ClipSpec
from mova.video_dit import WanModel
from tests.plain import evaluate_plainly

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # latents, audio latents, timestep, audio timestep


@dataclass(frozen=True)
class Pace:
    """Median seconds of what was measured together, turn by turn."""

    baseline: float
    engine: float

    @property
    def ratio(self) -> float:
        """Engine / baseline."""
        return self.engine / self.baseline


def alternate(baseline: Callable[[], Any], engine: Callable[[], Any], rounds: int) -> Pace:
    """Both in turn, so that a machine that is busy for a while is busy for both; the first round isn't counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for run, seen in zip((baseline, engine), times, strict=True):
            start = time.perf_counter()
            run()
            seen.append(time.perf_counter() - start)
    return Pace(*(statistics.median(seen[1:]) for seen in times))


def step_against_plain(joint: JointTransformer, spec: ClipSpec, *, text_rows: int = 512, rounds: int = 30) -> Pace:
    """A guided step, two branches, of a clip ``spec``: the plain path twice against one evaluation of the engine.

    The plain path embeds the texts at every step, the engine has read them before.
    """
    inputs, prompts = (
        clip_inputs(joint, spec),
        [noise(1, text_rows, joint.video_dit.config["text_dim"]) for _ in range(2)],
    )
    branches = [(joint.read(prompt), True) for prompt in prompts]

    def plainly() -> None:
        for prompt in prompts:
            evaluate_plainly(joint, *inputs, prompt, video_fps=spec.fps, laid_out=False)

    return alternate(plainly, lambda: joint.evaluate(*inputs, branches, video_fps=spec.fps), rounds)


def layers_against_products(*, frames: int = 5, audio_tokens: int = 400, text_rows: int = 512, rounds: int = 5) -> Pace:
    """A joint layer of the released widths in float32: its matrix products and attention alone, against the engine.

    The products are those that the engine did in a first run, with the same operands, in the same order. ``frames`` of
    8 x 11 tokens.
    """
    joint, grid = real_layer(), (frames, 8, 11)
    evaluation = lone_layer(joint, grid, audio_tokens, text_rows)
    start = Pair(noise(1, math.prod(grid), joint.video_dit.dim), noise(1, audio_tokens, joint.audio_dit.dim))
    with torch.no_grad(), Products() as products:
        evaluation.run(Pair(start.video.clone(), start.audio.clone()))
    return alternate(products.again, torch.no_grad()(lambda: evaluation.run(start)), rounds)


class Products(TorchFunctionMode):
    """Notes the matrix products and attentions inside the block, to do them ``again``."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.linear, F.scaled_dot_product_attention):
            self.calls.append(partial(func, *args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    @torch.no_grad()
    def again(self) -> None:
        for call in self.calls:
            call()


def real_layer() -> JointTransformer:
    """The first joint layer of the released checkpoints, random; the rest of the towers has no weights."""
    common: dict[str, Any] = {"freq_dim": 256, "text_dim": 4096, "eps": 1e-6, "num_layers": 1}
    with torch.device("meta"):
        video = WanModel(**common, dim=5120, ffn_dim=13_824, num_heads=40, in_dim=36, out_dim=16, patch_size=(1, 2, 2))
        audio = WanAudioModel(
            **common, dim=1536, ffn_dim=8960, num_heads=12, in_dim=128, out_dim=128, patch_size=(1,), vae_type="dac"
        )
        bridge = DualTowerConditionalBridge(
            visual_layers=1,
            audio_layers=1,
            visual_hidden_dim=video.dim,
            audio_hidden_dim=audio.dim,
            audio_fps=50.0,
            head_dim=128,
            interaction_strategy="full",
        )
    for module in (video.blocks, audio.blocks, bridge):
        for parameter in module.to_empty(device="cpu").parameters():
            width = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.data.uniform_(-1, 1).mul_((3 / width) ** 0.5 if width > 1 else 0.1)
    return JointTransformer(video, audio, bridge)


def lone_layer(joint: JointTransformer, grid: tuple[int, ...], audio_tokens: int, text_rows: int) -> Evaluation:
    """The evaluation of layer 0 for one branch whose text was read."""
    video, audio, cpu = joint.video_dit, joint.audio_dit, torch.device("cpu")
    contexts = [noise(1, text_rows, tower.dim) for tower in (video, audio)]
    with torch.no_grad():
        heard = tuple(
            tower.blocks[0].read_text(context) for tower, context in zip((video, audio), contexts, strict=True)
        )
        aligned = joint.bridge.aligned_rotary(24.0, grid, audio_tokens, cpu)
        tables = Tables(video.rope(grid, cpu), audio.rope((audio_tokens,), cpu), aligned)
    moment = Moment(grid, tables, noise(1, 6, video.dim), noise(1, 6, audio.dim), None)
    return Evaluation(joint, moment, [(TextContext("video_dit", *contexts, (heard,)), True)])


def clip_inputs(joint: JointTransformer, spec: ClipSpec) -> Inputs:
    """Latents of a clip ``spec`` with 50 audio latents a second, at a time in the middle of the schedule."""
    frames = (spec.num_frames - 1) // 4 + 1
    video = noise(1, joint.video_dit.config["in_dim"], frames, spec.height // 8, spec.width // 8)
    audio = noise(1, joint.audio_dit.config["in_dim"], math.ceil(50 * spec.num_frames / spec.fps))
    return video, audio, torch.tensor([700.0]), torch.tensor([700.0])


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
