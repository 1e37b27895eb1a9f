"""A LoRA of other software, checked against a checkpoint and written in our own format."""

from __future__ import annotations

from pathlib import Path

from mova.lora import combined
from mova.lora_choice import Strengths
from mova.lora_files import base_of
from mova.lora_merge import shapes_of
from mova.lora_tensors import load_lora, save_lora


def convert_lora(
    source: Path,
    target: Path,
    checkpoint: Path,
    *,
    alpha: float | None = None,
    trigger_words: tuple[str, ...] = (),
) -> None:
    """Write the LoRA in ``source`` to ``target``, a LoRA for ``checkpoint``.

    Args:
        source: as ``lora_tensors.load_lora`` takes it.
        target: a safetensors file.
        checkpoint: what it is for; every layer must be there in its shape.
        alpha: what it was trained with, instead of what ``source`` says.
        trigger_words: words that call it forth; those that ``source`` names if there are none.

    Raises:
        LoraError: ``source`` can't be used with this checkpoint, or ``target`` can't be written.
    """
    lora, base = load_lora(source, alpha=alpha), base_of(checkpoint)
    combined([(lora, Strengths())], lambda name: shapes_of(checkpoint, name))
    words = trigger_words or (lora.header.trigger_words if lora.header else ())
    save_lora(target, lora.pairs, base, words)
