"""The command line: `python -m mova generate` makes a clip, `train` a checkpoint, `inspect` and `plan` say what is."""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from mova.layout import CheckpointError, CheckpointInfo, inspect_checkpoint
from mova.lora_commands import add_choice, add_commands, check_choices, uncalled
from mova.lora_files import LoraError
from mova.media import MediaError, check_loudness, write_wav
from mova.picture import fit_picture, open_picture
from mova.plan import OFFLOADS, Card, DoesNotFit, Resources, plan_for, read_model, read_resources
from mova.plan_text import GIB, plan_lines, plan_table
from mova.presets import PRESETS
from mova.released import RELEASED_360P
from mova.spec import ClipSpec, problems
from mova.training.errors import TrainingError
from mova.training.options import add_options, recipe_of

DEFAULTS = ClipSpec()
EXIT_WRONG_INPUT = 2
EXIT_CANCELLED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for input that can't be used, 130 when interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (
        CheckpointError,
        DoesNotFit,
        LoraError,
        MediaError,
        TrainingError,
        ValidationError,
        ValueError,
        OSError,
    ) as error:
        sentences = problems(error) if isinstance(error, ValidationError) else [str(error)]
        print("\n".join(f"mova: {sentence}" for sentence in sentences), file=sys.stderr)
        return EXIT_WRONG_INPUT
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not have been imported
            raise
        print(f"mova: out of memory. Try a smaller clip, or --preset light. ({error})", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        print("mova: stopped; nothing was written.", file=sys.stderr)
        return EXIT_CANCELLED
    return status


def generate(options: argparse.Namespace) -> int:
    """Make one clip and say what it is."""
    checkpoint = _checkpoint(options.checkpoint)
    spec = _spec(options, inspect_checkpoint(checkpoint).default_spec)
    if options.loudness is not None:
        check_loudness(options.loudness)
    for option, suffix in (("output", ".mp4"), ("save_audio", ".wav"), ("save_tensors", ".safetensors")):
        _check_target(option, getattr(options, option), suffix)

    check_choices(options.lora, checkpoint)
    first, last = (
        fit_picture(open_picture(path), spec.height, spec.width, how=options.fit) if path else None
        for path in (options.first_frame, options.last_frame)
    )
    from mova.pipeline import MovaPipeline  # torch takes seconds to import: not before the input is known to be good

    frames: list[Any] = []
    with closing(_Progress()) as progress:
        pipeline = MovaPipeline.from_pretrained(
            checkpoint,
            device=options.device,
            dtype=options.dtype,
            offload=options.offload,
            preset=options.preset,
            free_first_expert=options.free_first_expert,
            on_step=progress,
        )
        pipeline.use_loras(options.lora)
        clip = pipeline(options.prompt, first, spec=spec, last_image=last, on_step=progress)
        report = clip.save(options.output, options.loudness, on_frames=frames.append if options.save_tensors else None)
    if options.save_audio:
        write_wav(options.save_audio, clip.audio, clip.sample_rate)
    if options.save_tensors:
        _save_tensors(clip, frames, options.save_tensors)
    for note in (*clip.notes, *uncalled(options.lora, options.prompt)):
        print(note)
    print(
        f"{options.output}: {report.width}x{report.height}, {report.num_frames} frames, {report.duration:.2f} s, "
        f"seed {spec.seed}, {_decibels(report.delivered.integrated, 'LUFS')}, "
        f"peak {_decibels(report.delivered.true_peak, 'dBTP')}"
    )
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Print what a checkpoint folder holds and what it lacks; status 2 if it can't be loaded."""
    info = inspect_checkpoint(options.folder)
    if not info.components:
        raise CheckpointError(*info.problems)
    print(f"{info.name} ({info.path})")
    print(f"{'component':<20}{'parameters':>16}{'size':>12}  {'dtype':<10}{'files':>5}")
    for component in info.components:
        if component.problem:
            print(f"{component.name:<20}{'not usable, see below':>28}")
            continue
        parameters = f"{component.parameters:,}" if component.parameters else "-"
        dtypes = ", ".join(component.dtypes) or "-"
        print(f"{component.name:<20}{parameters:>16}{_size(component.bytes):>12}  {dtypes:<10}{component.files:>5}")
    parameters, size = (sum(getattr(part, name) for part in info.components) for name in ("parameters", "bytes"))
    print(f"{'together':<20}{parameters:>16,}{_size(size):>12}")
    _say_what_it_is(info)
    return EXIT_WRONG_INPUT if info.problems else 0


def plan(options: argparse.Namespace) -> int:
    """Print how a clip would be made here, or on the machine that the options describe."""
    if options.table:
        print(plan_table())
        return 0
    folder = options.folder
    model = RELEASED_360P if folder is None else read_model(folder)
    spec = _spec(options, ClipSpec() if folder is None else inspect_checkpoint(folder).default_spec)
    resources = _described(options, read_resources(folder or Path(), options.device))
    how = {name: getattr(options, name) for name in ("offload", "preset", "device", "dtype")}
    print("\n".join(plan_lines(plan_for(model, spec, resources, **how))))
    return 0


def bench(options: argparse.Namespace) -> int:
    """Print what the engine costs."""
    from mova.bench.run import report, results  # torch, and minutes of counting

    for line in report(results(options), options):
        print(line, flush=True)
    return 0


def train(options: argparse.Namespace) -> int:
    """Train a checkpoint on a folder of clips, or go on where that stopped."""
    recipe = recipe_of(options)
    run: Path = options.output or options.folder / "training"
    from mova.training import command

    with closing(_Progress()) as bar, closing(_Losses()) as losses:
        try:
            made = command.train(
                options.folder,
                options.checkpoint,
                run,
                recipe,
                device=options.device,
                allow_silent=options.allow_silent,
                trigger_words=tuple(options.trigger_words),
                on_clip=bar,
                on_progress=losses,
            )
        except KeyboardInterrupt:
            print(f"mova: stopped. The same command goes on from the last state in {run}.", file=sys.stderr)
            return EXIT_CANCELLED
    print(f"{made}: trained for {recipe.steps} steps; losses in {run / command.LOSSES}")
    return 0


def _say_what_it_is(info: CheckpointInfo) -> None:
    if info.problems:
        print(*(f"missing or damaged: {problem}" for problem in info.problems), sep="\n")
        return
    sizes = ", ".join(f"{width}x{height}" for width, height in info.sizes)
    print(f"made for {sizes}")
    if info.playground:
        print("This is the playground: its weights are random, so its clips are noise.")
    print("complete (every file is there and whole; names and shapes are checked when it is loaded)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mova", description="MOVA: picture and sound from one model.")
    commands = parser.add_subparsers(required=True, metavar="command")
    make = commands.add_parser("generate", help="make a clip")
    make.set_defaults(run=generate)
    _add_content(make.add_argument_group("what"))
    _add_numbers(make.add_argument_group("how"))
    _add_machine(make.add_argument_group("where"))
    describe = commands.add_parser("inspect", help="describe a checkpoint from its files' headers")
    describe.set_defaults(run=inspect)
    describe.add_argument("folder", type=Path, help="the checkpoint's folder")
    _add_plan(commands.add_parser("plan", help="how a clip would be made: what fits, what it takes, how long"))
    add_commands(commands, _Progress)
    add_bench(commands.add_parser("bench", help="what the engine costs: counted, and measured on a CUDA device"))
    learn = commands.add_parser("train", help="train a checkpoint on a folder of captioned clips with sound")
    learn.set_defaults(run=train)
    add_options(learn)
    return parser


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=plan, negative_prompt=None)
    parser.add_argument("folder", type=Path, nargs="?", help="the checkpoint's folder (default: the released shapes)")
    parser.add_argument("--table", action="store_true", help="cards from 8 to 141 GB, machines from 16 to 128 GB")
    machine = parser.add_argument_group("where (default: this machine)")
    machine.add_argument("--vram", type=float, help="GiB of free VRAM; 0 is no card")
    machine.add_argument("--ram", type=float, help="GiB of free RAM")
    machine.add_argument("--card", help="its name, such as 'RTX 4090'")
    machine.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:<number>")
    machine.add_argument("--dtype", default="auto", help="auto (as stored; default), float32 or bfloat16")
    machine.add_argument("--offload", choices=OFFLOADS, default="auto", help="where weights wait (default: auto)")
    machine.add_argument("--preset", choices=tuple(PRESETS), default="exact", help="(default: exact)")
    _add_numbers(parser.add_argument_group("how"))


def _described(options: argparse.Namespace, here: Resources) -> Resources:
    """This machine, but for what the options say of another."""
    for name in ("vram", "ram"):
        if (getattr(options, name) or 0) < 0:
            raise ValueError(
                f"--{name} {getattr(options, name):g} is negative; give the GiB that are free, 0 for none."
            )
    ram = here.ram_free if options.ram is None else int(options.ram * GIB)
    card = here.card
    if options.vram is not None or options.card is not None:
        known = Card("a card", 0, 0) if card is None else card
        free = known.free if options.vram is None else int(options.vram * GIB)
        card = Card(options.card or known.name, free, max(free, known.total), known.capability) if free else None
    return replace(here, card=card, ram_free=ram, ram_total=max(ram, here.ram_total))


def add_bench(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench``."""
    parser.set_defaults(run=bench)
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="also write the figures for programs")
    parser.add_argument("--device", default="cuda", help="what is measured, if there is one (default: cuda)")
    parser.add_argument("--part", choices=("all", "counted", "measured"), default="all", help="(default: all)")
    parser.add_argument("--minutes", type=float, default=8.0, help="measure for about so long (default: 8)")


def _add_content(group: Any) -> None:
    group.add_argument("--prompt", required=True, help="what is seen and heard; may be empty")
    group.add_argument("--first-frame", type=Path, help="a picture; without one the clip starts from white")
    group.add_argument("--last-frame", type=Path, help="a picture the clip ends with")
    group.add_argument(
        "--fit", choices=("crop", "stretch"), default="crop", help="how a picture gets the clip's size (default: crop)"
    )
    group.add_argument(
        "--negative-prompt", default=DEFAULTS.negative_prompt, help="what to steer away from (default: the model's own)"
    )
    add_choice(group)
    group.add_argument("--output", type=Path, default=Path("clip.mp4"), help="the mp4 to write (default: clip.mp4)")
    group.add_argument("--loudness", type=float, help="level the sound to this many LUFS, e.g. -14")
    group.add_argument("--save-audio", type=Path, metavar="FILE.wav", help="also write the sound as the model made it")
    group.add_argument("--save-tensors", type=Path, metavar="FILE.safetensors", help="also write latents and pixels")


def _add_numbers(group: Any) -> None:
    group.add_argument("--height", type=float, help="pixels, a multiple of 16 (default: the checkpoint's)")
    group.add_argument("--width", type=float, help="pixels, a multiple of 16 (default: the checkpoint's)")
    group.add_argument("--num-frames", type=float, help="4n + 1 (default: the checkpoint's)")
    group.add_argument("--fps", type=float, help="frames per second (default: the checkpoint's)")
    group.add_argument("--num-inference-steps", type=float, help="denoising steps (default: the checkpoint's)")
    group.add_argument("--guidance-scale", type=float, default=DEFAULTS.guidance_scale, help="1 is off (default: 5)")
    group.add_argument(
        "--bridge-guidance-scale", type=float, default=DEFAULTS.bridge_guidance_scale, help="1 is off (default: 1)"
    )
    group.add_argument("--video-shift", type=float, help="of the video's schedule (default: the checkpoint's)")
    group.add_argument("--audio-shift", type=float, help="of the audio's schedule (default: the checkpoint's)")
    group.add_argument("--seed", type=int, help="a whole number; the same one gives the same clip (default: random)")


def _add_machine(group: Any) -> None:
    group.add_argument("--checkpoint", type=Path, help="a MOVA checkpoint's folder (default: the playground)")
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:<number>")
    group.add_argument("--dtype", default="auto", help="auto (as stored; default), float32 or bfloat16")
    group.add_argument(
        "--offload", choices=OFFLOADS, default="auto", help="where weights wait (default: auto, what fits)"
    )
    group.add_argument(
        "--preset", choices=tuple(PRESETS), default="exact", help="what is given up for speed and memory"
    )
    group.add_argument("--free-first-expert", action="store_true", help="drop the first video expert once it is done")


def _spec(options: argparse.Namespace, defaults: ClipSpec) -> ClipSpec:
    """The spec that the options ask for, the checkpoint's own where they are silent; ValidationError if impossible."""
    chosen = {name: getattr(options, name) for name in ClipSpec.model_fields}
    whole = {name: int(value) for name, value in chosen.items() if isinstance(value, float) and value.is_integer()}
    given = {name: whole.get(name, value) for name, value in chosen.items() if value is not None}
    return ClipSpec(**{**defaults.model_dump(), "seed": secrets.randbelow(2**31), **given})


def _checkpoint(folder: Path | None) -> Path:
    if folder is not None:
        return folder
    from mova.playground import make_playground

    print("No --checkpoint was given: using the playground, whose weights are random. The clip will be noise.")
    return make_playground(Path.home() / ".cache" / "mova-studio" / "MOVA-playground")


def _check_target(option: str, path: Path | None, suffix: str) -> None:
    """Told now, not after hours of rendering."""
    name = f"--{option.replace('_', '-')} {path}"
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise ValueError(f"{name} doesn't end in {suffix}; that is the kind of file it will be.")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{name} is not the name of a file in a folder that exists. Make the folder first.")


def _save_tensors(clip: Any, frames: list[Any], path: Path) -> None:
    """float32: the latents as they leave the last step, video [T, H, W, 3] in 0 to 1, audio [samples]."""
    import torch
    from safetensors.torch import save_file

    tensors = {
        "video_latents": clip.video_latents,
        "audio_latents": clip.audio_latents,
        "video": torch.cat(frames),
        "audio": torch.from_numpy(clip.audio),
    }
    save_file({name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _decibels(value: float | None, unit: str) -> str:
    return "not measurable" if value is None else f"{value:.1f} {unit}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


class _Progress:
    """A bar on stderr, one a phase, with the time left."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._phase = ""

    def __call__(self, phase: str, step: int, total: int) -> None:
        if self._bar is None or phase != self._phase:
            self.close()
            self._phase, self._bar = phase, tqdm(total=total, desc=phase, unit="step")
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """End the bar of the current phase."""
        if self._bar is not None:
            self._bar.close()


class _Losses:
    """A bar on stderr with the losses of picture and sound."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __call__(self, progress: Any) -> None:
        if self._bar is None:
            self._bar = tqdm(total=progress.steps, initial=progress.step - 1, desc="training", unit="step")
        self._bar.set_postfix(picture=f"{progress.video_loss:.4f}", sound=f"{progress.audio_loss:.4f}")
        self._bar.update(progress.step - self._bar.n)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


if __name__ == "__main__":
    sys.exit(main())
