"""Clips as the towers see them, computed once and kept as files: latents, first-frame condition, text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mova.audio_vae import DAC
from mova.checkpoint import load_component, load_tokenizer
from mova.embeddings import embed_prompts, reader_identity
from mova.spec import MAX_PROMPT_TOKENS
from mova.text import clean_prompt, token_count
from mova.training.clips import CaptionedClip, RawClip, read_clip
from mova.training.errors import ClipError
from mova.training.samples import Sample, Shape
from mova.training.state import write_tensors
from mova.vae_kernels import VaeKernels
from mova.video_vae import encode_condition, normalise

FORMAT = "mova-training-sample-1"
OnClip = Callable[[str, int, int], None]  # what is encoded ("text" or "clips"), how many are, of how many


def no_report(_phase: str, _done: int, _total: int) -> None:
    """For whoever doesn't want to hear of it."""


@dataclass(frozen=True)
class CachedSamples:
    """Samples read from files; it can be sent to worker processes.

    Args:
        names: what the clips are called.
        clips: the files of what they hold.
        texts: their captions' files, in the same order.
        shapes: what their latents measure; those alike may share a batch.
        empty: the file of the empty prompt.
    """

    names: tuple[str, ...]
    clips: tuple[Path, ...]
    texts: tuple[Path, ...]
    shapes: tuple[Shape, ...]
    empty: Path

    @property
    def identity(self) -> str:
        """The same for the same clips, captions and encoders."""
        names = "\n".join(file.name for file in (*self.clips, *self.texts, self.empty))
        return hashlib.sha256(names.encode()).hexdigest()

    @property
    def empty_prompt(self) -> Tensor:
        """[512, text_dim], what a dropped text becomes."""
        return _padded_rows(self.empty)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        with safe_open(self.clips[index], framework="pt") as file:
            fps, tensors = float(file.metadata()["fps"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return Sample(self.names[index], **tensors, prompt_embeds=_padded_rows(self.texts[index]), fps=fps)


def encode_clips(
    clips: Sequence[CaptionedClip],
    checkpoint: Path,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    allow_silent: bool = False,
    on_clip: OnClip = no_report,
) -> CachedSamples:
    """Encode what isn't in ``cache`` yet, first all texts, then all clips, so that one encoder is loaded at a time.

    Args:
        clips: see ``find_clips``.
        checkpoint: whose VAEs, text encoder and tokenizer are used.
        cache: a folder; a file is found again by what the clip holds, whatever it is called.
        device: where to encode.
        dtype: of the encoders; None as stored.
        allow_silent: see ``read_clip``.
        on_clip: hears of every text and clip; an exception raised in it ends it, and what is encoded is kept.

    Raises:
        ClipError: what is wrong with each of the clips that can't be used; the good ones are encoded and kept.
        CheckpointError: the checkpoint can't be used.
    """
    cache.mkdir(parents=True, exist_ok=True)
    where = torch.device(device)
    texts = _encode_texts([clip.caption for clip in clips], checkpoint, cache, where, dtype, on_clip)
    encoder = _ClipEncoder(checkpoint, cache, where, dtype, allow_silent)
    files, problems = [], []
    for done, clip in enumerate(clips):
        on_clip("clips", done, len(clips))
        try:
            files.append(encoder(clip.path))
        except ClipError as error:
            problems.append(str(error))
    on_clip("clips", len(clips), len(clips))
    if problems:
        raise ClipError("\n".join(problems))
    names = tuple(clip.path.name for clip in clips)
    return CachedSamples(names, tuple(files), texts[1:], tuple(_shape(file) for file in files), texts[0])


@torch.no_grad()
def encode_video(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Normalised latents [B, 16, T, h, w], float32, of ``video`` [B, 3, F, H, W] in -1 to 1: the posterior's mode."""
    with VaeKernels(vae.dtype):
        latents = vae.encode(video.to(vae.dtype)).latent_dist.mode().float()
    return normalise(vae, latents)


@torch.no_grad()
def encode_audio(audio_vae: DAC, audio: Tensor) -> Tensor:
    """Latents [B, C, N], float32, of mono ``audio`` [B, 1, S] in -1 to 1: the posterior's mode, not normalised."""
    padded = audio_vae.preprocess(audio.to(next(audio_vae.parameters()).dtype))
    latents: Tensor = audio_vae.encode(padded).mode()
    return latents.float()


def encode_clip(vae: AutoencoderKLWan, audio_vae: DAC, clip: RawClip, device: torch.device) -> dict[str, Tensor]:
    """``latents`` [16, T, h, w], ``audio_latents`` [C, N] and ``condition`` [20, T, h, w] of a clip, on the CPU."""
    frames = torch.from_numpy(clip.frames).to(device).permute(3, 0, 1, 2).unsqueeze(0)  # [1, 3, F, H, W]
    video = frames.float() / 255.0 * 2.0 - 1.0
    sound = torch.from_numpy(clip.audio).to(device).view(1, 1, -1)
    encoded = {
        "latents": encode_video(vae, video),
        "audio_latents": encode_audio(audio_vae, sound),
        "condition": encode_condition(vae, video[:, :, 0], video.shape[2]),
    }
    return {name: tensor[0].cpu().contiguous() for name, tensor in encoded.items()}


class _ClipEncoder:
    """Clips to files. The VAEs are loaded once a clip is met that has none."""

    def __init__(
        self, checkpoint: Path, cache: Path, device: torch.device, dtype: torch.dtype | None, allow_silent: bool
    ) -> None:
        self._checkpoint, self._cache = checkpoint, cache
        self._device, self._dtype, self._allow_silent = device, dtype, allow_silent
        self._identity = reader_identity(checkpoint, dtype, device, ("video_vae", "audio_vae"))
        self._vaes: list[Any] = []

    def __call__(self, path: Path) -> Path:
        """The file of the clip at ``path``, written if it isn't there."""
        target = self._cache / f"clip-{_hash(FORMAT, self._identity, _content(path), self._allow_silent)}.safetensors"
        if _whole(target):
            return target
        if not self._vaes:
            self._vaes = [self._load(name) for name in ("video_vae", "audio_vae")]
        vae, audio_vae = self._vaes
        clip = read_clip(path, audio_vae.sample_rate, allow_silent=self._allow_silent)
        tensors = encode_clip(vae, audio_vae, clip, self._device)
        write_tensors(target, tensors, {"fps": repr(clip.fps)})
        return target

    def _load(self, name: str) -> nn.Module:
        return load_component(self._checkpoint, name, self._dtype).to(self._device)


def _encode_texts(
    captions: Sequence[str],
    checkpoint: Path,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    on_clip: OnClip,
) -> tuple[Path, ...]:
    """The files of the empty prompt and of ``captions``, written if they aren't there."""
    reader = reader_identity(checkpoint, dtype, device)
    tokenizer = load_tokenizer(checkpoint)
    loaded: list[nn.Module] = []

    @contextmanager
    def lend() -> Iterator[nn.Module]:
        if not loaded:
            loaded.append(load_component(checkpoint, "text_encoder", dtype).to(device))
        yield loaded[0]

    files = []
    for done, caption in enumerate(("", *captions)):
        on_clip("text", done, len(captions) + 1)
        files.append(cache / f"text-{_hash(FORMAT, reader, clean_prompt(caption))}.safetensors")
        if not _whole(files[-1]):
            (embeds,) = embed_prompts(tokenizer, lend, [caption], device=device)
            rows = embeds[: token_count(tokenizer, caption)].cpu().contiguous()
            write_tensors(files[-1], {"rows": rows}, {})
    on_clip("text", len(files), len(files))
    return tuple(files)


def _padded_rows(file: Path) -> Tensor:
    rows = load_file(file)["rows"]
    return F.pad(rows, (0, 0, 0, MAX_PROMPT_TOKENS - len(rows)))


def _shape(file: Path) -> Shape:
    with safe_open(file, framework="pt") as opened:
        sizes = [size for name in ("latents", "audio_latents") for size in opened.get_slice(name).get_shape()]
        return (float(opened.metadata()["fps"]), *sizes)


def _whole(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ClipError(f"{path.name} can't be read ({error.strerror}). Check the file's permissions.") from error


def _hash(*parts: object) -> str:
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()[:32]
