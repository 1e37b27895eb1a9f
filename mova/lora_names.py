"""How LoRA files name layers: ours, the original software's, and those of Wan 2.2 LoRAs. And which are trained."""

from __future__ import annotations

import re
from typing import NamedTuple

EXPERTS = ("video_dit", "video_dit_2")
PARTS = {"video_dit": "video", "video_dit_2": "video", "audio_dit": "audio", "dual_tower_bridge": "bridge"}

# The layers that LoRAs are trained on, the same in every mode: every Linear in the blocks of the towers, and every
# attention projection of the bridge. So the released recipe does it, whose names q, k, v and o match these paths.
_BLOCKS = r"blocks\.\d+\.((self_attn|cross_attn)\.[qkvo]|ffn\.[02])"
TARGETS = {
    "video_dit": _BLOCKS,
    "video_dit_2": _BLOCKS,
    "audio_dit": _BLOCKS,
    "dual_tower_bridge": r"(audio_to_video|video_to_audio)_conditioners\.\d+\.inner\.[qkvo]",
}


class Place(NamedTuple):
    """Where a tensor belongs: ``part`` is "down" (lora_A), "up" (lora_B) or "alpha" of the layer at ``path``.

    ``component`` is None for a video expert, whichever: Wan 2.2's two have the same layers.
    """

    component: str | None
    path: str
    part: str


def key_of(component: str, path: str, part: str) -> str:
    """The key of a tensor in our own format."""
    suffix = {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]
    return f"{component}.{path}.{suffix}"


def parse_key(key: str) -> Place | None:
    """Where the tensor called ``key`` belongs; None if that is nowhere in a LoRA for MOVA or Wan.

    >>> parse_key("audio_dit.blocks.0.ffn.2.lora_A.default.weight")
    Place(component='audio_dit', path='blocks.0.ffn.2', part='down')
    >>> parse_key("diffusion_model.blocks.7.self_attn.q.lora_up.weight")
    Place(component=None, path='blocks.7.self_attn.q', part='up')
    """
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    part = "alpha" if match["alpha"] else "down" if match["matrix"] in ("A", "down") else "up"
    component, dot, path = match["path"].partition(".")
    if dot and component in PARTS:
        return Place(component, path, part)
    wan = _wan_path(match["path"])
    return None if wan is None else Place(None, wan, part)


# peft and ours "lora_A.weight", diffsynth "lora_A.default.weight", low-resource "lora_A"; kohya "lora_down.weight".
_KEY = re.compile(r"(?P<path>.+?)\.(lora_(?P<matrix>A|B|down|up)(\.default)?(\.weight)?|(?P<alpha>alpha))")
_WAN = re.compile(rf"{_BLOCKS}|text_embedding\.[02]|time_embedding\.[02]|time_projection\.1|head\.head")
_PREFIXES = ("diffusion_model.", "model.diffusion_model.", "base_model.model.", "pipe.dit.", "transformer.", "")
_DIFFUSERS = (("attn1.", "self_attn."), ("attn2.", "cross_attn."), ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"))
_KOHYA = "lora_unet_"


def _wan_path(path: str) -> str | None:
    """The path in a Wan tower that other software calls ``path``; None if it has none."""
    if path.startswith(_KOHYA):
        return _kohya_path(path.removeprefix(_KOHYA))
    for prefix in _PREFIXES:
        if path.startswith(prefix) and _WAN.fullmatch(rest := _from_diffusers(path.removeprefix(prefix))):
            return rest
    return None


def _kohya_path(name: str) -> str | None:
    """``blocks_3_self_attn_q``, as kohya's tools write it, with dots."""
    dotted = re.sub(r"_(?=\d)|(?<=\d)_|(?<=attn)_|(?<=head)_", ".", name)
    return dotted if _WAN.fullmatch(dotted) else None


def _from_diffusers(path: str) -> str:
    """``blocks.3.attn1.to_out.0``, as diffusers has it, in Wan's own words."""
    if "attn1." in path or "attn2." in path or "ffn.net." in path:
        for theirs, own in _DIFFUSERS:
            path = path.replace(theirs, own)
        path = re.sub(r"to_([qkv])$", r"\1", path)
        path = re.sub(r"to_out\.0$", "o", path)
    return path
