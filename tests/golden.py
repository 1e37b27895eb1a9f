"""Compares the engine with golden tensors of the original implementation: `python tests/golden.py FOLDER`.

The folder holds a manifest.json of cases, tiny checkpoints and the tensors; each case is run through the engine and
printed with its largest error as a share of its tolerance (in bfloat16, where rounding differs from build to build,
with the root mean square of its error).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from mova.attention import Rotary
from mova.audio_dit import audio_rope_angles
from mova.bridge import interaction_layers
from mova.checkpoint import build_component, load_component, load_tokenizer
from mova.clip import to_pixels
from mova.denoising import Prepared
from mova.guidance import guidance
from mova.joint import JointTransformer
from mova.layout import read_json
from mova.lora_choice import LoraChoice, Strengths
from mova.lora_names import TARGETS
from mova.media import to_pcm16
from mova.model import EXPERTS
from mova.picture import fit_picture
from mova.pipeline import MovaPipeline, to_tensor
from mova.scheduler import FlowMatchPairScheduler
from mova.spec import ClipSpec
from mova.text import clean_prompt, encode_prompt
from mova.tower import TowerState, rope_angles, rotary_from_angles, sinusoidal_embedding
from mova.training.encode import encode_audio, encode_video
from mova.training.model import JointExperts, load_model
from mova.training.objective import NoiseLevels, Objective
from mova.training.samples import Batch
from mova.training.schedule import Schedule
from mova.video_dit import video_rope_angles
from mova.video_vae import decode_frames, denormalise, encode_condition, normalise

Results = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One case of the manifest, its tensors read on demand."""

    root: Path
    entry: dict[str, Any]
    inputs_of: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.entry["id"])

    @property
    def args(self) -> dict[str, Any]:
        return self.entry.get("args") or {}

    @property
    def checkpoint(self) -> Path:
        name = self.entry.get("checkpoint") or next(part for part in self.id.split("/") if part.startswith(PREFIXES))
        return self.root / "ckpt" / name

    def input(self, name: str) -> Tensor:
        return self._read(self.inputs_of, "inputs", name)

    def output(self, name: str) -> Tensor:
        return self._read(self.entry, "outputs", name)

    def module(self, dtype: torch.dtype | None = None) -> Any:
        path = self.entry["module"]
        if path.startswith("modules/"):
            folder, _, part = path.partition(":")
            return part_of(stand_alone(self.root / folder), part)
        name, _, part = path.partition(".")
        return part_of(component(self.checkpoint, name, dtype), part)

    def _read(self, entry: dict[str, Any], kind: str, name: str) -> Tensor:
        described = entry[kind][name]
        with safe_open(self.root / entry["file"], framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(described["key"])
        # The file aligns to 8 bytes; complex128 wants 16, or the vectorised kernels crash.
        return torch.view_as_complex(tensor.clone()) if described["dtype"].startswith("complex") else tensor


PREFIXES: tuple[str, ...] = ()
HANDLERS: list[tuple[re.Pattern[str], Callable[[Case], Results]]] = []


def handles(pattern: str) -> Callable[[Callable[[Case], Results]], Callable[[Case], Results]]:
    def register(handler: Callable[[Case], Results]) -> Callable[[Case], Results]:
        HANDLERS.append((re.compile(pattern), handler))
        return handler

    return register


@cache
def component(checkpoint: Path, name: str, dtype: torch.dtype | None = None) -> Any:
    return load_component(checkpoint, name, dtype)


@cache
def stand_alone(folder: Path) -> nn.Module:
    """A module saved outside a checkpoint."""
    config = read_json(folder / "config.json")
    kinds = {"WanModel": "video_dit", "WanAudioModel": "audio_dit", "DAC": "audio_vae"}
    module = build_component(kinds.get(config["_class_name"], "dual_tower_bridge"), config)
    with safe_open(folder / "diffusion_pytorch_model.safetensors", framework="pt") as file:
        module.load_state_dict({key: file.get_tensor(key) for key in file.keys()}, assign=True)  # noqa: SIM118
    return module.eval()


@cache
def pipeline(checkpoint: Path) -> MovaPipeline:
    return MovaPipeline.from_pretrained(checkpoint, device="cpu")


def part_of(module: nn.Module, path: str) -> nn.Module:
    return module.get_submodule(path) if path else module


def rotary(freqs: Tensor) -> Rotary:
    return Rotary(freqs.real, freqs.imag)


def unit(angles: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angles), angles)


@handles(r"/sinusoid/")
def _(case: Case) -> Results:
    return {"y": sinusoidal_embedding(case.args["dim"], case.input("position"))}


@handles(r"/rope/video_tables")
def _(case: Case) -> Results:
    third, rows = case.args["head_dim"] // 3, case.input("rows")
    widths = {"f": case.args["head_dim"] - 2 * third, "h": third, "w": third}
    return {axis: unit(rope_angles(width, rows)) for axis, width in widths.items()}


@handles(r"/rope/audio_(dac|oobleck)_tables")
def _(case: Case) -> Results:
    head_dim, rows = case.args["head_dim"], case.input("rows")
    kind = "dac" if "_dac_" in case.id else "oobleck"
    table = unit(audio_rope_angles(head_dim, int(rows.max()) + 1, kind)[rows])
    sizes = [case.output(name).shape[-1] for name in "012"]
    return dict(zip("012", table.split(sizes, dim=-1), strict=True))


@handles(r"/rope/grid")
def _(case: Case) -> Results:
    visual = case.output("visual")
    head_dim = visual.shape[-1] * 2
    audio = audio_rope_angles(case.output("audio").shape[-1] * 2, case.args["audio_steps"], "dac")
    return {
        "visual": unit(video_rope_angles(head_dim, tuple(case.args["grid"]))).unsqueeze(1),
        "audio": unit(audio).unsqueeze(1),
    }


@handles(r"/rope/apply")
def _(case: Case) -> Results:
    x = case.input("x").unflatten(-1, (-1, case.args["head_dim"]))
    angles = case.input("freqs").angle().squeeze(1)
    return {"y": rotary_from_angles(angles).apply(x).flatten(-2)}


@handles(r"_dit(_2)?/patchify")
def _(case: Case) -> Results:
    return {"tokens": case.module().patchify(case.input("x"))[0]}


@handles(r"_dit(_2)?/unpatchify")
def _(case: Case) -> Results:
    return {"y": case.module().unpatchify(case.input("x"), tuple(case.args["grid"]))}


@handles(r"_dit(_2)?/time$")
def _(case: Case) -> Results:
    tower = case.module()
    t = tower.time_embedding(case.input("e"))
    return {"t": t, "t_mod": tower.time_projection(t).unflatten(1, (6, tower.dim))}


@handles(r"_dit(_2)?/text_embedding")
def _(case: Case) -> Results:
    return {"y": case.module().text_embedding(case.input("c"))}


@handles(r"/block")
def _(case: Case) -> Results:
    block = case.module(torch.bfloat16 if "/bf16/" in case.id else None)
    seen: Results = {}
    scale = case.args.get("scale_qk")
    with Scaled(block, scale) if scale else torch.no_grad():
        hooks = [
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
            for name, module in block.named_modules()
            if name
        ]
        hooks += [
            getattr(block, name).o.register_forward_hook(
                lambda _m, args, _o, name=name: seen.__setitem__(f"{name}.attn", args[0])
            )
            for name in ("self_attn", "cross_attn")
        ]
        x, context, t_mod = case.input("x"), case.input("context"), case.input("t_mod")
        seen["y"] = block(x, context, t_mod, rotary_from_angles(case.input("freqs").angle().squeeze(1)))
    for hook in hooks:
        hook.remove()
    return {name: seen[name] for name in case.entry["outputs"]}


class Scaled:
    """A block whose q and k are a thousandth, for a while: their RMSNorm's eps shows."""

    def __init__(self, block: Any, scale: float) -> None:
        projections = [getattr(attn, name) for attn in (block.self_attn, block.cross_attn) for name in "qk"]
        self.parameters = [parameter for projection in projections for parameter in projection.parameters()]
        self.scale = scale

    def __enter__(self) -> None:
        self.kept = [parameter.detach().clone() for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.data.mul_(self.scale)

    def __exit__(self, *_: object) -> None:
        for parameter, kept in zip(self.parameters, self.kept, strict=True):
            parameter.data.copy_(kept)


@handles(r"/head(_per_token)?$")
def _(case: Case) -> Results:
    return {"y": case.module()(case.input("x"), case.input("t"))}


@handles(r"_dit(_2)?/forward|/extra/audio_")
def _(case: Case) -> Results:
    return {"y": case.module()(case.input("x"), case.input("timestep"), case.input("context"))}


@handles(r"/bridge\w*/aligned")
def _(case: Case) -> Results:
    args = case.args
    dtype = torch.bfloat16 if "bf16" in case.id else torch.float32
    cpu = torch.device("cpu")
    video, audio = case.module().aligned_rotary(args["video_fps"], args["grid"], args["audio_steps"], cpu, dtype)
    tables = {"cos_v": video.cos, "sin_v": video.sin, "cos_a": audio.cos, "sin_a": audio.sin}
    return {name: table.transpose(0, 1) for name, table in tables.items()}


@handles(r"/bridge\w*/pooling")
def _(case: Case) -> Results:
    grid = tuple(int(n) for n in re.findall(r"\((\d+),(\d+),(\d+)\)", case.entry["what"])[0])
    return {"y": case.module()(case.input("x"), grid)}


@handles(r"/bridge")
def _(case: Case) -> Results:
    args, bridge = case.args, case.module()
    freqs = bridge.aligned_rotary(args["video_fps"], args["grid"], args["audio_steps"], torch.device("cpu"))
    visual, audio = bridge(
        args["layer"],
        case.input("visual"),
        case.input("audio"),
        freqs,
        tuple(args["grid"]),
        **{name: value for name, value in args.items() if name.endswith("condition_scale")},
    )
    return {"visual": visual, "audio": audio}


@handles(r"/audio_vae/encode")
def _(case: Case) -> Results:
    vae = case.module()
    padded = vae.preprocess(case.input("audio"))
    posterior = vae.encode(padded)
    values = {"mean": posterior.mean, "logvar": posterior.logvar, "std": posterior.std, "mode": posterior.mode()}
    return {"padded": padded, **values}


@handles(r"/audio_vae/sample")
def _(case: Case) -> Results:
    vae = component(case.checkpoint, "audio_vae")
    posterior = vae.encode(vae.preprocess(case.input("audio")))
    return {"z": posterior.sample(torch.Generator().manual_seed(case.args["seed"]))}


@handles(r"/audio_vae/decode")
def _(case: Case) -> Results:
    return {"audio": case.module().decode(case.input("z"))}


@handles(r"/video_vae/encode")
def _(case: Case) -> Results:
    vae = case.module()
    posterior = vae.encode(case.input("x")).latent_dist
    mode = posterior.mode()
    return {"mean": posterior.mean, "logvar": posterior.logvar, "mode": mode, "normalized": normalise(vae, mode)}


@handles(r"/video_vae/decode")
def _(case: Case) -> Results:
    vae, z = case.module(), case.input("z")
    return {"denormalized": denormalise(vae, z), "video": torch.cat(list(decode_frames(vae, z)), dim=2)}


@handles(r"/condition/")
def _(case: Case) -> Results:
    args = case.args
    spec = ClipSpec(**{name: args[name] for name in ("seed", "height", "width", "num_frames", "fps")})
    video, audio = pipeline(case.checkpoint).draw_noise(spec, spec.seed)
    condition = encode_condition(component(case.checkpoint, "video_vae"), case.input("image"), spec.num_frames)
    return {"video_noise": video, "condition": condition, "audio_noise": audio}


@handles(r"/single_step/|/bf16/single_step|^lora/\w+/base$")
def _(case: Case) -> Results:
    dtype = torch.bfloat16 if "/bf16/" in case.id else None
    expert = case.entry.get("module") or "video_dit"
    towers = [component(case.checkpoint, name, dtype) for name in (expert, "audio_dit", "dual_tower_bridge")]
    seen: Results = {}
    hooks = []
    for layer, block in enumerate(towers[0].blocks):
        name = f"visual_after_block{layer}"
        hooks.append(block.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out)))
    for layer, block in enumerate(towers[1].blocks):
        name = f"audio_after_block{layer}"
        hooks.append(block.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out)))

    def after_bridge(_module: nn.Module, args: tuple[Any, ...], out: tuple[Tensor, Tensor]) -> None:
        seen[f"visual_after_bridge{args[0]}"], seen[f"audio_after_bridge{args[0]}"] = out

    hooks.append(towers[2].register_forward_hook(after_bridge))
    seen["video_pred"], seen["audio_pred"] = _single_step(towers, case)
    for hook in hooks:
        hook.remove()
    return {name: seen[name] for name in case.entry["outputs"]}


def _single_step(towers: list[Any], case: Case) -> tuple[Tensor, Tensor]:
    args = {**case.inputs_of["args"], **case.args}
    return JointTransformer(*towers)(
        case.input("visual_latents"),
        case.input("audio_latents"),
        torch.tensor([args["timestep"]]),
        torch.tensor([args.get("audio_timestep", args["timestep"])]),
        case.input("context"),
        video_fps=args["video_fps"],
    )


@handles(r"^lora/")
def _(case: Case) -> Results:
    mova = pipeline(case.checkpoint)
    strength = Strengths.alike(0.5) if case.id.endswith("_half") else Strengths()
    choice = LoraChoice(case.root / case.args["dir"], strength)
    mova.use_loras([choice], merge=case.id.endswith("_merged"))
    shared = [mova.placement.get(name) for name in ("audio_dit", "dual_tower_bridge")]
    seen: Results = {}
    seen["video_pred"], seen["audio_pred"] = _single_step([mova.placement.get("video_dit"), *shared], case)
    seen["video_pred_dit2"], _ = _single_step([mova.placement.get("video_dit_2"), *shared], case)
    weights = {f"audio_dit.{name}": weight.clone() for name, weight in shared[0].state_dict().items()}
    mova.use_loras()
    for name in ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge"):
        left, stored = mova.placement.get(name).state_dict(), component(case.checkpoint, name).state_dict()
        if left.keys() != stored.keys() or not all(torch.equal(left[key], stored[key]) for key in stored):
            raise AssertionError(f"{name} isn't what it was before the LoRA")
    return {**seen, **weights}


@handles(r"/dual_tower/")
def _(case: Case) -> Results:
    args = case.args
    towers = [component(case.checkpoint, name) for name in ("video_dit", "audio_dit", "dual_tower_bridge")]
    cpu, unused = torch.device("cpu"), torch.empty(0)
    grids = {"visual": tuple(args["grid"]), "audio": (args["audio_steps"],)}
    states = [
        TowerState(
            hidden_states=case.input(f"{name}_x"),
            context=case.input(f"{name}_context"),
            t=unused,
            t_mod=case.input(f"{name}_t_mod"),
            rope=tower.rope(grids[name], cpu),
            grid=grids[name],
        )
        for name, tower in zip(grids, towers[:2], strict=True)
    ]
    scales = {name: value for name, value in args.items() if name.endswith("condition_scale")}
    visual, audio = JointTransformer(*towers).run_layers(*states, video_fps=args["video_fps"], **scales)
    return {"visual": visual, "audio": audio}


@handles(r"/text/batch_repeat")
def _(case: Case) -> Results:
    args, encoder = case.args, component(case.checkpoint, "text_encoder")
    numbers = {name: args[name] for name in ("num_videos_per_prompt", "max_sequence_length")}
    return {"embeds": encode_prompt(load_tokenizer(case.checkpoint), encoder, args["prompts"], **numbers)}


@handles(r"/text/\d+$|/bf16/text")
def _(case: Case) -> Results:
    tokenizer, prompt = load_tokenizer(case.checkpoint), case.args["prompt"]
    if "cleaned" in case.args and clean_prompt(prompt) != case.args["cleaned"]:
        raise AssertionError(f"cleaned as {clean_prompt(prompt)!r}, should be {case.args['cleaned']!r}")
    encoder = component(case.checkpoint, "text_encoder", torch.bfloat16 if "/bf16/" in case.id else None)
    embeds = encode_prompt(tokenizer, encoder, [prompt])
    if "/bf16/" in case.id:
        return {"embeds": embeds[:, : case.args["kept_rows"]]}
    rows = case.output("embeds").shape[0]
    if embeds[:, rows:].any():
        raise AssertionError("rows after the text are not zero")
    ids = tokenizer(clean_prompt(prompt), truncation=True, max_length=512)["input_ids"]
    return {"input_ids": torch.tensor(ids), "embeds": embeds[0, :rows]}


@handles(r"/image/crop")
def _(case: Case) -> Results:
    picture = Image.fromarray(case.input("image").numpy())
    return {"image": torch.from_numpy(np.array(fit_picture(picture, case.args["height"], case.args["width"])))}


@handles(r"/image/preprocess")
def _(case: Case) -> Results:
    spec = ClipSpec(height=case.args["height"], width=case.args["width"])
    picture = Image.fromarray(case.input("image").numpy())
    return {"x": to_tensor(fit_picture(picture, spec.height, spec.width, how="stretch"), spec)}


@handles(r"/image/postprocess")
def _(case: Case) -> Results:
    pictures = case.input("video")[0].permute(1, 2, 3, 0) * 0.5 + 0.5
    return {"frames": torch.from_numpy(to_pixels(pictures.clamp(0, 1)))}


@handles(r"/wav/")
def _(case: Case) -> Results:
    return {"pcm": torch.from_numpy(to_pcm16(case.input("audio").numpy()))}


@handles(r"^pipeline/")
def _(case: Case) -> Results:
    args = case.args
    mova = pipeline(case.checkpoint)
    shifts = args["dual"] or {}
    spec = ClipSpec(
        **{name: args[name] for name in ("height", "width", "num_frames", "fps", "seed")},
        num_inference_steps=args["steps"],
        guidance_scale=args["cfg"],
        negative_prompt=args["negative_prompt"] or "",
        video_shift=shifts.get("visual_shift"),
        audio_shift=shifts.get("audio_shift"),
    )
    mova.denoiser.boundary_ratio = args.get("boundary_ratio") or float(
        read_json(case.checkpoint / "model_index.json")["boundary_ratio"]
    )
    source = Image.fromarray(case.input("source_image").numpy())
    picture = fit_picture(source, spec.height, spec.width, how="crop" if args["crop"] else "stretch")
    return dict(_pipeline_results(mova, spec, args["prompt"], picture, case))


def _pipeline_results(
    mova: MovaPipeline, spec: ClipSpec, prompt: str, picture: Image.Image, case: Case
) -> Iterator[tuple[str, Any]]:
    plan = guidance(spec.guidance_scale)
    prepared = mova.prepare([prompt], spec, plan, picture)
    yield "preprocessed_image", to_tensor(picture, spec)
    yield "condition", prepared.condition
    yield "prompt_embeds", _rows(prepared.prompt_embeds, case, "prompt_embeds")
    if "negative_prompt_embeds" in case.entry["outputs"]:
        negative = prepared.negative_prompt_embeds
        if negative is None:
            negative = encode_prompt(mova.tokenizer, mova.placement.get("text_encoder"), [spec.negative_prompt])
        yield "negative_prompt_embeds", _rows(negative, case, "negative_prompt_embeds")
    seen = _traced_denoise(mova, prepared, spec)
    yield from seen.items()
    video, audio = seen["video_latents"], seen["audio_latents"]
    vae = mova.placement.get("video_vae")
    decoded = torch.cat(list(mova.decode_video(video, mova.planned(spec))), dim=2)
    pictures = (decoded[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0)
    yield "denormalized_video_latents", denormalise(vae, video)
    yield "decoded_video", decoded
    yield "frames", torch.from_numpy(to_pixels(pictures))
    yield "audio", torch.from_numpy(mova.decode_audio(audio, mova.planned(spec))).unsqueeze(1)
    yield "paired_timesteps", mova.scheduler.get_pairs()[0]


def _traced_denoise(mova: MovaPipeline, prepared: Prepared, spec: ClipSpec) -> Results:
    """Every prediction and every step's latents, under the manifest's names (prompt first, then negative prompt)."""
    seen: Results = {}
    calls: list[tuple[Tensor, Tensor]] = []
    stepped: list[Tensor] = []
    evaluate, step_from_to = JointTransformer.evaluate, mova.scheduler.step_from_to

    def evaluated(self: JointTransformer, *args: Any, **kwargs: Any) -> list[tuple[Tensor, Tensor]]:
        predictions = evaluate(self, *args, **kwargs)
        calls.extend(predictions)
        return predictions

    def step(*args: Any) -> Tensor:
        stepped.append(step_from_to(*args))
        return stepped[-1]

    JointTransformer.evaluate, mova.scheduler.step_from_to = evaluated, step
    try:
        seen["video_latents"], seen["audio_latents"] = mova.denoise(prepared, spec, guidance(spec.guidance_scale))
    finally:
        JointTransformer.evaluate, mova.scheduler.step_from_to = evaluate, step_from_to
    branches = len(guidance(spec.guidance_scale).branches)
    for index, (video, audio) in enumerate(calls):
        # Ours asks the negative prompt first, the original last.
        place = index - index % branches + (branches - 1 - index % branches)
        seen[f"call{place:03}/video_pred"], seen[f"call{place:03}/audio_pred"] = video, audio
    for index in range(0, len(stepped), 2):
        seen[f"step{index // 2:03}/video_latents"] = stepped[index]
        seen[f"step{index // 2:03}/audio_latents"] = stepped[index + 1]
    return seen


def _rows(embeds: Tensor, case: Case, name: str) -> Tensor:
    rows = case.output(name).shape[1]
    if embeds[:, rows:].any():
        raise AssertionError(f"{name}: rows after the text are not zero")
    return embeds[:, :rows]


def scheduler_of(args: dict[str, Any]) -> FlowMatchPairScheduler:
    # Everything in args that the constructor knows; the manifest's defaults are the class's, but for the shift of 5.
    known = FlowMatchPairScheduler().config
    options = {name: value for name, value in args.items() if name in known}
    return FlowMatchPairScheduler(**{"shift": 5.0, **options})


@handles(r"^scheduler/[^/]+/train_table")
def _(case: Case) -> Results:
    scheduler = scheduler_of(case.args)
    return {"timesteps": scheduler.train_timesteps, "sigmas": scheduler.train_sigmas}


@handles(r"^scheduler/[^/]+/steps\d+|^scheduler/dual/")
def _(case: Case) -> Results:
    args = case.args
    scheduler = scheduler_of(args)
    scheduler.set_timesteps(args["steps"])
    dual = case.id.startswith("scheduler/dual/")
    if dual:
        known = {name: value for name, value in args.items() if name.startswith(("visual_", "audio_"))}
        scheduler.dual_sigma_shift(**known)
    pairs, pair_sigmas = scheduler.get_pairs()
    table = scheduler.timestep_to_sigma(pairs if dual else scheduler.timesteps)
    seen = {"timesteps": scheduler.timesteps, "sigmas": scheduler.sigmas, "pairs": pairs, "pair_sigmas": pair_sigmas}
    return {name: {**seen, "table_sigma": table}[name] for name in case.entry["outputs"]}


@handles(r"^scheduler/shift_override")
def _(case: Case) -> Results:
    scheduler = scheduler_of(case.args)
    scheduler.set_timesteps(6, shift=2.0)
    six = scheduler.timesteps
    scheduler.set_timesteps(4)
    head = scheduler.train_sigmas[:10]
    return {"timesteps6": six, "train_sigmas_head": head, "timesteps4": scheduler.timesteps}


@handles(r"^scheduler/denoising_strength")
def _(case: Case) -> Results:
    scheduler = scheduler_of({"extra_one_step": True})
    scheduler.set_timesteps(6, denoising_strength=0.6)
    return {"timesteps": scheduler.timesteps, "sigmas": scheduler.sigmas}


@handles(r"^scheduler/training_weights")
def _(case: Case) -> Results:
    scheduler = scheduler_of(case.args)
    scheduler.set_timesteps(1000, training=True)
    return {"weights": scheduler.linear_timesteps_weights}


@handles(r"^scheduler/(step_from_to|step|add_noise|return_to_timestep)")
def _(case: Case) -> Results:
    args = {**(case.inputs_of.get("args") or {}), **case.args}
    scheduler = scheduler_of(args)
    scheduler.set_timesteps(args["steps"])
    sample, output = case.input("sample"), case.input("model_output")
    verb = case.id.split("/")[1]
    if verb == "step_from_to":
        return {"y": scheduler.step_from_to(output, args["t_from"], args["t_to"], sample)}
    if verb == "step":
        return {"y": scheduler.step(output, args["timestep"], sample)}
    if verb == "add_noise":
        return {"y": scheduler.add_noise(sample, output, args["timestep"])}
    return {"y": scheduler.return_to_timestep(args["timestep"], sample, output)}


@handles(r"^train/\w+/timesteps$")
def _(case: Case) -> Results:
    levels = levels_of(case.checkpoint)
    rows = []
    for step, expert in enumerate(EXPERTS):
        generator = torch.Generator().manual_seed(case.args["seed"] + step)
        drawn = [levels.row(levels.span(expert), generator) for _ in range(12)]
        rows += [[step, *levels.timesteps[row].tolist()] for row in drawn]
    return {"rows": torch.tensor(rows, dtype=torch.float64)}


@handles(r"^train/\w+/(even|odd)_step$")
def _(case: Case) -> Results:
    model = load_model(case.checkpoint)
    return training_step(case, model, dict(model.named_parameters()))


@handles(r"^train/\w+/lora_")
def _(case: Case) -> Results:
    model = load_model(case.checkpoint, trainable=False)
    adapted = {name.removeprefix("lora/"): case.input(name) for name in case.entry["inputs"] if "lora/" in name}
    chosen = case.args["lora"]
    for name, part in model.named_children():
        targets = {key.split(".lora_")[0].removeprefix(f"{name}.") for key in adapted if key.startswith(f"{name}.")}
        if targets:
            config = LoraConfig(r=chosen["rank"], lora_alpha=chosen["alpha"], target_modules=targets)
            inject_adapter_in_model(config, part)
    learning = {name.replace(".default", ""): value for name, value in model.named_parameters() if value.requires_grad}
    assert learning.keys() == adapted.keys()
    for name, value in adapted.items():
        learning[name].data.copy_(value)
    return training_step(case, model, learning)


def levels_of(checkpoint: Path) -> NoiseLevels:
    ratio = read_json(checkpoint / "model_index.json")["boundary_ratio"]
    return NoiseLevels.of(pipeline(checkpoint).scheduler, ratio)


def training_batch(case: Case) -> Batch:
    vae, audio_vae, text = (component(case.checkpoint, name) for name in ("video_vae", "audio_vae", "text_encoder"))
    video = case.input("video").transpose(1, 2)  # [B, 3, F, H, W]
    return Batch(
        names=("golden",),
        latents=encode_video(vae, video),
        audio_latents=encode_audio(audio_vae, case.input("audio")),
        condition=encode_condition(vae, video[:, :, 0], video.shape[2]),
        prompt_embeds=encode_prompt(load_tokenizer(case.checkpoint), text, case.args["captions"]),
        fps=case.args["video_fps"],
    )


def training_step(case: Case, model: JointExperts, parameters: dict[str, nn.Parameter]) -> Results:
    """One step of ``parameters``: everything the manifest names."""
    batch, expert = training_batch(case), EXPERTS[case.args["global_step"] % 2]
    objective = Objective(levels_of(case.checkpoint), torch.zeros_like(batch.prompt_embeds[0]), text_dropout=0)
    predicted: list[tuple[Tensor, Tensor]] = []
    hook = model.register_forward_hook(lambda _m, _i, out: predicted.append(out))
    with torch.enable_grad():
        question = objective.ask(batch, expert, [torch.Generator().manual_seed(case.args["seed"])])
        losses = objective(model, batch, expert, [torch.Generator().manual_seed(case.args["seed"])])
        losses.total.backward()
    hook.remove()
    chosen = case.args["optimizer"]
    # As they are before clipping: the manifest's norms, and its gradients, are of that moment.
    gradients = {f"grad/{name}": value.grad.clone() for name, value in parameters.items() if value.grad is not None}
    norm = nn.utils.clip_grad_norm_(parameters.values(), chosen["clip"])
    options = {name: chosen[name] for name in ("lr", "weight_decay", "eps")}
    torch.optim.AdamW(parameters.values(), betas=tuple(chosen["betas"]), **options).step()
    return {
        "video_latents": batch.latents,
        "audio_latents": batch.audio_latents,
        "noisy_video": question.noisy_video,
        "noisy_audio": question.noisy_audio,
        "y": batch.condition,
        "context_rows": _rows(batch.prompt_embeds, case, "context_rows"),
        "timestep": question.timestep,
        "audio_timestep": question.audio_timestep,
        "video_pred": predicted[0][0],
        "audio_pred": predicted[0][1],
        "loss": losses.total,
        "video_loss": losses.video.mean(),
        "audio_loss": losses.audio.mean(),
        "grad_norm_before_clip": norm,
        **gradients,
        **{f"after_adamw/{name}": value for name, value in parameters.items()},
    }


def error_of(result: Tensor, golden: Tensor, described: dict[str, Any]) -> float:
    """The largest deviation as a share of the tolerance; at most 1 is within."""
    if result.shape != golden.shape:
        raise AssertionError(f"shape {tuple(result.shape)}, should be {tuple(golden.shape)}")
    if "suggested_rule" in described:  # at most one level off, on at most 0.5 % of the bytes
        off = (result.int() - golden.int()).abs()
        return max(float(off.max()), float((off > 0).double().mean()) / 0.005)
    if not (golden.is_floating_point() or golden.is_complex()):
        return 0.0 if torch.equal(result.to(golden.dtype), golden) else float("inf")
    wide = torch.complex128 if golden.is_complex() else torch.float64
    deviation = (result.to(wide) - golden.to(wide)).abs()
    if golden.dtype is torch.bfloat16:  # rounding noise of whole networks: its tail says nothing, its size does
        return deviation.square().mean().sqrt().item() / described["suggested_atol"]
    return deviation.max().item() / described["suggested_atol"]


def cases_of(root: Path) -> Iterator[Case]:
    global PREFIXES  # noqa: PLW0603
    manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    PREFIXES = tuple(manifest["checkpoints"])
    by_id = {entry["id"]: entry for entry in manifest["cases"]}
    for entry in manifest["cases"]:
        yield Case(root, entry, by_id[entry.get("inputs_of", entry["id"])])


@torch.no_grad()
def run(case: Case) -> tuple[float, str]:
    """The case's largest error as a share of its tolerance, and the output that has it."""
    handler = next((handler for pattern, handler in HANDLERS if pattern.search(case.id)), None)
    if handler is None:
        return float("nan"), "no handler"
    results = handler(case)
    errors = [
        (error_of(results[name], case.output(name), described), name)
        for name, described in case.entry["outputs"].items()
    ]
    return max(errors)


def interaction_errors(root: Path) -> list[str]:
    rows = json.loads((root / "scheduler" / "interaction_layers.json").read_text(encoding="utf-8"))
    wrong = []
    for row in rows:
        layers = interaction_layers(row["visual_layers"], row["audio_layers"], row["strategy"])
        if list(layers) != row["layers"]:
            wrong.append(f"{row['strategy']} {row['visual_layers']}+{row['audio_layers']}: {layers}")
    return wrong


def target_errors(root: Path) -> list[str]:
    """Where the released recipe adapts other layers than ours."""
    wrong = []
    for file in sorted((root / "lora").glob("*_injected_layers.json")):
        checkpoint = root / "ckpt" / file.name.removesuffix("_injected_layers.json")
        for name, golden in json.loads(file.read_text(encoding="utf-8"))["default_of_pipeline"].items():
            paths = [path for path, _ in component(checkpoint, name).named_modules()]
            if {path for path in paths if re.fullmatch(TARGETS[name], path)} != set(golden):
                wrong.append(f"{file.name}: {name}")
    return wrong


def schedule_errors(root: Path) -> list[str]:
    """Where a learning rate isn't the original's. Left out: its low-memory trainer, which starts from 0 and has a pi of
    its own, and what its cosine does after the last step, which is to rise again."""
    golden = json.loads((root / "train" / "lr_schedules.json").read_text(encoding="utf-8"))
    lr, steps, floor = golden["lr"], golden["max_steps"], golden["min_lr"] / golden["lr"]
    wrong = []
    for shape in ("constant", "linear", "cosine"):
        warmup = 0 if shape == "constant" else golden["warmup_steps"]
        schedule = Schedule(shape, steps, warmup_steps=warmup, floor=floor)
        for step, rate in enumerate(golden["schedules"][f"accelerate_{shape}"][: steps + 1]):
            if abs(lr * schedule.share(step) - rate) > 1e-12 * lr:
                wrong.append(f"{shape} at step {step}: {lr * schedule.share(step)}, should be {rate}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="cases whose id holds this text")
    options = parser.parse_args()
    failed, passed = [], 0
    for case in cases_of(options.folder):
        if options.only not in case.id:
            continue
        try:
            share, name = run(case)
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            share, name = float("inf"), f"{type(error).__name__}: {error}"
        within = share <= 1
        passed += within
        failed += [] if within else [case.id]
        print(f"{'ok  ' if within else 'FAIL'} {share:9.4f} of tolerance  {case.id}  ({name})")
    wrong = interaction_errors(options.folder)
    print(*(f"FAIL interaction layers {row}" for row in wrong), sep="\n" if wrong else "")
    off = schedule_errors(options.folder)
    print(*(f"FAIL learning rate {row}" for row in off), sep="\n" if off else "")
    others = target_errors(options.folder)
    print(*(f"FAIL layers of LoRAs {row}" for row in others), sep="\n" if others else "")
    print(f"{passed} within tolerance, {len(failed)} not")
    return 1 if failed or wrong or off or others else 0


if __name__ == "__main__":
    sys.exit(main())
