"""Known cards: what their makers say they compute and move, and how much of it MOVA was seen to use."""

from __future__ import annotations

import re
from dataclasses import dataclass

TERA, GIGA = 10**12, 10**9

# What of a bus's nominal rate pinned copies reach: encoding, packet headers, flow control.
BUS_SHARE = 0.8
BUS_LANE = {3: 0.985 * GIGA, 4: 1.969 * GIGA, 5: 3.938 * GIGA}  # bytes a second a lane, PCI-SIG's figures
HOPPER = (9, 0)


@dataclass(frozen=True)
class Seen:
    """A published run of the original on a ``card``: the share of the bf16 peak that a step used."""

    card: str
    share: float


# Seconds a step of 5.532 PFLOP against the bf16 peak. GeForce: 37.5 s on an RTX 4090. Full-rate cards before Hopper:
# 31 s on an A100. Hopper: 8.7 s on an H200 with cuDNN's attention, 13.4 s with torch's own.
GEFORCE = Seen("RTX 4090", 0.89)
FULL_RATE = Seen("A100", 0.57)
HOPPER_CUDNN = Seen("H200", 0.64)
HOPPER_NATIVE = Seen("H200", 0.42)


@dataclass(frozen=True)
class Rates:
    """A card's published rates: operations and bytes a second.

    ``bf16`` and ``eight_bit`` are dense, with float32 accumulation (int32 for int8); ``eight_bit`` is FP8, on cards
    before Ada INT8. ``memory`` is the card's own, ``bus`` the way to it (bytes that pinned copies reach).
    """

    bf16: float
    eight_bit: float
    memory: float
    bus: float
    seen: Seen


def rates_of(name: str, *, slow_attention: bool = False) -> Rates | None:
    """The rates of the card that nvidia-smi or CUDA calls ``name``; None if the table doesn't have it.

    A laptop's card, a part of a card (MIG) and a virtual one share a name with another card but not its rates.
    ``slow_attention``: on Hopper by torch's own kernel.
    """
    plain = _plain(name)
    row = _KNOWN.get(plain) or _KNOWN.get(f"rtx {plain}")
    if row is None:
        return None
    bf16, eight_bit, memory, generation, lanes, seen = row
    if seen is HOPPER_CUDNN and slow_attention:
        seen = HOPPER_NATIVE
    bus = BUS_SHARE * BUS_LANE[generation] * lanes
    return Rates(bf16 * TERA, eight_bit * TERA, memory * GIGA, bus, seen)


def _plain(name: str) -> str:
    """ "NVIDIA GeForce RTX 4060Ti 16GB" as "rtx 4060 ti"."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower())
    words = re.sub(r"(?<=\d)(ti|super)\b", r" \1", words)
    words = re.sub(r"\b(\d+ ?gb|sxm\d?|hbm\d?e?)\b", " ", words)
    return " ".join(word for word in words.split() if word not in _IDLE_WORDS)


_IDLE_WORDS = {"nvidia", "geforce", "tesla", "generation", "blackwell", "workstation", "edition", "server", "hgx"}

# Name -> TFLOPS bf16, TFLOPS FP8 (or TOPS INT8), GB/s, PCIe generation, lanes, what of it was seen.
# Sources, all NVIDIA's: GeForce 30: Ampere GA102 whitepaper V2, appendix; GeForce 40: Ada GPU architecture V2.1,
# appendix; GeForce 50: RTX Blackwell GPU architecture V1.1, appendix (models not in them by the same rule from their
# published FP32 rate: GeForce computes bf16 at twice it). The others: each product's datasheet, without sparsity.
_KNOWN: dict[str, tuple[float, float, float, int, int, Seen]] = {
    "rtx 3060": (25.5, 102, 360, 4, 16, GEFORCE),
    "rtx 3060 ti": (32.4, 130, 448, 4, 16, GEFORCE),
    "rtx 3070": (40.6, 163, 448, 4, 16, GEFORCE),
    "rtx 3080": (59.5, 238, 760, 4, 16, GEFORCE),
    "rtx 3080 ti": (68.2, 273, 912, 4, 16, GEFORCE),
    "rtx 3090": (71, 284, 936, 4, 16, GEFORCE),
    "rtx 3090 ti": (80, 320, 1008, 4, 16, GEFORCE),
    "rtx 4060": (30.2, 60.5, 272, 4, 8, GEFORCE),
    "rtx 4060 ti": (44.1, 88.3, 288, 4, 8, GEFORCE),
    "rtx 4070": (58.3, 116.6, 504, 4, 16, GEFORCE),
    "rtx 4070 super": (71, 142, 504, 4, 16, GEFORCE),
    "rtx 4070 ti": (80.2, 160.4, 504, 4, 16, GEFORCE),
    "rtx 4070 ti super": (88.2, 176.4, 672, 4, 16, GEFORCE),
    "rtx 4080": (97.5, 194.9, 717, 4, 16, GEFORCE),
    "rtx 4080 super": (104.4, 208.9, 736, 4, 16, GEFORCE),
    "rtx 4090": (165.2, 330.3, 1008, 4, 16, GEFORCE),
    "rtx 5060 ti": (47.4, 94.9, 448, 5, 8, GEFORCE),
    "rtx 5070": (61.7, 123.5, 672, 5, 16, GEFORCE),
    "rtx 5070 ti": (87.9, 175.8, 896, 5, 16, GEFORCE),
    "rtx 5080": (112.6, 225.1, 960, 5, 16, GEFORCE),
    "rtx 5090": (209.5, 419, 1792, 5, 16, GEFORCE),
    "rtx a4000": (76.7, 153.4, 448, 4, 16, FULL_RATE),
    "rtx a5000": (111.1, 222.2, 768, 4, 16, FULL_RATE),
    "rtx a6000": (154.8, 309.7, 768, 4, 16, FULL_RATE),
    "rtx 5000 ada": (261.1, 522.1, 576, 4, 16, FULL_RATE),
    "rtx 6000 ada": (364.2, 728.5, 960, 4, 16, FULL_RATE),
    "a10": (125, 250, 600, 4, 16, FULL_RATE),
    "a40": (149.7, 299.3, 696, 4, 16, FULL_RATE),
    "a100": (312, 624, 1555, 4, 16, FULL_RATE),
    "a100 pcie": (312, 624, 1555, 4, 16, FULL_RATE),
    "l4": (121, 242, 300, 4, 16, FULL_RATE),
    "l40": (181, 362, 864, 4, 16, FULL_RATE),
    "l40s": (362, 733, 864, 4, 16, FULL_RATE),
    "h100": (989.4, 1978.9, 3350, 5, 16, HOPPER_CUDNN),
    "h100 pcie": (756, 1513, 2000, 5, 16, HOPPER_CUDNN),
    "h100 nvl": (835, 1671, 3900, 5, 16, HOPPER_CUDNN),
    "h200": (989.4, 1978.9, 4800, 5, 16, HOPPER_CUDNN),
    "h200 nvl": (835, 1671, 4800, 5, 16, HOPPER_CUDNN),
    "b200": (2250, 4500, 8000, 5, 16, FULL_RATE),
}
