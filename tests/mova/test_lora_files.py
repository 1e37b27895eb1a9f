"""LoRA files: what headers tell, every naming that is read, and every file that is refused, with the reason."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_help import Pairs, named, random_pairs, store, write
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mova.checkpoint import load_component
from mova.lora_files import ADAPTED, Base, LoraError, architecture_of, base_of, read_lora, read_metadata
from mova.lora_names import EXPERTS, TARGETS, key_of, parse_key
from mova.lora_tensors import Lora, Pair, load_lora, save_lora


@pytest.fixture
def pairs(playground: Path) -> Pairs:
    return random_pairs(playground)


def same(one: Lora, pairs: Pairs) -> bool:
    return one.pairs.keys() == pairs.keys() and all(
        one.pairs[name].keys() == part.keys()
        and all(
            torch.equal(one.pairs[name][path].down, pair.down)
            and torch.equal(one.pairs[name][path].up, pair.up)
            and one.pairs[name][path].alpha == pair.alpha
            for path, pair in part.items()
        )
        for name, part in pairs.items()
    )


# Our own format


def test_written_and_read(playground: Path, tmp_path: Path, pairs: Pairs) -> None:
    file = write(playground, tmp_path / "rain.safetensors", pairs, ("pouring rain", "Regen, stark"))
    lora = load_lora(file)
    assert same(lora, pairs)
    assert lora.header is not None
    assert lora.header.base == base_of(playground)
    assert (lora.header.rank, lora.header.alpha) == (2, 3.0)
    assert list(tmp_path.iterdir()) == [file]


def test_its_header_tells_all(playground: Path, tmp_path: Path, pairs: Pairs) -> None:
    file = write(playground, tmp_path / "rain.safetensors", pairs, ("pouring rain", "Regen, stark"))
    info = read_lora(file)
    assert info.trigger_words == ("pouring rain", "Regen, stark")
    assert info.components == ADAPTED
    assert info.layers == sum(map(len, pairs.values())) == 40 + 40 + 30 + 24
    assert info.ranks == (2,)
    assert info.bytes == file.stat().st_size
    assert info.header is not None
    assert info.header.base == Base("MOVA-playground", "video 4x96/384, audio 3x64/256, bridge full")


def test_keys_are_peft_ones_behind_the_component(playground: Path, tmp_path: Path, pairs: Pairs) -> None:
    stored = load_file(write(playground, tmp_path / "a.safetensors", pairs))
    assert stored["audio_dit.blocks.2.ffn.0.lora_A.weight"].shape == (2, 64)
    assert stored["dual_tower_bridge.video_to_audio_conditioners.1.inner.k.lora_B.weight"].shape == (64, 2)


def test_layers_of_different_ranks_keep_their_strength(playground: Path, tmp_path: Path) -> None:
    small, large = (random_pairs(playground, rank=rank, alpha=alpha) for rank, alpha in ((2, 3.0), (5, 1.0)))
    mixed = {"video_dit": small["video_dit"], "audio_dit": large["audio_dit"]}
    file = write(playground, tmp_path / "mixed.safetensors", mixed)
    assert same(load_lora(file), mixed)
    assert read_lora(file).ranks == (2, 5)


def test_describing_needs_no_torch(playground: Path, tmp_path: Path) -> None:
    file = write(playground, tmp_path / "a.safetensors")
    code = (
        "import sys; from pathlib import Path; from mova.lora_files import base_of, read_lora; "
        f"read_lora(Path({str(file)!r})).header.misfit(Path('x'), base_of(Path({str(playground)!r}))); "
        "print([name for name in ('torch', 'safetensors', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_released_architecture_in_words(tmp_path: Path) -> None:
    configs = {
        "video_dit": '{"num_layers": 40, "dim": 5120, "ffn_dim": 13824}',
        "audio_dit": '{"num_layers": 30, "dim": 1536, "ffn_dim": 8960}',
        "dual_tower_bridge": '{"interaction_strategy": "full"}',
    }
    for name, text in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text, encoding="utf-8")
    assert architecture_of(tmp_path) == "video 40x5120/13824, audio 30x1536/8960, bridge full"


# Which layers are trained


def test_every_linear_of_the_blocks_and_of_the_bridge(playground: Path) -> None:
    """As the released recipe does it, whose single letters match every Linear's path there."""
    for name in ADAPTED:
        parts = load_component(playground, name).named_modules()
        linears = [path for path, part in parts if isinstance(part, nn.Linear)]
        inside = [path for path in linears if path.startswith("blocks.") or "conditioners" in path]
        assert [path for path in linears if re.fullmatch(TARGETS[name], path)] == inside
        assert inside


# The original software's formats


def peft_key(component: str, path: str, part: str) -> str:
    return key_of(component, path, part)


def diffsynth_key(component: str, path: str, part: str) -> str:
    return f"{component}.{path}.{'lora_A' if part == 'down' else 'lora_B'}.default.weight"


def bare_key(component: str, path: str, part: str) -> str:
    return f"{component}.{path}.{'lora_A' if part == 'down' else 'lora_B'}"


@pytest.mark.parametrize("key", [peft_key, diffsynth_key])
def test_the_original_folder(tmp_path: Path, pairs: Pairs, key: Callable[[str, str, str], str]) -> None:
    torch.save(named(pairs, key), tmp_path / "lora_weights.pt")
    torch.save({"rank": 2, "alpha": 3.0, "target_modules": list(ADAPTED)}, tmp_path / "lora_config.pt")
    assert same(load_lora(tmp_path), pairs)
    assert same(load_lora(tmp_path / "lora_weights.pt"), pairs)


def test_the_originals_low_resource_file(tmp_path: Path, pairs: Pairs) -> None:
    content = {"lora_state_dict": named(pairs, bare_key), "rank": 2, "alpha": 3.0, "dropout": 0.0}
    torch.save({**content, "target_modules": ["q", "k"]}, tmp_path / "any.pt")
    assert same(load_lora(tmp_path / "any.pt"), pairs)


def test_without_a_config_it_is_what_the_original_takes(playground: Path, tmp_path: Path) -> None:
    sixteen = random_pairs(playground, rank=16, alpha=16.0, components=["audio_dit"])
    torch.save(named(sixteen, peft_key), tmp_path / "lora_weights.pt")
    assert same(load_lora(tmp_path), sixteen)


def test_a_recorded_rank_that_is_wrong_asks_for_alpha(tmp_path: Path, pairs: Pairs) -> None:
    """One of the original's savers records rank 16 and alpha 16 whatever was trained."""
    torch.save(named(pairs, peft_key), tmp_path / "lora_weights.pt")
    torch.save({"rank": 16, "alpha": 16.0}, tmp_path / "lora_config.pt")
    with pytest.raises(LoraError, match=r"lora_weights.pt: 'video_dit.*' has rank 2, but 16 is recorded.*--alpha"):
        load_lora(tmp_path)
    assert same(load_lora(tmp_path, alpha=3.0), pairs)


def test_a_rank_that_is_a_text_asks_for_alpha(tmp_path: Path, pairs: Pairs) -> None:
    """Another saves the name of a class."""
    torch.save(named(pairs, peft_key), tmp_path / "lora_weights.pt")
    torch.save({"rank": "LoRALinear", "alpha": 3.0}, tmp_path / "lora_config.pt")
    with pytest.raises(LoraError, match=r"'rank' is 'LoRALinear'.*--alpha"):
        load_lora(tmp_path)
    assert same(load_lora(tmp_path, alpha=3.0), pairs)


class Trap:
    """What a pickle may do to whoever loads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("where", ["weights", "config", "state", "plain pickle"])
def test_no_code_of_a_pickle_runs(tmp_path: Path, pairs: Pairs, where: str) -> None:
    marker, trap = tmp_path / "ran", Trap(tmp_path / "ran")
    tensors, file = named(pairs, peft_key), tmp_path / "lora_weights.pt"
    if where == "plain pickle":
        file.write_bytes(pickle.dumps({"x": trap}, protocol=2))
    else:
        content: dict[str, Any] = {"lora_state_dict": tensors, "rank": trap} if where == "state" else dict(tensors)
        torch.save({**content, **({"x": trap} if where == "weights" else {})}, file)
        torch.save({"rank": trap if where == "config" else 2, "alpha": 3.0}, tmp_path / "lora_config.pt")
    with pytest.raises(LoraError, match=r"lora_(weights|config).pt is refused: .*code.*safetensors"):
        load_lora(file)
    assert not marker.exists()


def test_converted_it_is_the_same(playground: Path, tmp_path: Path, pairs: Pairs) -> None:
    torch.save(named(pairs, diffsynth_key), tmp_path / "lora_weights.pt")
    torch.save({"rank": 2, "alpha": 3.0}, tmp_path / "lora_config.pt")
    file = tmp_path / "converted.safetensors"
    save_lora(file, load_lora(tmp_path).pairs, base_of(playground))
    assert same(load_lora(file), pairs)


# Wan's


def diffusion_model(_component: str, path: str, part: str) -> str:
    return f"diffusion_model.{path}." + {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]


def down_up(_component: str, path: str, part: str) -> str:
    return f"diffusion_model.{path}." + {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}[part]


def kohya(_component: str, path: str, part: str) -> str:
    flat = f"lora_unet_{path.replace('.', '_')}"
    return f"{flat}." + {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}[part]


def diffsynth(_component: str, path: str, part: str) -> str:
    return f"{path}." + {"down": "lora_A.default.weight", "up": "lora_B.default.weight", "alpha": "alpha"}[part]


def diffusers(component: str, path: str, part: str) -> str:
    for own, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"), ("ffn.0", "ffn.net.0.proj")):
        path = path.replace(own, theirs)
    path = path.replace("ffn.2", "ffn.net.2")
    head, _, last = path.rpartition(".")
    if last in ("q", "k", "v", "o"):
        path = f"{head}.to_out.0" if last == "o" else f"{head}.to_{last}"
    return f"transformer.{path}." + {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]


@pytest.mark.parametrize("alpha", [True, False], ids=["alpha", "no alpha"])
@pytest.mark.parametrize("naming", [diffusion_model, down_up, kohya, diffsynth, diffusers])
def test_wan_loras_are_for_both_experts(
    playground: Path, tmp_path: Path, naming: Callable[[str, str, str], str], alpha: bool
) -> None:
    part = random_pairs(playground, components=["video_dit"])["video_dit"]
    file = store(tmp_path / "wan.safetensors", named({"wan": part}, naming, alpha=alpha))
    info, lora = read_lora(file), load_lora(file)
    assert (info.components, info.header, info.layers) == (EXPERTS, None, 40)
    wanted = {path: pair.alpha if alpha else float(pair.rank) for path, pair in part.items()}
    for expert in EXPERTS:
        assert {path: pair.alpha for path, pair in lora.pairs[expert].items()} == wanted
        assert all(torch.equal(lora.pairs[expert][path].up, pair.up) for path, pair in part.items())


def peft_file(playground: Path, file: Path, config: dict[str, Any]) -> Path:
    part = random_pairs(playground, components=["video_dit"])["video_dit"]
    metadata = {"lora_adapter_metadata": json.dumps({f"transformer.{name}": told for name, told in config.items()})}
    save_file(named({"wan": part}, diffusers), file, metadata)
    return file


def test_alpha_as_diffusers_stores_it(playground: Path, tmp_path: Path) -> None:
    file = peft_file(playground, tmp_path / "a.safetensors", {"r": 2, "lora_alpha": 8, "use_dora": False})
    assert {pair.alpha for pair in load_lora(file).pairs["video_dit"].values()} == {8.0}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"r": 2, "lora_alpha": 8, "use_rslora": True}, "trained with 'use_rslora'"),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"blocks.0": 2}}, "trained with 'alpha_pattern'"),
        ({"r": 4, "lora_alpha": 8}, "has rank 2, but 4 is recorded"),
        ({"r": 2}, "'alpha' is None"),
    ],
)
def test_what_diffusers_stores_and_we_cant_do(
    playground: Path, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LoraError, match=reason):
        load_lora(peft_file(playground, tmp_path / "a.safetensors", config))


def test_a_layer_that_is_changed_twice(playground: Path, tmp_path: Path) -> None:
    part = random_pairs(playground, components=["video_dit"])
    file = store(tmp_path / "a.safetensors", named(part, key_of) | named(part, diffusion_model))
    with pytest.raises(LoraError, match=r"a.safetensors: '.*' and '.*' change the same layer"):
        load_lora(file)


def test_wan_layers_outside_of_blocks() -> None:
    for path in ("text_embedding.0", "time_embedding.2", "time_projection.1", "head.head"):
        place = parse_key(f"diffusion_model.{path}.lora_down.weight")
        assert place is not None and (place.component, place.path, place.part) == (None, path, "down")
        assert parse_key(f"lora_unet_{path.replace('.', '_')}.alpha") == (None, path, "alpha")


# Refused


def a_pair(rank: int = 2) -> dict[str, Tensor]:
    key = "audio_dit.blocks.0.ffn.0"
    return {f"{key}.lora_A.weight": torch.ones(rank, 64), f"{key}.lora_B.weight": torch.ones(256, rank)}


DOWN, UP = a_pair()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"audio_dit.modulation": torch.ones(2)}, r"'audio_dit.modulation' is no part of a LoRA.*Choose"),
        ({"diffusion_model.blocks.0.norm3.diff": torch.ones(2)}, r"norm3.diff' is no part.*whole; choose"),
        ({"diffusion_model.blocks.0.self_attn.q.diff_b": torch.ones(2)}, r"diff_b' is no part.*choose"),
        ({"diffusion_model.blocks.0.self_attn.q.dora_scale": torch.ones(2)}, r"DoRA; choose a plain LoRA"),
        ({"diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": torch.ones(2, 2)}, r"k_img.*Wan 2.1"),
        ({"lora_te_text_model.lora_down.weight": torch.ones(2, 2)}, r"text encoder"),
        ({"video_dit.blocks.0.ffn.0.lora_A.weight": torch.ones(2, 8)}, r"no 'up' matrix beside it"),
        ({"audio_dit.blocks.0.ffn.0.lora_down.weight": torch.ones(2, 64)}, r"mean the same tensor"),
        ({UP: torch.ones(256, 3)}, r"lora_A.weight' \[2, 64\] and .* \[256, 3\] have different ranks"),
        ({DOWN: torch.ones(0, 64), UP: torch.ones(256, 0)}, r"shape \[0, 64\]; it must be .* rank 1 or more"),
        ({DOWN: torch.ones(2, 64, 1)}, r"shape \[2, 64, 1\]; it must be a matrix"),
        ({"audio_dit.blocks.0.ffn.0.alpha": torch.ones(2)}, r"alpha' must be one number"),
    ],
)
def test_what_is_no_lora_is_named(tmp_path: Path, changes: dict[str, Tensor], reason: str) -> None:
    file = store(tmp_path / "odd.safetensors", {**a_pair(), **changes})
    for reading in (read_lora, load_lora):
        with pytest.raises(LoraError, match=rf"odd.safetensors.*{reason}"):
            reading(file)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({UP: torch.full((256, 2), torch.nan)}, r"aren't numbers.*training failed"),
        ({DOWN: torch.ones(2, 64, dtype=torch.int32)}, r"isn't in floating point"),
    ],
)
def test_values_that_cant_be_computed_with(tmp_path: Path, changes: dict[str, Tensor], reason: str) -> None:
    file = store(tmp_path / "odd.safetensors", {**a_pair(), **changes})
    with pytest.raises(LoraError, match=rf"odd.safetensors: 'audio_dit.*{reason}"):
        load_lora(file)


def test_an_empty_file(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "empty.pt")
    with pytest.raises(LoraError, match="empty: it changes nothing"):
        load_lora(tmp_path / "empty.pt")


def test_damaged_and_absent_files(playground: Path, tmp_path: Path) -> None:
    file = write(playground, tmp_path / "a.safetensors")
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:-5]):
        file.write_bytes(content)
        for reading in (read_lora, load_lora):
            with pytest.raises(LoraError, match=r"a.safetensors.*(cut short|header)"):
                reading(file)
    (tmp_path / "b.pt").write_bytes(b"no pickle at all")
    with pytest.raises(LoraError, match=r"b.pt (can't be read|is refused)"):
        load_lora(tmp_path / "b.pt")
    for name in ("absent.safetensors", "absent.pt", "absent"):
        with pytest.raises(LoraError, match=f"{name}.*(missing|not there)"):
            load_lora(tmp_path / name)
    (tmp_path / "c.txt").write_text("a list", encoding="utf-8")
    with pytest.raises(LoraError, match=r"c.txt is no LoRA.*Give"):
        load_lora(tmp_path / "c.txt")
    with pytest.raises(LoraError, match=r"b.pt is no safetensors file.*python -m mova lora"):
        read_lora(tmp_path / "b.pt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format_version": "2"}, "of version 2.*reads 1.*Update"),
        ({"rank": "many"}, "header can't be understood"),
        ({"trigger_words": "rain"}, "header can't be understood"),
    ],
)
def test_headers_that_arent_understood(playground: Path, tmp_path: Path, change: dict[str, str], reason: str) -> None:
    file = write(playground, tmp_path / "a.safetensors")
    save_file(load_file(file), file, {**read_metadata(file), **change})
    for reading in (read_lora, load_lora):
        with pytest.raises(LoraError, match=reason):
            reading(file)


def test_saving_is_whole_or_not_at_all(playground: Path, tmp_path: Path, pairs: Pairs) -> None:
    with pytest.raises(LoraError, match="can't be written"):
        save_lora(tmp_path / "absent" / "a.safetensors", pairs, base_of(playground))
    with pytest.raises(LoraError, match="nothing to save"):
        save_lora(tmp_path / "a.safetensors", {}, base_of(playground))
    assert not list(tmp_path.iterdir())
    strided = {"audio_dit": {"blocks.0.ffn.0": Pair("x", torch.ones(64, 2).t(), torch.ones(2, 256).t(), 1.0)}}
    save_lora(tmp_path / "a.safetensors", strided, base_of(playground))
    assert same(load_lora(tmp_path / "a.safetensors"), strided)
