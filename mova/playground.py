"""The playground: a tiny MOVA in the official layout, so that anybody can run the whole product in a minute.

Its weights are random, so its clips are noise; everything around them is the real thing. Made locally, the same
everywhere, the first time it is needed.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from mova.audio_dit import WanAudioModel
from mova.audio_vae import DAC
from mova.bridge import DualTowerConditionalBridge
from mova.checkpoint import save_checkpoint
from mova.layout import MODEL_INDEX, PLAYGROUND_NAME
from mova.scheduler import FlowMatchPairScheduler
from mova.video_dit import WanModel

SEED = 20_260_101
VIDEO_DIM, AUDIO_DIM, TEXT_DIM, HEAD_DIM = 96, 64, 64, 32
SAMPLE_RATE, HOP_RATES = 16_000, (4, 8, 10)  # hop 320: 50 latents a second, as the released checkpoints have
AUDIO_LATENTS = 16

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
WORDS = (
    *("a", "an", "the", "and", "of", "in", "on", "with", "to", "from", "into", "over", "is", "are", "at", "by", "it"),
    *("this", "video", "has", "no", "subtitles", "audio", "shows", "includes", "background", "says", "voice", "sound"),
    *("ball", "cube", "ring", "blinks", "bounces", "rolls", "wall", "floor", "wood", "glass", "metal", "rubber"),
    *("red", "green", "blue", "yellow", "white", "black", "soft", "loud"),
)


def make_playground(folder: Path) -> Path:
    """The playground checkpoint in ``folder``, made if it isn't there yet; a half-made one is never seen."""
    if (folder / MODEL_INDEX).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / folder.name
        _write(made, Path(scratch))
        if folder.exists():
            shutil.rmtree(folder)  # no model_index.json in it: the rest of an attempt that was cut off
        made.replace(folder)
    return folder


def _write(folder: Path, source: Path) -> None:
    (source / "tokenizer").mkdir()
    vocabulary = _write_tokenizer(source / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        components = _components(vocabulary)
    save_checkpoint(
        folder,
        components,
        FlowMatchPairScheduler(shift=5.0, sigma_min=0.0, extra_one_step=True),
        source,
        boundary_ratio=0.9,
        name=PLAYGROUND_NAME,
    )


def _components(vocabulary: int) -> dict[str, nn.Module]:
    tower = {"text_dim": TEXT_DIM, "freq_dim": 64, "eps": 1e-6}
    video = {**tower, "dim": VIDEO_DIM, "ffn_dim": 4 * VIDEO_DIM, "num_heads": VIDEO_DIM // HEAD_DIM, "num_layers": 4}
    audio = {**tower, "dim": AUDIO_DIM, "ffn_dim": 4 * AUDIO_DIM, "num_heads": AUDIO_DIM // HEAD_DIM, "num_layers": 3}
    sound: dict[str, Any] = {"in_dim": AUDIO_LATENTS, "out_dim": AUDIO_LATENTS, "patch_size": [1], "vae_type": "dac"}
    picture: dict[str, Any] = {"in_dim": 36, "out_dim": 16, "patch_size": [1, 2, 2]}
    text = UMT5Config(vocab_size=vocabulary, d_model=TEXT_DIM, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    return {
        "video_dit": WanModel(**video, **picture),
        "video_dit_2": WanModel(**video, **picture),
        "audio_dit": WanAudioModel(**audio, **sound),
        "dual_tower_bridge": DualTowerConditionalBridge(
            visual_layers=4,
            audio_layers=3,
            visual_hidden_dim=VIDEO_DIM,
            audio_hidden_dim=AUDIO_DIM,
            audio_fps=SAMPLE_RATE / math.prod(HOP_RATES),
            head_dim=HEAD_DIM,
            interaction_strategy="full",
        ),
        "audio_vae": DAC(
            encoder_dim=8,
            encoder_rates=HOP_RATES,
            latent_dim=AUDIO_LATENTS,
            decoder_dim=64,
            decoder_rates=HOP_RATES[::-1],
            sample_rate=SAMPLE_RATE,
            continuous=True,
        ),
        "video_vae": AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 4, 4], num_res_blocks=1),
        "text_encoder": UMT5EncoderModel(text),
    }


def _write_tokenizer(folder: Path) -> int:
    """A vocabulary of single characters and a few words, as a T5 tokenizer; returns its size."""
    characters = [chr(code) for code in range(33, 127)] + list("äöüßéèàçñ。、，！？")
    pieces = [*SPECIAL_TOKENS, "▁", *characters, *(f"▁{word}" for word in WORDS)]
    pieces = list(dict.fromkeys(pieces))
    # Longer pieces are likelier, so that a known word wins over its letters.
    scores = [(piece, 0.0 if piece in SPECIAL_TOKENS else -10.0 + 2 * min(len(piece), 5)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "T5Tokenizer",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "extra_ids": 0,
        "model_max_length": 512,
    }
    special = {name: config[name] for name in ("pad_token", "eos_token", "unk_token")}
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return len(pieces)
