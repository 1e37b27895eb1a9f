"""8-bit weights as files: which matrices they are, where they lie, what they weigh, whether they are still current.

Reads JSON and safetensors headers only; never a weight, never torch. ``mova.quantise`` makes the files.

A component has one file, ``<store>/<kind>/<component>.safetensors``, with two tensors a matrix: ``<layer>.weight``
[out, in] in 8 bits, and ``<layer>.weight_scale`` [out] in float32. Everything else is read from the checkpoint itself.
The text encoder isn't among them: rounding it changes what every prompt means, and it leaves memory before denoising.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mova.layout import CheckpointError, Tensor, read_header, read_offsets, read_weights

VERSION = 1
KINDS = {"int8": "I8", "fp8": "F8_E4M3"}  # as safetensors headers write them
SCALE = "_scale"
SCALE_BYTES = 4  # float32
FOLDER = "quantised"

# Component -> its matrices. Not the audio tower, and not what it hears (video to audio): the ear forgives less, and
# both together are a tenth of the weights. Nor embeddings, heads, modulation and norms: small, and everywhere.
_BLOCKS = r"blocks\.\d+\.((self_attn|cross_attn)\.[qkvo]|ffn\.[02])\.weight"
MATRICES = {
    "video_dit": re.compile(_BLOCKS),
    "video_dit_2": re.compile(_BLOCKS),
    "dual_tower_bridge": re.compile(r"audio_to_video_conditioners\.\d+\.inner\.[qkvo]\.weight"),
}
COMPONENTS = tuple(MATRICES)


class QuantiseError(Exception):
    """8-bit weights can't be made or used; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """Where a stored tensor lies: ``file``, from byte ``start`` on."""

    file: Path
    start: int
    tensor: Tensor


def is_matrix(component: str, key: str) -> bool:
    """Whether tensor ``key`` of ``component`` is kept in 8 bits."""
    return component in MATRICES and MATRICES[component].fullmatch(key) is not None


def reduced_bytes(component: str, tensors: Mapping[str, Tensor]) -> int:
    """Bytes that the matrices among ``tensors`` take in 8 bits, scales included: the file's size but for its header."""
    shapes = [tensor.shape for key, tensor in tensors.items() if is_matrix(component, key)]
    return sum(math.prod(shape) + SCALE_BYTES * shape[0] for shape in shapes)


def default_store(checkpoint: Path) -> Path:
    """The folder beside a checkpoint's components that holds its 8-bit weights."""
    return checkpoint / FOLDER


def weights_file(store: Path, kind: str, component: str) -> Path:
    """The file of one component. ValueError for a kind that there isn't."""
    if kind not in KINDS:
        raise ValueError(f"'{kind}' is no kind of 8-bit weights; choose {', '.join(KINDS)}.")
    return store / kind / f"{component}.safetensors"


def outdated(
    checkpoint: Path, kind: str, components: Iterable[str] = COMPONENTS, *, store: Path | None = None
) -> tuple[str, ...]:
    """Those of ``components`` whose 8-bit weights have yet to be made, or made again since the checkpoint changed.

    Raises:
        CheckpointError: the checkpoint's own files can't be read.
    """
    return tuple(name for name in components if not is_current(checkpoint, kind, name, store=store))


def is_current(checkpoint: Path, kind: str, component: str, *, store: Path | None = None) -> bool:
    """Whether the 8-bit weights of ``component`` are whole and made from the files that the checkpoint has now."""
    file = weights_file(store or default_store(checkpoint), kind, component)
    try:
        read_header(file)
    except CheckpointError:
        return False
    return read_metadata(file) == metadata(checkpoint, kind, component)


def room_needed(
    checkpoint: Path, kind: str, components: Iterable[str] = COMPONENTS, *, store: Path | None = None
) -> int:
    """Bytes that making what is ``outdated`` takes on the store's disk. Files that are replaced stay until the end."""
    names = outdated(checkpoint, kind, components, store=store)
    return sum(reduced_bytes(name, dict(_all(checkpoint / name))) for name in names)


def metadata(checkpoint: Path, kind: str, component: str) -> dict[str, str]:
    """What a file of 8-bit weights says of itself: kind, version, and its source by names, sizes and times."""
    files = sorted(read_weights(checkpoint / component))
    source = {file.name: [(stat := file.stat()).st_size, stat.st_mtime_ns] for file in files}
    return {"format": "pt", "kind": kind, "version": str(VERSION), "source": json.dumps(source, sort_keys=True)}


def read_metadata(file: Path) -> dict[str, str]:
    """The ``__metadata__`` of a safetensors file that has a readable header."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        found = json.loads(stream.read(length)).get("__metadata__", {})
    return {str(key): str(value) for key, value in found.items()}


def matrices(checkpoint: Path, component: str) -> dict[str, Source]:
    """Tensor name -> where it lies, for each matrix of ``component``, in the order of the files."""
    found: dict[str, Source] = {}
    for file in read_weights(checkpoint / component):
        places = [
            (key, Source(file, start, tensor))
            for key, (tensor, start) in read_offsets(file).items()
            if is_matrix(component, key)
        ]
        found |= sorted(places, key=lambda place: place[1].start)
    return found


def _all(folder: Path) -> Iterable[tuple[str, Tensor]]:
    for tensors in read_weights(folder).values():
        yield from tensors.items()
