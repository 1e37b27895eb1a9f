"""The released checkpoints in numbers, for those who plan before they download; both sizes have the same shapes."""

from __future__ import annotations

from dataclasses import replace

from mova.model import AudioVae, Bridge, Model, TextEncoder, Tower, VideoVae, Weights

_BLOCK = Weights(22, 298_950_144, 597_900_288, 298_844_160, 597_688_320, 49_664)
_TEXT = Weights(5, 52_444_160, 104_888_320, 52_428_800, 104_857_600, 10_240)
_EXPERT = Tower(
    dim=5120,
    ffn_dim=13824,
    num_heads=40,
    in_dim=36,
    out_dim=16,
    text_dim=4096,
    freq_dim=256,
    patch=(1, 2, 2),
    blocks=(_BLOCK,) * 40,
    texts=(_TEXT,) * 40,
    rest=Weights(15, 233_129_024, 466_258_048),
)

RELEASED_360P = Model(
    name="MOVA-360p",
    experts=(_EXPERT, _EXPERT),
    audio=Tower(
        dim=1536,
        ffn_dim=8960,
        num_heads=12,
        in_dim=128,
        out_dim=128,
        text_dim=4096,
        freq_dim=256,
        patch=(1,),
        blocks=(Weights(22, 41_717_504, 83_435_008),) * 30,
        texts=(Weights(5, 4_723_200, 9_446_400),) * 30,
        rest=Weights(15, 25_972_352, 51_944_704),
    ),
    bridge=Bridge(
        head_dim=128,
        layers=tuple(range(30)),
        blocks=(Weights(24, 88_657_920, 177_315_840, 68_157_440, 136_314_880, 20_480),) * 30,
        rest=Weights(),
    ),
    text=TextEncoder(
        dim=4096,
        ffn_dim=10240,
        num_heads=64,
        head_dim=64,
        layers=24,
        weights=Weights(242, 5_680_910_336, 11_361_820_672),
        table=Weights(1, 1_050_148_864, 2_100_297_728),
        part=Weights(1, 41_943_040, 83_886_080),
    ),
    vae=VideoVae(
        encoder_base=96,
        decoder_base=96,
        multiples=(1, 2, 4, 4),
        blocks=2,
        halves_time=(False, True, True),
        z_dim=16,
        channels=3,
        scale=8,
        weights=Weights(194, 126_892_531, 253_785_062),
    ),
    sound=AudioVae(
        dim=2048,
        rates=(8, 5, 4, 3, 2),
        latent_dim=128,
        hop=960,
        sample_rate=48_000,
        weights=Weights(224, 371_539_137, 743_078_274),
    ),
)
RELEASED_720P = replace(RELEASED_360P, name="MOVA-720p")
