"""What can be said on the command line, and what of it belongs into a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.form import MODES, OFFLOADS, ORIENTATIONS, PRESETS, QUALITIES
from app.jobs import Status, Step

EXIT_CODES = "Exit status: 0 done, 1 failed, 2 wrong use, 3 cancelled, 4 waits for its creator, 130 Ctrl+C."
ALL_STEPS = "all"

TEXTS = {
    "prompt": "what is seen and heard: the clip's own words (Simple mode)",
    "idea": "what agents make a first frame and a prompt from (Full Workflow)",
    "first-frame": "the picture that it starts with",
    "last-frame": "the picture that it ends with",
    "checkpoint": "a checkpoint's name or folder (default: as the Create form starts)",
    "engine": "local (default), sglang for any server that is set up, or sglang:NAME",
    "size": "WIDTHxHEIGHT (default: the checkpoint's)",
    "negative-prompt": "what to steer away from (default: the model's own)",
    "effects": "sound effects",
    "ambience": "ambience",
    "music": "music",
}
NUMBERS = {
    "seconds": "length (default: the checkpoint's)",
    "num-frames": "length in frames, 4n + 1",
    "fps": "frames per second (default: the checkpoint's)",
    "steps": "denoising steps",
    "guidance-scale": "1 is off (default: 5)",
    "bridge-guidance-scale": "1 is off (default: 1)",
    "video-shift": "of the video's schedule (default: the checkpoint's)",
    "audio-shift": "of the audio's schedule (default: the checkpoint's)",
    "seed": "the same one gives the same clip (default: drawn)",
    "takes": "clips of it, each with a seed of its own",
    "loudness": "level the sound to this many LUFS, e.g. -14",
    "first-frame-position": "where the crop lies, in percent",
    "last-frame-position": "where the crop lies, in percent",
    "candidates": "first frames to choose from",
}
CHOICES = {  # flag -> its values, and what it is for
    "workflow": (MODES, "agents write the prompt, or it is taken as it is"),
    "orientation": (ORIENTATIONS, "in place of a size"),
    "quality": (QUALITIES, "the number of steps"),
    "offload": (OFFLOADS, "where weights wait (default: the studio's setting, auto unless set)"),
    "preset": (PRESETS, "what is given up for speed and memory (default: the studio's setting, exact unless set)"),
}
SOUND = ("effects", "ambience", "music")


def parser() -> argparse.ArgumentParser:
    """The command line; ``command`` is what it found."""
    root = argparse.ArgumentParser(
        prog="mova-studio", description="MOVA Studio: picture and sound from one model.", epilog=EXIT_CODES
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("run", help="serve the studio's pages (run --help has its options)", add_help=False)
    submit = _command(commands, "submit", "queue clips, from recipe files or flags")
    _add_recipe(submit)
    submit.add_argument("--wait", action="store_true", help="stay until they have ended")
    _add_worker(submit)
    waiting = _command(commands, "wait", "stay until jobs have ended; a worker is started where none serves")
    waiting.add_argument("ids", nargs="+", metavar="ID")
    _add_worker(waiting)
    listing = _command(commands, "list", "the jobs, newest first")
    listing.add_argument("--state", action="append", default=[], choices=[*map(str, Status)], help="may be repeated")
    listing.add_argument("--search", help="words of the prompt")
    listing.add_argument("--limit", type=int, default=20, help="how many (default: 20; 0 is all)")
    cancel = _command(commands, "cancel", "cancel jobs that wait or run")
    cancel.add_argument("ids", nargs="+", metavar="ID")
    fetch = _command(commands, "fetch", "copy a finished clip")
    fetch.add_argument("id", metavar="ID")
    fetch.add_argument("-o", "--output", type=Path, help="file or folder (default: mova-ID.mp4 here)")
    fetch.add_argument("--force", action="store_true", help="overwrite what is there")
    doctor = _command(commands, "doctor", "look at machine, checkpoints, store, servers and providers")
    doctor.add_argument("--test", action="store_true", help="also make the smallest real call to each provider")
    return root


def asked(given: argparse.Namespace) -> dict[str, Any]:
    """The flags of ``submit`` as a recipe has them; those that weren't given are left out."""
    keys = [name.replace("-", "_") for name in (*TEXTS, *NUMBERS, *CHOICES)]
    content = {key: value for key in keys if key not in SOUND and (value := getattr(given, key)) is not None}
    sound: dict[str, Any] = {key: value for key in SOUND if (value := getattr(given, key)) is not None}
    if given.line:
        sound["dialogue"] = [_line(text) for text in given.line]
    if given.no_music:
        sound["no_music"] = True
    if given.model:
        content["models"] = dict(_pair(text) for text in given.model)
    if given.review is not None:
        content["review"] = True if ALL_STEPS in given.review else given.review
    if given.white:
        content["painted"] = False
    return content | ({"sound": sound} if sound else {})


def _command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=EXIT_CODES, allow_abbrev=False
    )
    made.add_argument("--data", type=Path, help="the data folder (default: STUDIO_DATA, or data)")
    made.add_argument("--json", action="store_true", help="one JSON object a line")
    return made


def _add_worker(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no-worker", action="store_true", help="wait for a worker of others' only; start none")


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipes", nargs="*", type=Path, metavar="RECIPE", help="TOML or JSON files; flags overrule them"
    )
    for name, about in TEXTS.items():
        command.add_argument(f"--{name}", help=about)
    for name, about in NUMBERS.items():
        command.add_argument(f"--{name}", type=_number, metavar="N", help=about)
    for name, (choices, about) in CHOICES.items():
        command.add_argument(f"--{name}", choices=choices, help=about)
    command.add_argument("--no-music", action="store_true", help="there is to be none")
    command.add_argument(
        "--line", action="append", metavar="SPEAKER|LANGUAGE|WORDS", help="a line of dialogue; or WORDS alone"
    )
    command.add_argument("--model", action="append", metavar="STEP=MODEL", help=f"of {', '.join(Step)}: endpoint:model")
    command.add_argument(
        "--review", nargs="?", action="append", const=ALL_STEPS, metavar="STEP", help="look on after this step"
    )
    command.add_argument("--white", action="store_true", help="Full Workflow without a painted first frame")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _line(text: str) -> dict[str, str]:
    *about, words = text.split("|", 2)
    return dict(zip(("speaker", "language"), about, strict=False)) | {"words": words}


def _pair(text: str) -> tuple[str, str]:
    step, _, choice = text.partition("=")
    return step.strip(), choice.strip()
