"""What a plan takes, found by running the engine's own code on meta tensors and adding up what lives.

Plans are arithmetic, and this is how it is checked: weights by walking over the modules, layers by the engine's own
stream on a lane that counts, everything else by ``mova.meter``. Functions count as they run uncompiled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mova.bench.counted import EXPERT, CountingLane
from mova.bench.sizes import META, inputs_for, joint_of, prompt_for, text_encoder_of, video_vae_of
from mova.costs import shape_of
from mova.joint import JointTransformer, TextContext
from mova.meter import Meter
from mova.model import Model
from mova.plan import Plan
from mova.presets import preset_named
from mova.spec import MAX_PROMPT_TOKENS, ClipSpec
from mova.streaming import LayerStream
from mova.text import look_up
from mova.video_vae import decode_frames, encode_condition

EXPERTS = (EXPERT, "video_dit_2")
# What follows lives as these do; see the tests.
FEW_GROUPS, FEW_LAYERS = 4, (2, 2)


@dataclass(frozen=True)
class Held:
    """Bytes of the device at the most, and of pinned or staging memory of the host."""

    device: int
    host: int = 0


def simulate(model: Model, spec: ClipSpec, plan: Plan) -> dict[str, Held]:
    """Phase -> what it holds under ``plan``.

    Where tiles wait in RAM, they are counted as if they waited on the device.
    """
    vae = encoder = kept = 0
    denoising, shelves = _denoising(model, spec, plan)
    if plan.offload == "none":  # all that was there once stays
        kept = shelves.device + _bytes(text_encoder_of(model)) + _bytes(video_vae_of(model)) + _sound(model)
    else:
        vae, encoder = _bytes(video_vae_of(model)), _text_weights(model, plan.text)
    reading = 0 if plan.text == "cpu" else text_peak(model)
    return {
        "text": Held(kept + encoder + reading),
        "frame": Held(kept + vae + encode_peak(model, spec, plan.vae_tile)),
        "denoising": Held(max(kept, shelves.device) + denoising, shelves.host),
        "decoding": Held(kept + vae + decode_peak(model, spec, plan.vae_tile)),
    }


@cache
def text_peak(model: Model) -> int:
    """The most that lives while the second prompt is read, the first one's embeddings included, without weights."""
    encoder = text_encoder_of(model)
    tokens = torch.zeros(1, MAX_PROMPT_TOKENS, dtype=torch.int64, device=META)
    with torch.no_grad(), _Unasked(), Meter() as meter:
        read = [
            encoder(inputs_embeds=look_up(encoder, tokens), attention_mask=tokens).last_hidden_state for _ in range(2)
        ]
        del read
    return meter.peak


@cache
def encode_peak(model: Model, spec: ClipSpec, tile: int | None) -> int:
    """The most that lives while the first-frame condition is encoded."""
    vae = video_vae_of(model)
    first = torch.empty(1, 3, spec.height, spec.width, device=META)
    with Meter() as meter:
        encode_condition(vae, first, spec.num_frames, tile=tile)
    return meter.peak + first.nbytes


@cache
def decode_peak(model: Model, spec: ClipSpec, tile: int | None) -> int:
    """The most that lives while pictures are decoded; each group goes on to the host as it comes."""
    vae = video_vae_of(model)
    latents = torch.empty(1, model.vae.z_dim, *shape_of(model, spec).latents, device=META)
    with Meter() as meter:
        for pictures in islice(decode_frames(vae, latents, tile=tile), FEW_GROUPS):
            pictures[0].permute(1, 2, 3, 0).div(2).add(0.5).clamp(0, 1)
    return meter.peak + latents.nbytes


@cache
def step_peak(model: Model, spec: ClipSpec, weights: str, matmul: str, chunk: int | None, text_kv: bool) -> int:
    """The most that lives in a step: latents, texts, states and what a layer works with; no weights of layers."""
    few = joint_of(model, FEW_LAYERS, weights=weights, products=weights if matmul == "w8a8" else "plain")
    inputs, channels = inputs_for(model, spec), model.vae.z_dim
    with torch.no_grad(), Meter(fused=False) as meter:
        noise, condition = inputs.latents[:, :channels].clone(), inputs.latents[:, channels:].clone()
        texts = [few.read(prompt_for(model), expert=EXPERT, cached=text_kv) for _ in range(2)]
        meter.forget_peak()
        joined = torch.cat((noise, condition), dim=1)
        branches = [(text, True) for text in texts]
        few.evaluate(joined, *inputs.tensors[1:], branches, video_fps=spec.fps, token_chunk=chunk)
    return meter.peak + _missing_texts(model, texts)


@cache
def packs_of(model: Model, weights: str, text_kv: bool) -> tuple[dict[Any, list[Tensor]], int]:
    """The packs of both experts, which share the audio tower and the bridge; bytes of what stays with an expert."""
    joint = joint_of(model, weights=weights)
    second = JointTransformer(joint_of(model, weights=weights).video_dit, joint.audio_dit, joint.bridge)
    packs: dict[Any, list[Tensor]] = {
        **joint.packs(EXPERTS[0], cached_text=text_kv),
        **second.packs(EXPERTS[1], cached_text=text_kv),
    }
    return packs, sum(tensor.nbytes for tensor in joint.resident())


@cache
def shelves_of(model: Model, weights: str, text_kv: bool, slots: int, buffers: int) -> Held:
    """What the stream holds over a generation of a few steps with each expert; on the CPU there is none."""
    packs, _ = packs_of(model, weights, text_kv)
    order = [key for expert in EXPERTS for key in _order(packs, expert)]
    stream = LayerStream(packs, CountingLane(), slots=slots, buffers=buffers)
    try:
        stream.follow(order)
        for key in order:
            with stream.lend(key):
                pass
        return Held(stream.stats.device_bytes, stream.stats.host_bytes)
    finally:
        stream.close()


class _Unasked(TorchDispatchMode):
    """Meta tensors have no values: whoever asks for one hears False (a mask, say, isn't all ones)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return False if func is torch.ops.aten._local_scalar_dense.default else func(*args, **(kwargs or {}))


def _order(packs: Iterable[Any], expert: str) -> list[Any]:
    own = [key for key in packs if key.expert == expert]
    texts, blocks = ([key for key in own if key.what == what] for what in ("text", "block"))
    return texts * 2 + blocks * 3


def _denoising(model: Model, spec: ClipSpec, plan: Plan) -> tuple[int, Held]:
    """What a step holds besides layers, and the layers' places."""
    matmul = preset_named(plan.preset).matmul
    peak = step_peak(model, spec, plan.weights, matmul, plan.token_chunk, plan.text_kv)
    shelves = shelves_of(model, plan.weights, plan.text_kv, plan.slots, plan.buffers)
    return peak + packs_of(model, plan.weights, plan.text_kv)[1], shelves


def _text_weights(model: Model, stays: str) -> int:
    """Part by part, the table of embeddings stays in RAM (see ``mova.text``)."""
    encoder = text_encoder_of(model)
    table = encoder.get_input_embeddings().weight
    parts = [
        [weight.nbytes for weight in part.parameters(recurse=False) if weight is not table]
        for part in encoder.modules()
    ]
    return {"device": _bytes(encoder), "parts": max(map(sum, parts)), "cpu": 0}[stays]


def _sound(model: Model) -> int:
    """The audio VAE is float32, whatever is stored."""
    return 4 * model.sound.weights.elements


def _missing_texts(model: Model, texts: list[TextContext]) -> int:
    """Bytes of keys and values of the layers that were left out."""
    if texts[0].heard is None:
        return 0
    rows = MAX_PROMPT_TOKENS * texts[0].video.element_size() * 2 * len(texts)
    video = (model.experts[0].layers - FEW_LAYERS[0]) * model.experts[0].dim
    return rows * (video + (model.audio.layers - FEW_LAYERS[1]) * model.audio.dim)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
