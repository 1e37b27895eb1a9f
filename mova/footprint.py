"""What a generation holds, phase by phase, on the device and in RAM: the sum of named terms.

Of the engine's own making (``mova.evaluation``, ``mova.tower``, ``mova.streaming``): the states of all branches live
through a layer, keys and values of one branch besides, everything else is as long as a chunk of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mova.costs import Shape, shape_of
from mova.eightbit import SCALE_BYTES
from mova.model import Model, Weights
from mova.presets import Preset, cache_bytes
from mova.spec import FRAME_GROUP, ClipSpec
from mova.vae_costs import decode_bytes, encode_bytes, sound_bytes, waiting_bytes

MB, GB = 10**6, 10**9
FLOAT32 = 4
SIZES = {"float32": 4, "bfloat16": 2}
ALIGNMENT = 256  # of each tensor in a pack
PAGE = 4096  # of a pinned buffer
BLOCK = 2**24  # elements that element-wise work turns into float32 at a time, where it isn't compiled
DEQUANTISED = 2**23  # elements of an 8-bit matrix that are turned back at a time
ROUNDED = 4096  # tokens that are rounded to 8 bits at a time
SHOWN = 3 * FRAME_GROUP * 3  # numbers a pixel of the frames that are on their way into the file
LATENT_CHANNELS = 72  # float32: noise 16, condition 20, and both side by side
# Python, torch and its libraries: what such a process keeps for itself, and more where it opened a CUDA device.
PROCESS = {"cpu": 800 * MB, "cuda": 2 * GB}

Terms = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Case:
    """One clip of one model, as it is asked for: with what weights, in what dtype, on what device."""

    model: Model
    spec: ClipSpec
    preset: Preset
    dtype: str
    device: str

    @cached_property
    def shape(self) -> Shape:
        """Of the guided steps, which hold most."""
        return shape_of(self.model, self.spec)

    @cached_property
    def itemsize(self) -> int:
        """Bytes of a number that the towers compute with."""
        rest = self.model.experts[0].rest
        return SIZES.get(self.dtype) or round(rest.bytes / rest.elements)

    @cached_property
    def packs(self) -> dict[bool, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Whether the text is kept -> bytes of each layer's pack, and of its "text" pack."""
        expert, audio, bridge = self.model.experts[0], self.model.audio, self.model.bridge
        paired = 0 if self.audio_stays else audio.layers
        towers = [[expert, audio] if layer < paired else [expert] for layer in range(expert.layers)]
        layers = [sum((t.blocks[i] for t in both), bridge.at(i)) for i, both in enumerate(towers)]
        texts = [sum((t.texts[i] for t in both), Weights()) for i, both in enumerate(towers)]
        together = [layer + text for layer, text in zip(layers, texts, strict=True)]
        apart = tuple(map(self.packed, layers)), tuple(map(self.packed, texts))
        return {True: apart, False: (tuple(map(self.packed, together)), ())}

    @cached_property
    def converted_bytes(self) -> int:
        """Bytes of RAM that all weights take of their own because they aren't used as they are stored."""
        model = self.model
        towers = [weights for tower in (*model.experts, model.audio) for weights in tower.all]
        others = (*model.bridge.blocks, model.bridge.rest, model.text.weights, model.vae.weights)
        return sum(map(self.converted, (*towers, *others)))

    @property
    def audio_stays(self) -> bool:
        """With a step cache the audio blocks compute in every step, so they stay on the device."""
        return self.preset.cache is not None

    def held(self, weights: Weights) -> int:
        """Bytes of ``weights`` as they are computed with."""
        kept, matrices = weights.bytes - weights.matrix_bytes, weights.matrix_bytes
        if size := SIZES.get(self.dtype):
            kept, matrices = size * (weights.elements - weights.matrices), size * weights.matrices
        return kept + (matrices if self.preset.weights == "stored" else weights.matrices + SCALE_BYTES * weights.rows)

    def packed(self, weights: Weights) -> int:
        """Bytes of a pack of ``weights``."""
        return self.held(weights) + (ALIGNMENT - 1) * weights.tensors

    def converted(self, weights: Weights) -> int:
        """Bytes of RAM that ``weights`` take of their own because they aren't used as they are stored."""
        size = SIZES.get(self.dtype)
        kept = weights.elements if self.preset.weights == "stored" else weights.elements - weights.matrices
        return 0 if not size or weights.bytes == size * weights.elements else size * kept


@dataclass(frozen=True)
class Choice:
    """What a plan decides; see ``plan.Plan``. ``kept``: every component stays on the device once it was there."""

    slots: int
    buffers: int
    direct: bool
    token_chunk: int | None
    text_kv: bool
    text: str
    vae_tile: int | None
    tiles_wait: bool = False
    kept: bool = False


def shelf(case: Case, count: int, *, text_kv: bool) -> int:
    """Bytes of ``count`` places for packs: as many of an expert's largest, or all of both (``shelves.fit_places``)."""
    every = all_packs(case, text_kv=text_kv)
    largest = sorted(every[: len(every) // 2], reverse=True)
    return sum(every) if count >= len(every) else sum(largest[:count])


def all_packs(case: Case, *, text_kv: bool) -> tuple[int, ...]:
    """Bytes of every pack of both experts, who have the same shapes."""
    blocks, texts = case.packs[text_kv]
    return (*blocks, *texts) * 2


def resident(case: Case) -> int:
    """Bytes of what an expert needs all the time: embeddings, time, heads; the audio blocks too if they stay."""
    expert, audio, bridge = case.model.experts[0], case.model.audio, case.model.bridge
    blocks = (*audio.blocks, *audio.texts) if case.audio_stays else ()
    return sum(map(case.held, (expert.rest, audio.rest, bridge.rest, *blocks)))


def phase_terms(case: Case, choice: Choice) -> dict[str, Terms]:
    """Phase -> what it holds where it computes: on the device, or in RAM on a CPU."""
    phases = {
        "text": text_terms(case, choice),
        "frame": frame_terms(case, choice),
        "denoising": denoising_terms(case, choice),
        "decoding": decoding_terms(case, choice),
    }
    if not choice.kept:
        return phases
    layers = ("layers", sum(all_packs(case, text_kv=choice.text_kv)))
    kept = ("components", kept_weights(case))
    return {name: ((kept, *terms) if name == "denoising" else (layers, kept, *terms)) for name, terms in phases.items()}


def text_terms(case: Case, choice: Choice) -> Terms:
    """Reading the prompts with the text encoder; of its parts, the embeddings are looked up in RAM.

    On a CPU weights are pages of files, here as below.
    """
    encoder = case.model.text
    weights = {"device": case.held(encoder.weights), "parts": case.held(encoder.part), "cpu": 0}[choice.text]
    elsewhere = choice.text == "cpu" and case.device != "cpu"
    return (("text encoder", _lent(case, choice, weights)), ("working", 0 if elsewhere else text_working(case)))


def text_working(case: Case) -> int:
    """What UMT5 computes with, one prompt after the other.

    Scores, their bias and their softmax [heads, S, S]; hidden states, residuals and projections [S, ...]; the tables
    of relative positions [S, S], int64.
    """
    encoder, size, rows = case.model.text, case.itemsize, case.shape.text
    inner = encoder.num_heads * encoder.head_dim
    scores = 3 * size * encoder.num_heads * rows**2
    hidden = rows * (4 * size * inner + (size + FLOAT32) * encoder.dim + 3 * size * encoder.ffn_dim)
    return scores + hidden + 2 * 8 * rows**2


def frame_terms(case: Case, choice: Choice) -> Terms:
    """Encoding the first frame."""
    vae, spec, size = case.model.vae, case.spec, case.itemsize
    working = encode_bytes(vae, spec.height, spec.width, size, choice.vae_tile, waiting=choice.tiles_wait)
    return (
        ("video VAE", _lent(case, choice, case.held(vae.weights))),
        ("prompts", prompts(case)),
        ("working", working),
    )


def denoising_terms(case: Case, choice: Choice) -> Terms:
    """A step, while a layer computes."""
    return (
        ("layers", shelf(case, choice.slots, text_kv=choice.text_kv)),
        ("resident", resident(case) if choice.slots else 0),
        ("text", prompts(case) + read_texts(case, text_kv=choice.text_kv)),
        ("latents", latents(case)),
        ("tables", tables(case)),
        ("cache", cached_steps(case)),
        ("states", states(case)),
        ("working", working(case, choice.token_chunk)),
    )


def decoding_terms(case: Case, choice: Choice) -> Terms:
    """Decoding pictures, or sound before them: whichever takes more."""
    vae, sound, spec, size = case.model.vae, case.model.sound, case.spec, case.itemsize
    working = decode_bytes(vae, spec.height, spec.width, size, choice.vae_tile, waiting=choice.tiles_wait)
    pictures = (
        ("video VAE", _lent(case, choice, case.held(vae.weights))),
        ("latents", final_latents(case)),
        ("working", working),
    )
    heard = (
        ("audio VAE", _lent(case, choice, FLOAT32 * sound.weights.elements)),
        ("latents", final_latents(case)),
        ("working", sound_bytes(sound, case.shape.audio)),
    )
    return max(pictures, heard, key=total)


def kept_weights(case: Case) -> int:
    """Bytes of everything that isn't a pack, if it all stays on the device: encoder, VAEs; an expert's own as above."""
    model = case.model
    return case.held(model.text.weights) + case.held(model.vae.weights) + FLOAT32 * model.sound.weights.elements


def own_ram(case: Case, choice: Choice) -> int:
    """Bytes of RAM that this process can't share with the system's memory of files, whatever the phase."""
    count = len(all_packs(case, text_kv=choice.text_kv))
    buffers = shelf(case, choice.buffers, text_kv=choice.text_kv) + PAGE * min(choice.buffers, count)
    return PROCESS[case.device] + buffers + case.converted_bytes + sound_ram(case)


def phase_ram(case: Case, choice: Choice) -> dict[str, int]:
    """Phase -> bytes of RAM that this process has of its own."""
    spec, own = case.spec, own_ram(case, choice)
    phases = dict.fromkeys(("text", "frame", "denoising", "decoding"), own)
    if case.device == "cpu":
        return {name: own + total(terms) for name, terms in phase_terms(case, choice).items()}
    if choice.text == "cpu":
        phases["text"] += text_working(case)
    if choice.tiles_wait:
        waiting = waiting_bytes(case.model.vae, spec.height, spec.width, case.itemsize, choice.vae_tile)
        phases["frame"] += waiting
        phases["decoding"] += waiting
    phases["decoding"] += FLOAT32 * SHOWN * spec.height * spec.width
    return phases


def sound_ram(case: Case) -> int:
    """The audio VAE computes in float32 whatever is stored; as it is loaded, so it lies in RAM."""
    weights = case.model.sound.weights
    return 0 if weights.bytes == FLOAT32 * weights.elements else FLOAT32 * weights.elements


def prompts(case: Case) -> int:
    """The encoded prompts, [512, text width] each."""
    return case.shape.texts * case.shape.text * case.model.text.dim * case.itemsize


def read_texts(case: Case, *, text_kv: bool) -> int:
    """The prompts as the towers know them; with ``text_kv`` every layer's keys and values too."""
    towers = (case.model.experts[0], case.model.audio)
    width = sum(tower.dim * (1 + 2 * tower.layers * text_kv) for tower in towers)
    layer = 0 if text_kv else 2 * towers[0].dim  # made and forgotten layer by layer
    return case.itemsize * case.shape.text * (case.shape.texts * width + layer)


def latents(case: Case) -> int:
    """Noise, condition and both side by side, float32; the sound's."""
    frames, height, width = case.shape.latents
    sound = 2 * case.shape.audio * case.model.audio.in_dim
    return FLOAT32 * (LATENT_CHANNELS * frames * height * width + sound)


def final_latents(case: Case) -> int:
    """What the last step leaves: pictures and sound, float32."""
    frames, height, width = case.shape.latents
    return FLOAT32 * (case.model.vae.z_dim * frames * height * width + case.shape.audio * case.model.audio.in_dim)


def tables(case: Case) -> int:
    """Rotary tables: cosine and sine a pair of channels in float32 for each tower, a channel for the bridge."""
    rows = (case.shape.video, case.shape.audio)
    towers = (case.model.experts[0], case.model.audio)
    own = sum(FLOAT32 * row * tower.dim // tower.num_heads for row, tower in zip(rows, towers, strict=True))
    bridge = 2 * case.itemsize * sum(rows) * case.model.bridge.head_dim if case.model.bridge.rotary else 0
    return own + bridge


def states(case: Case) -> int:
    """The state of each branch: [L, d] of video and [N, d] of audio."""
    shape, expert, audio = case.shape, case.model.experts[0], case.model.audio
    return case.itemsize * len(shape.branches) * (shape.video * expert.dim + shape.audio * audio.dim)


def cached_steps(case: Case) -> int:
    """What the step cache remembers of each branch."""
    if case.preset.cache is None:
        return 0
    shape, expert, audio, layers = case.shape, case.model.experts[0], case.model.audio, case.model.bridge.layers
    one = cache_bytes(shape.video, expert.dim, shape.audio, audio.dim, len(layers), case.itemsize)
    return one * len(shape.branches)


def working(case: Case, token_chunk: int | None) -> int:
    """What one branch needs besides its state in a layer; or, where that is more, embedding the time in float32."""
    expert, shape = case.model.experts[0], case.shape
    rows = min(token_chunk or shape.video, shape.video)
    attending = 2 * shape.video * expert.dim + 2 * rows * expert.dim  # keys, values; query and answer, then output
    feeding = rows * (expert.dim + expert.ffn_dim)
    elementwise = 2 * FLOAT32 * min(rows * expert.dim, BLOCK)
    layer = case.itemsize * max(attending, feeding) + elementwise + _audio_working(case) + _eight_bit(case, rows)
    time = 6 * FLOAT32 * expert.dim**2
    return max(layer, time)


def total(terms: Terms) -> int:
    """The sum of all terms."""
    return sum(size for _, size in terms)


def _audio_working(case: Case) -> int:
    """The audio's side of a layer: what the bridge says and hears, then the feed-forward."""
    audio, rows = case.model.audio, case.shape.audio
    return case.itemsize * rows * (2 * case.model.experts[0].dim + 4 * audio.dim + audio.ffn_dim)


def _eight_bit(case: Case, rows: int) -> int:
    """A matrix turned back in pieces, or tokens rounded and multiplied in 8 bits (int32 sums, their float32)."""
    preset, size = case.preset, case.itemsize
    if preset.weights == "stored":
        return 0
    if preset.matmul == "plain":
        return 2 * size * DEQUANTISED
    return min(rows, ROUNDED) * case.model.experts[0].ffn_dim * (2 * FLOAT32 + size)


def _lent(case: Case, choice: Choice, weights: int) -> int:
    """Weights that come to the device for a phase."""
    return 0 if choice.kept or case.device == "cpu" else weights
