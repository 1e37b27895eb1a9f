"""What can be said of a training on the command line; without torch, like the recipe itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from mova.training.recipe import Recipe


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``train``: folders, machine, and the recipe's numbers."""
    parser.add_argument("folder", type=Path, help="clips, each with its caption in a text file of the same name")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the MOVA checkpoint to start from")
    parser.add_argument("--output", type=Path, help="the run's folder (default: FOLDER/training); a run there goes on")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:<number>")
    parser.add_argument("--allow-silent", action="store_true", help="take clips whose sound is silence")
    parser.add_argument("--rank", type=int, help="train a LoRA of this rank (default: the whole model)")
    parser.add_argument("--alpha", type=float, help="of the LoRA (default: its rank)")
    parser.add_argument("--dropout", type=float, help="of the LoRA's input while it learns (default: 0)")
    parser.add_argument("--trigger-words", nargs="*", default=(), help="words that call the LoRA; kept in its file")
    numbers = parser.add_argument_group("how (default: see mova/training/recipe.py)")
    for name in ("steps", "batch-size", "accumulate", "warmup-steps", "save-every", "workers", "seed"):
        numbers.add_argument(f"--{name}", type=int)
    for name in ("learning-rate", "text-dropout", "audio-weight", "independent", "ema", "video-shift", "audio-shift"):
        numbers.add_argument(f"--{name}", type=float)
    numbers.add_argument("--schedule", choices=("constant", "linear", "cosine"))
    numbers.add_argument("--autocast", action="store_true", default=None, help="compute in bfloat16")
    numbers.add_argument("--checkpoint-activations", action="store_true", default=None, help="less memory, more time")


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that the options ask for; ValidationError if there is none such."""
    chosen = {name: getattr(options, name, None) for name in Recipe.model_fields}
    return Recipe(**{name: value for name, value in chosen.items() if value is not None})
