"""Models of a few thousand random weights in folders as their makers publish them, built on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

END, PAD, START = "<|im_end|>", "<|endoftext|>", "<|im_start|>"
EYES = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
THINK, THOUGHT = "<think>", "</think>"
TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{%- endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)


def qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL: patches of 16 pixels, merged by two, each cell of 32 x 32 pixels one token."""
    tokens = tokenizer(folder)
    eyes = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}
    Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, temporal_patch_size=2, **eyes).save_pretrained(folder)
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True, "rope_theta": 10000.0}
    config = Qwen3VLConfig(
        text_config=_text_config(tokens) | {"rope_parameters": rope},
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32},
            **{"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        },
        **_marks(tokens),
    )
    return _saved(Qwen3VLForConditionalGeneration, config, tokens, folder)


def qwen2_5_vl(folder: Path) -> Path:
    """A Qwen2.5-VL: patches of 14 pixels."""
    tokens = tokenizer(folder)
    Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 12845056}).save_pretrained(folder)
    text = {name: value for name, value in _text_config(tokens).items() if name != "head_dim"}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": rope, "bos_token_id": None, "eos_token_id": tokens.eos_token_id},
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32},
            **{"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]},
        },
        **_marks(tokens),
    )
    return _saved(Qwen2_5_VLForConditionalGeneration, config, tokens, folder)


def qwen3(folder: Path, says: str | None = None, **changes: Any) -> Path:
    """A Qwen3, which reads text alone; one that says just that, of which no two tokens may be the same."""
    tokens = tokenizer(folder)
    config = Qwen3Config(**_text_config(tokens) | changes)
    return _saved(Qwen3ForCausalLM, config, tokens, folder, None if says is None else tokens.encode(says + END))


def stable_diffusion(folder: Path) -> Path:
    """A Stable Diffusion that was made for 64 x 64 pixels and reads with CLIP."""
    torch.manual_seed(0)
    blocks = {"block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": 16}
    tokens = tokenizer(folder.parent / "clip")
    clip = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2}
    marks = {"bos_token_id": 0, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            **blocks,
            **{"sample_size": 32, "cross_attention_dim": 32, "attention_head_dim": 4},
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        vae=_vae(latent_channels=4, blocks=2),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(tokens), **clip, **marks)),
        tokenizer=tokens,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def z_image(folder: Path) -> Path:
    """A Z-Image, which reads with a Qwen3 and tells no size."""
    torch.manual_seed(0)
    tokens = tokenizer(folder.parent / "qwen")
    ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            **{"in_channels": 16, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2},
            **{"cap_feat_dim": 32, "axes_dims": [8, 4, 4], "axes_lens": [1024, 128, 128]},
        ),
        vae=_vae(latent_channels=16, blocks=4),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**_text_config(tokens))).model,
        tokenizer=tokens,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Of bytes, with Qwen's marks and a template like its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token=END, pad_token=PAD, additional_special_tokens=[START, *EYES],
        model_max_length=77 if folder.name == "clip" else 32768,
    )  # fmt: skip
    made.add_tokens([THINK, THOUGHT])
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return made


def _text_config(tokens: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        **{"vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 32768},
    }


def _marks(tokens: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, tokens.convert_tokens_to_ids(EYES), strict=True))


def _vae(latent_channels: int, blocks: int) -> AutoencoderKL:
    """One that makes pictures 2, 4, 8 times smaller with 2, 3, 4 blocks."""
    return AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        norm_num_groups=8,
        latent_channels=latent_channels,
        scaling_factor=0.36,
        shift_factor=0.1,
        mid_block_add_attention=False,
    )


def _saved(
    kind: Any, config: Any, tokens: PreTrainedTokenizerFast, folder: Path, says: list[int] | None = None
) -> Path:
    torch.manual_seed(0)
    model = kind(config)
    if says is not None:
        _teach(model, [*tokens.encode("\n"), *says])  # a prompt ends with a new line
    model.generation_config.eos_token_id = tokens.eos_token_id
    model.generation_config.pad_token_id = tokens.pad_token_id
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def _teach(model: Any, line: list[int]) -> None:
    """Have each token of a line call for the next: the layers add nothing, and the head knows what follows what."""
    assert len(set(line)) == len(line)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    known = torch.nn.functional.normalize(torch.randn_like(model.lm_head.weight), dim=1)
    model.model.embed_tokens.weight.copy_(known)
    model.lm_head.weight.zero_()
    model.lm_head.weight[line[1:]] = known[line[:-1]]
