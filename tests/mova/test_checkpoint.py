import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mova.checkpoint import build_component, load_component, load_scheduler, load_tokenizer
from mova.layout import COMPONENTS, WEIGHTED, CheckpointError, inspect_checkpoint, read_header
from mova.pipeline import MovaPipeline

RELEASED = json.loads((Path(__file__).parent / "released.json").read_text(encoding="utf-8"))
VIDEO_WEIGHTS = Path("video_dit") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(playground: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(playground, tmp_path / "copy"))


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_released_configurations_have_the_published_names_shapes_and_counts(name: str) -> None:
    published = RELEASED[name]
    module = build_component(name, published["config"])
    shapes = {key: list(tensor.shape) for key, tensor in module.state_dict().items()}
    shapes.pop("encoder.embed_tokens.weight", None)  # shared.weight by another name; not in the file
    listing = "\n".join(f"{key} {shape}" for key, shape in sorted(shapes.items()))
    assert all(parameter.is_meta for parameter in module.parameters())
    assert len(shapes) == published["tensors"]
    assert sum(parameter.numel() for parameter in module.parameters()) == published["parameters"]
    assert hashlib.sha256(listing.encode()).hexdigest() == published["digest"]


def test_the_released_configuration_is_written_back_as_it_was(tmp_path: Path) -> None:
    for name in ("video_dit", "audio_dit", "dual_tower_bridge", "audio_vae", "video_vae"):
        build_component(name, RELEASED[name]["config"]).save_config(tmp_path / name)
        written = json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))
        assert _without_version(written) == _without_version(RELEASED[name]["config"])


def test_a_saved_checkpoint_is_the_one_that_was_loaded_bit_for_bit(
    pipeline: MovaPipeline, playground: Path, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    originals = sorted(path.relative_to(playground) for path in playground.rglob("*") if path.is_file())
    saved = sorted(path.relative_to(tmp_path / "saved") for path in (tmp_path / "saved").rglob("*") if path.is_file())
    assert saved == originals
    for path in originals:
        before, after = playground / path, tmp_path / "saved" / path
        if path.suffix == ".safetensors":
            _assert_same_tensors(before, after)
        elif path.suffix == ".json":
            assert json.loads(before.read_text(encoding="utf-8")) == json.loads(after.read_text(encoding="utf-8")), path
        else:
            assert before.read_bytes() == after.read_bytes(), path


def test_the_files_carry_the_originals_names(playground: Path) -> None:
    index = json.loads((playground / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "MOVA"
    assert {name: tuple(index[name]) for name in COMPONENTS} == COMPONENTS
    with safe_open(playground / VIDEO_WEIGHTS, framework="pt") as weights:
        assert weights.metadata() == {"format": "pt"}
    text = read_header(playground / "text_encoder" / "model.safetensors")
    assert "shared.weight" in text
    assert "encoder.embed_tokens.weight" not in text
    for path in playground.rglob("*config.json"):
        assert str(playground.parent) not in path.read_text(encoding="utf-8")


def test_a_bfloat16_checkpoint_is_saved_as_it_was(playground: Path, tmp_path: Path) -> None:
    narrow = MovaPipeline.from_pretrained(playground, device="cpu", dtype="bfloat16")
    narrow.save_pretrained(tmp_path / "narrow")
    file = tmp_path / "narrow" / "audio_vae" / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor.bfloat16() for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    MovaPipeline.from_pretrained(tmp_path / "narrow", device="cpu").save_pretrained(tmp_path / "again")
    for path in (tmp_path / "narrow").rglob("*.safetensors"):
        _assert_same_tensors(path, tmp_path / "again" / path.relative_to(tmp_path / "narrow"))
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}


def test_the_text_encoders_configuration_is_kept(copy: Path, tmp_path: Path) -> None:
    released = {key: RELEASED["text_encoder"]["config"][key] for key in ("tie_word_embeddings", "output_past")}
    _change_json(copy / "text_encoder" / "config.json", **released)
    MovaPipeline.from_pretrained(copy, device="cpu").save_pretrained(tmp_path / "saved")
    before, after = ((root / "text_encoder" / "config.json").read_text() for root in (copy, tmp_path / "saved"))
    assert json.loads(before) == json.loads(after)


def test_saving_replaces_the_shards_of_an_earlier_checkpoint(pipeline: MovaPipeline, tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "video_dit"
    folder.mkdir(parents=True)
    (folder / "diffusion_pytorch_model-00001-of-00002.safetensors").write_bytes(b"old")
    _write_json(folder / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": {"x": "old"}})
    pipeline.save_pretrained(tmp_path / "saved")
    assert inspect_checkpoint(tmp_path / "saved").problems == ()
    assert not list(folder.glob("*-of-*"))


def test_a_checkpoint_is_not_saved_over_itself(copy: Path) -> None:
    with pytest.raises(CheckpointError, match="another folder"):
        MovaPipeline.from_pretrained(copy, device="cpu").save_pretrained(copy)
    MovaPipeline.from_pretrained(copy, device="cpu")


def test_an_embedding_that_is_stored_twice_is_read_once(copy: Path) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"].clone()}, file)
    assert load_component(copy, "text_encoder")


def test_files_that_are_links_are_read(playground: Path, tmp_path: Path) -> None:
    """As a Hugging Face cache has them."""
    linked = tmp_path / "linked"
    for path in playground.rglob("*"):
        if path.is_file():
            (linked / path.relative_to(playground)).parent.mkdir(parents=True, exist_ok=True)
            (linked / path.relative_to(playground)).symlink_to(path)
    assert inspect_checkpoint(linked).problems == ()
    MovaPipeline.from_pretrained(linked, device="cpu")


def test_sharded_weights_are_read(copy: Path, playground: Path) -> None:
    whole = load_file(copy / VIDEO_WEIGHTS)
    (copy / VIDEO_WEIGHTS).unlink()
    shards = {"a.safetensors": list(whole)[::2], "b.safetensors": list(whole)[1::2]}
    for file, keys in shards.items():
        save_file({key: whole[key] for key in keys}, copy / "video_dit" / file, metadata={"format": "pt"})
    weight_map = {key: file for file, keys in shards.items() for key in keys}
    _write_json(copy / f"{VIDEO_WEIGHTS}.index.json", {"weight_map": weight_map})
    for one, other in zip(
        load_component(copy, "video_dit").parameters(),
        load_component(playground, "video_dit").parameters(),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert inspect_checkpoint(copy).problems == ()


@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_weights_get_the_dtype_that_is_asked_for(
    playground: Path, dtype: torch.dtype | None, expected: torch.dtype
) -> None:
    assert load_component(playground, "audio_dit", dtype).dtype is expected
    assert load_component(playground, "audio_vae", dtype).dtype is torch.float32


def test_the_text_encoder_reads_the_shared_embedding_whatever_its_config_says(copy: Path) -> None:
    config = json.loads((copy / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    _write_json(copy / "text_encoder" / "config.json", {**config, "tie_word_embeddings": False})
    encoder: Any = load_component(copy, "text_encoder")
    stored = load_file(copy / "text_encoder" / "model.safetensors")["shared.weight"]
    assert torch.equal(encoder.encoder.embed_tokens.weight, stored)


def _shorten(root: Path) -> None:
    data = (root / VIDEO_WEIGHTS).read_bytes()
    (root / VIDEO_WEIGHTS).write_bytes(data[: len(data) // 2])


def _empty(root: Path) -> None:
    (root / VIDEO_WEIGHTS).write_bytes(b"")


def _scribble(root: Path) -> None:
    (root / VIDEO_WEIGHTS).write_bytes(b"\x10\0\0\0\0\0\0\0not a header, no.")


def _drop_tensor(root: Path) -> None:
    tensors = load_file(root / VIDEO_WEIGHTS)
    del tensors["blocks.1.ffn.0.weight"]
    save_file(tensors, root / VIDEO_WEIGHTS)


def _reshape_tensor(root: Path) -> None:
    tensors = load_file(root / VIDEO_WEIGHTS)
    tensors["blocks.1.ffn.0.bias"] = torch.zeros(3)
    save_file(tensors, root / VIDEO_WEIGHTS)


def _add_tensor(root: Path) -> None:
    save_file({**load_file(root / VIDEO_WEIGHTS), "img_emb.proj": torch.zeros(3)}, root / VIDEO_WEIGHTS)


def _lose_shard(root: Path) -> None:
    _write_json(root / f"{VIDEO_WEIGHTS}.index.json", {"weight_map": {"x": "part-2.safetensors"}})


def _unknown_class(root: Path) -> None:
    _change_json(root / "model_index.json", audio_vae=["mova.diffusion.models.dac_vae", "EnCodec"])


def _unknown_strategy(root: Path) -> None:
    _change_json(root / "dual_tower_bridge" / "config.json", interaction_strategy="sometimes")


def _change_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = (root / VIDEO_WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
        (root / VIDEO_WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])

    return damage


def _without_shape(header: dict[str, Any]) -> dict[str, Any]:
    del header["blocks.1.ffn.0.bias"]["shape"]
    return header


def _set(file: str, **changes: Any) -> Callable[[Path], None]:
    return lambda root: _change_json(root / file, **changes)


def _weight_map_of(value: Any) -> Callable[[Path], None]:
    return lambda root: _write_json(root / f"{VIDEO_WEIGHTS}.index.json", {"weight_map": value})


DAMAGE: list[tuple[Callable[[Path], Any], tuple[str, ...]]] = [
    (shutil.rmtree, ("not a folder",)),
    (lambda root: (root / "model_index.json").unlink(), ("model_index.json is missing",)),
    (lambda root: (root / "model_index.json").write_text("{"), ("model_index.json", "JSON")),
    (_unknown_class, ("model_index.json", "audio_vae", "EnCodec", "DAC")),
    (lambda root: shutil.rmtree(root / "audio_vae"), ("audio_vae", "config.json is missing")),
    (lambda root: (root / "video_dit" / "config.json").unlink(), ("video_dit", "config.json is missing")),
    (lambda root: (root / VIDEO_WEIGHTS).unlink(), (str(VIDEO_WEIGHTS), "is missing")),
    (lambda root: (root / "tokenizer" / "tokenizer.json").unlink(), ("tokenizer.json is missing",)),
    (_lose_shard, ("part-2.safetensors", "is missing")),
    (_shorten, (str(VIDEO_WEIGHTS), "cut short", "Download")),
    (_empty, (str(VIDEO_WEIGHTS), "cut short")),
    (_scribble, (str(VIDEO_WEIGHTS), "header")),
    (_drop_tensor, (str(VIDEO_WEIGHTS), "blocks.1.ffn.0.weight", "(384, 96)", "missing")),
    (_reshape_tensor, (str(VIDEO_WEIGHTS), "blocks.1.ffn.0.bias", "(3,)", "(384,)")),
    (_add_tensor, (str(VIDEO_WEIGHTS), "img_emb.proj")),
    (_unknown_strategy, ("dual_tower_bridge", "config.json", "sometimes", "full")),
    (_change_header(lambda _: []), (str(VIDEO_WEIGHTS), "header")),
    (_change_header(_without_shape), (str(VIDEO_WEIGHTS), "header", "shape")),
    (_weight_map_of([1]), ("index.json", "weight_map")),
    (_weight_map_of({"x": 3}), ("index.json", "weight_map")),
    (_weight_map_of({"absent": VIDEO_WEIGHTS.name}), (VIDEO_WEIGHTS.name, "'absent' is missing")),
    (_set("video_dit/config.json", num_heads=0), ("video_dit", "config.json")),
    (_set("video_dit/config.json", patch_size=[1, 2]), ("video_dit", "config.json")),
    (_set("video_dit/config.json", dim=-96), ("video_dit", "config.json")),
    (_set("dual_tower_bridge/config.json", head_dim=0), ("dual_tower_bridge", "config.json")),
    (_set("text_encoder/config.json", d_model="wide"), ("text_encoder", "config.json")),
    (_set("scheduler/scheduler_config.json", shift="5"), ("scheduler_config.json",)),
    (_set("model_index.json", boundary_ratio="high"), ("model_index.json", "boundary_ratio", "'high'")),
    (_set("model_index.json", boundary_ratio=None), ("model_index.json", "boundary_ratio")),
    (_set("tokenizer/tokenizer_config.json", pad_token=None), ("tokenizer_config.json", "pad_token")),
    (lambda root: (root / "tokenizer" / "tokenizer.json").write_text("{}"), ("tokenizer.json",)),
    (lambda root: (root / "tokenizer" / "tokenizer_config.json").unlink(), ("tokenizer_config.json is missing",)),
]


# Words of the sentences that need no more than files and headers; names and shapes are checked on loading.
TOLD_BY_FILES = {"folder", "is", "JSON", "EnCodec", "cut", "header", "weight_map", "boundary_ratio"}


@pytest.mark.parametrize(("damage", "says"), DAMAGE)
def test_whatever_is_wrong_is_one_sentence_with_file_key_and_remedy(
    copy: Path, damage: Callable[[Path], Any], says: tuple[str, ...]
) -> None:
    damage(copy)
    with pytest.raises(CheckpointError) as caught:
        MovaPipeline.from_pretrained(copy, device="cpu")
    for part in says:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [damage for damage, says in DAMAGE if TOLD_BY_FILES & set(" ".join(says).split())])
def test_inspecting_tells_what_files_and_headers_can(copy: Path, damage: Callable[[Path], Any]) -> None:
    damage(copy)
    (told,) = inspect_checkpoint(copy).problems
    with pytest.raises(CheckpointError) as caught:
        MovaPipeline.from_pretrained(copy, device="cpu")
    assert str(caught.value) == told


def test_inspecting_counts_what_is_there(playground: Path) -> None:
    info = inspect_checkpoint(playground)
    assert info.problems == ()
    assert info.playground
    for component in info.components:
        if component.name in WEIGHTED:
            module = load_component(playground, component.name)
            assert component.parameters == sum(parameter.numel() for parameter in module.parameters())
            assert component.dtypes == ("F32",)


def test_the_size_a_checkpoint_was_made_for(copy: Path) -> None:
    for name, size in (("checkpoints/MOVA-720p", (1280, 720)), ("checkpoints/MOVA-360p", (640, 352))):
        _change_json(copy / "model_index.json", _name_or_path=name)
        assert inspect_checkpoint(copy).sizes == (size, size[::-1])
        assert not inspect_checkpoint(copy).playground


def test_scheduler_and_tokenizer_load(playground: Path) -> None:
    assert load_scheduler(playground).config["extra_one_step"] is True
    tokenizer = load_tokenizer(playground)
    assert tokenizer("the red ball")["input_ids"][-1] == tokenizer.eos_token_id


def _assert_same_tensors(before: Path, after: Path) -> None:
    one, other = load_file(before), load_file(after)
    assert one.keys() == other.keys(), before
    assert all(torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one), before


def _without_version(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "_diffusers_version"}


def _change_json(path: Path, **changes: Any) -> None:
    _write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
