"""A checkpoint in numbers: its shapes and the bytes of its weights, from configurations and headers alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mova.eightbit import KINDS, default_store, is_matrix, outdated
from mova.layout import WEIGHTED, CheckpointError, Tensor, inspect_checkpoint, read_json, read_model_index, read_weights

DTYPE_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I8": 1}
EXPERTS = ("video_dit", "video_dit_2")
# What a text says to a block never changes during a generation: these weights are needed once if it is remembered.
TEXT_PARTS = re.compile(r"\bcross_attn\.(k|v|norm_k)\.")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_CONDITIONER = re.compile(r"(?:audio_to_video|video_to_audio)_conditioners\.(\d+)\.")

Header = Mapping[str, Tensor]
Weigh = Callable[[Header], "Weights"]


@dataclass(frozen=True)
class Weights:
    """Some tensors together. ``matrices`` are those that can be quantised, two-dimensional, with ``rows`` outputs."""

    tensors: int = 0
    elements: int = 0
    bytes: int = 0
    matrices: int = 0  # elements
    matrix_bytes: int = 0
    rows: int = 0

    def __add__(self, other: Weights) -> Weights:
        return Weights(
            self.tensors + other.tensors,
            self.elements + other.elements,
            self.bytes + other.bytes,
            self.matrices + other.matrices,
            self.matrix_bytes + other.matrix_bytes,
            self.rows + other.rows,
        )


@dataclass(frozen=True)
class Tower:
    """A tower's configuration; ``blocks`` are each layer's weights but for ``texts``, ``rest`` is outside of layers."""

    dim: int
    ffn_dim: int
    num_heads: int
    in_dim: int
    out_dim: int
    text_dim: int
    freq_dim: int
    patch: tuple[int, ...]
    blocks: tuple[Weights, ...]
    texts: tuple[Weights, ...]
    rest: Weights

    @property
    def layers(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    @property
    def all(self) -> tuple[Weights, ...]:
        """All its weights, in parts."""
        return (*self.blocks, *self.texts, self.rest)


@dataclass(frozen=True)
class Bridge:
    """The bridge: at which ``layers``, and the weights of each (both directions)."""

    head_dim: int
    layers: tuple[int, ...]
    blocks: tuple[Weights, ...]
    rest: Weights
    rotary: bool = True
    pooled: bool = False

    def at(self, layer: int) -> Weights:
        """The weights at a layer; none where the towers don't talk."""
        return self.blocks[self.layers.index(layer)] if layer in self.layers else Weights()


@dataclass(frozen=True)
class TextEncoder:
    """UMT5's encoder; ``table`` is that of its embeddings, ``part`` what owns most weights of the rest."""

    dim: int
    ffn_dim: int
    num_heads: int
    head_dim: int
    layers: int
    weights: Weights
    table: Weights
    part: Weights


@dataclass(frozen=True)
class VideoVae:
    """AutoencoderKLWan's configuration: levels of ``base * multiples`` channels, each but the last halved, in time too
    where ``halves_time`` says so.
    """

    encoder_base: int
    decoder_base: int
    multiples: tuple[int, ...]
    blocks: int
    halves_time: tuple[bool, ...]
    z_dim: int
    channels: int
    scale: int
    weights: Weights


@dataclass(frozen=True)
class AudioVae:
    """DAC's decoder: ``dim`` channels at first, halved at each of ``rates``."""

    dim: int
    rates: tuple[int, ...]
    latent_dim: int
    hop: int
    sample_rate: int
    weights: Weights


@dataclass(frozen=True)
class Model:
    """Shapes and bytes of a checkpoint. ``experts`` are the two video towers, high noise first."""

    name: str
    experts: tuple[Tower, Tower]
    audio: Tower
    bridge: Bridge
    text: TextEncoder
    vae: VideoVae
    sound: AudioVae
    quantised: tuple[str, ...] = ()  # kinds of 8-bit weights that lie beside the checkpoint already

    @property
    def bytes(self) -> int:
        """Bytes of all weights as stored."""
        parts = [weights for tower in (*self.experts, self.audio) for weights in tower.all]
        rest = [*self.bridge.blocks, self.bridge.rest, self.text.weights, self.vae.weights, self.sound.weights]
        return sum(weights.bytes for weights in (*parts, *rest))


def read_model(checkpoint: Path | str) -> Model:
    """The checkpoint in folder ``checkpoint``, from its config.json files and safetensors headers.

    Raises:
        CheckpointError: a file is missing or damaged, or its configuration lacks what the arithmetic needs.
    """
    folder = Path(checkpoint)
    read_model_index(folder)
    configs = {name: read_json(folder / name / "config.json") for name in WEIGHTED}
    headers = {name: _merged(read_weights(folder / name).values()) for name in WEIGHTED}
    model = model_from(inspect_checkpoint(folder).name, configs, headers, folder)
    made = tuple(kind for kind in KINDS if (default_store(folder) / kind).is_dir() and not outdated(folder, kind))
    return replace(model, quantised=made)


def model_from(
    name: str,
    configs: Mapping[str, Mapping[str, Any]],
    headers: Mapping[str, Header],
    folder: Path = Path(),
) -> Model:
    """The model that configurations and headers (component -> tensor name -> tensor) describe."""

    def part(component: str, make: Callable[[Mapping[str, Any], Header, Weigh], Any]) -> Any:
        try:
            return make(configs[component], headers[component], partial(weigh, component))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / component / 'config.json'} doesn't describe its weights ({error!r}). "
                "Download both files again."
            ) from error

    return Model(
        name=name,
        experts=(part(EXPERTS[0], _tower), part(EXPERTS[1], _tower)),
        audio=part("audio_dit", _tower),
        bridge=part("dual_tower_bridge", _bridge),
        text=part("text_encoder", _text_encoder),
        vae=part("video_vae", _video_vae),
        sound=part("audio_vae", _audio_vae),
    )


def _tower(config: Mapping[str, Any], header: Header, weigh: Weigh) -> Tower:
    layers = int(config["num_layers"])
    blocks, rest = _by_layer(header, _BLOCK)
    if sorted(blocks) != list(range(layers)):
        raise ValueError(f"{layers} layers are told, {len(blocks)} are there")
    return Tower(
        **{name: int(config[name]) for name in ("dim", "ffn_dim", "num_heads", "in_dim", "out_dim", "text_dim")},
        freq_dim=int(config["freq_dim"]),
        patch=tuple(map(int, config["patch_size"])),
        blocks=tuple(weigh(_where(blocks[layer], of_text=False)) for layer in range(layers)),
        texts=tuple(weigh(_where(blocks[layer], of_text=True)) for layer in range(layers)),
        rest=weigh(rest),
    )


def _where(block: Header, *, of_text: bool) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in block.items() if bool(TEXT_PARTS.search(name)) == of_text}


def _bridge(config: Mapping[str, Any], header: Header, weigh: Weigh) -> Bridge:
    layers, rest = _by_layer(header, _CONDITIONER)
    order = sorted(layers)
    return Bridge(
        head_dim=int(config["head_dim"]),
        layers=tuple(order),
        blocks=tuple(weigh(layers[layer]) for layer in order),
        rest=weigh(rest),
        rotary=bool(config.get("apply_cross_rope", True)),
        pooled=bool(config.get("pooled_adaln", False)),
    )


def _text_encoder(config: Mapping[str, Any], header: Header, weigh: Weigh) -> TextEncoder:
    kept = {name: tensor for name, tensor in header.items() if name != "encoder.embed_tokens.weight"}
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in kept.items():
        owners.setdefault(name.rpartition(".")[0], {})[name] = tensor
    table = weigh(owners.pop("shared"))
    return TextEncoder(
        dim=int(config["d_model"]),
        ffn_dim=int(config["d_ff"]),
        num_heads=int(config["num_heads"]),
        head_dim=int(config["d_kv"]),
        layers=int(config["num_layers"]),
        weights=weigh(kept),
        table=table,
        part=max(map(weigh, owners.values()), key=lambda weights: weights.bytes),
    )


def _video_vae(config: Mapping[str, Any], header: Header, weigh: Weigh) -> VideoVae:
    base = int(config["base_dim"])
    return VideoVae(
        encoder_base=base,
        decoder_base=int(config.get("decoder_base_dim") or base),
        multiples=tuple(map(int, config["dim_mult"])),
        blocks=int(config["num_res_blocks"]),
        halves_time=tuple(map(bool, config["temperal_downsample"])),
        z_dim=int(config["z_dim"]),
        channels=int(config.get("in_channels", 3)),
        scale=int(config.get("scale_factor_spatial", 8)),
        weights=weigh(header),
    )


def _audio_vae(config: Mapping[str, Any], header: Header, weigh: Weigh) -> AudioVae:
    rates = tuple(map(int, config["decoder_rates"]))
    return AudioVae(
        dim=int(config["decoder_dim"]),
        rates=rates,
        latent_dim=int(config["latent_dim"]),
        hop=math.prod(map(int, config["encoder_rates"])),
        sample_rate=int(config["sample_rate"]),
        weights=weigh(header),
    )


def weigh(component: str, header: Header) -> Weights:
    """What tensors of ``component`` weigh. ValueError for a type of number that safetensors doesn't have."""
    total = Weights()
    for name, tensor in header.items():
        if tensor.dtype not in DTYPE_BYTES:
            raise ValueError(f"tensor '{name}' is of type {tensor.dtype}")
        elements = math.prod(tensor.shape)
        size = DTYPE_BYTES[tensor.dtype] * elements
        total += Weights(1, elements, size, *((elements, size, tensor.shape[0]) if is_matrix(component, name) else ()))
    return total


def _by_layer(header: Header, pattern: re.Pattern[str]) -> tuple[dict[int, dict[str, Tensor]], dict[str, Tensor]]:
    """(layer -> its tensors, the others)."""
    layers: dict[int, dict[str, Tensor]] = {}
    rest = {}
    for name, tensor in header.items():
        if match := pattern.match(name):
            layers.setdefault(int(match[1]), {})[name] = tensor
        else:
            rest[name] = tensor
    return layers, rest


def _merged(files: Iterable[Header]) -> dict[str, Tensor]:
    return {name: tensor for header in files for name, tensor in header.items()}
