"""The command line's part about LoRAs: `generate --lora`, `merge`, and `lora`, which describes and converts a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from mova.lora_choice import LoraChoice, parse_choice
from mova.lora_files import LoraError, LoraInfo, base_of, read_lora

CHOICE = "FILE[:strength]; FILE:high/low[/shared] sets the experts apart from what they share, sound and bridge"


class Progress(Protocol):
    """A progress bar."""

    def __call__(self, phase: str, step: int, total: int) -> None:
        """``step`` of ``total`` is done."""

    def close(self) -> None:
        """End it."""


def add_choice(group: Any) -> None:
    """The option of ``generate``."""
    group.add_argument(
        "--lora",
        type=parse_choice,
        action="append",
        default=[],
        metavar="FILE[:strength]",
        help=f"{CHOICE}; repeatable",
    )


def add_commands(commands: Any, progress: type[Progress]) -> None:
    """``merge`` and ``lora``."""
    parser = commands.add_parser("merge", help="a checkpoint with LoRAs in its weights")
    parser.set_defaults(run=lambda options: _merge(options, progress()))
    parser.add_argument("checkpoint", type=Path, help="the checkpoint's folder")
    parser.add_argument("loras", type=parse_choice, nargs="+", metavar="LORA", help=CHOICE)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where it goes; not there yet"
    )
    parser = commands.add_parser("lora", help="describe a LoRA file, or convert one to our format")
    parser.set_defaults(run=_lora)
    parser.add_argument("file", type=Path, help="safetensors, or the original software's .pt or its folder")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.safetensors", help="write it in our format")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="what it is for: it is checked against it")
    parser.add_argument(
        "--alpha", type=float, help="that it was trained with, where the file doesn't say it, or wrongly"
    )
    parser.add_argument("--trigger-word", action="append", default=[], help="a word that calls it forth; repeatable")


def check_choices(choices: Sequence[LoraChoice], checkpoint: Path) -> None:
    """What headers tell of whether these can be used, before anything is loaded. LoraError if not."""
    for choice in choices:
        if choice.file.suffix == ".safetensors":
            _refuse_misfit(read_lora(choice.file), checkpoint)


def uncalled(choices: Sequence[LoraChoice], prompt: str) -> list[str]:
    """A sentence for every LoRA none of whose trigger words is in ``prompt``."""
    infos = [read_lora(choice.file) for choice in choices if choice.file.suffix == ".safetensors"]
    return [
        f"{info.file.name} listens to {_quoted(info.trigger_words)}; the prompt has none of them."
        for info in infos
        if info.trigger_words and not any(word.lower() in prompt.lower() for word in info.trigger_words)
    ]


def _merge(options: argparse.Namespace, progress: Progress) -> int:
    check_choices(options.loras, options.checkpoint)
    from mova.lora_merge import merge_checkpoint

    with closing(progress):
        changed = merge_checkpoint(options.checkpoint, options.loras, options.output, progress)
    print(f"{options.output}: {', '.join(changed)} changed, the rest copied")
    return 0


def _lora(options: argparse.Namespace) -> int:
    if options.output:
        _convert(options)
    info = read_lora(options.output or options.file)
    if options.checkpoint:
        _refuse_misfit(info, options.checkpoint)
    print("\n".join(_described(info)))
    return 0


def _convert(options: argparse.Namespace) -> None:
    if options.output.suffix != ".safetensors":
        raise LoraError(f"{options.output} doesn't end in .safetensors; that is the kind of file it will be.")
    if options.checkpoint is None:
        raise LoraError("Say what the LoRA is for (--checkpoint FOLDER): the new file's header tells it.")
    from mova.lora_convert import convert_lora

    words = tuple(options.trigger_word)
    convert_lora(options.file, options.output, options.checkpoint, alpha=options.alpha, trigger_words=words)


def _described(info: LoraInfo) -> list[str]:
    header = info.header
    ranks = ", ".join(map(str, info.ranks))
    lines = [f"{info.file}: {info.bytes / 1e6:.2f} MB", f"changes {info.layers} layers of {', '.join(info.components)}"]
    if header is None:
        return [*lines, f"rank {ranks}", "made by other software: it doesn't say for which model"]
    lines += [f"rank {ranks}, alpha {header.alpha:g}", f"made for {header.base.name} ({header.base.architecture})"]
    return [*lines, f"listens to {_quoted(header.trigger_words)}"] if header.trigger_words else lines


def _refuse_misfit(info: LoraInfo, checkpoint: Path) -> None:
    if info.header and (misfit := info.header.misfit(info.file, base_of(checkpoint))):
        raise LoraError(misfit)


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
