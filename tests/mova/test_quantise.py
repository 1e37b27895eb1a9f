"""8-bit weights: what is rounded and how far, files made whole or not at all, layers that multiply with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from mova import quantise as making
from mova.eightbit import (
    COMPONENTS,
    KINDS,
    QuantiseError,
    default_store,
    is_current,
    is_matrix,
    outdated,
    read_metadata,
    reduced_bytes,
    room_needed,
    weights_file,
)
from mova.layout import read_header, read_weights
from mova.quantise import ROW_ELEMENTS, dequantise, ensure_quantised, quantise
from mova.quantised import load_quantised

CPU = torch.device("cpu")
# The most that a rounded weight is off: half a step of int8; half of the last of four bits (a share of the weight
# itself), or half of the smallest step of float8.
BOUNDS = {"int8": (0.0, 0.5), "fp8": (2.0**-4, 2.0**-10)}
KIND = pytest.mark.parametrize("kind", KINDS)


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def checkpoint(playground: Path, tmp_path: Path) -> Path:
    """A playground of the test's own."""
    return shutil.copytree(playground, tmp_path / "own")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below, but for locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


# What rounding does


@KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_off_by_half_a_step_at_most(kind: str, dtype: torch.dtype) -> None:
    weight = (random(64, 128) * torch.logspace(-4, 4, 64).unsqueeze(1)).to(dtype)
    eight, scale = quantise(weight, kind)
    share, steps = BOUNDS[kind]
    off = (dequantise(eight, scale, torch.float32) - weight.float()).abs()
    assert (off <= (share * weight.float().abs() + steps * scale.unsqueeze(1)) * (1 + 1e-5)).all()


@KIND
def test_a_row_s_largest_weight_takes_the_whole_range(kind: str) -> None:
    eight, _ = quantise(random(32, 256), kind)
    largest = {"int8": 127, "fp8": 448}[kind]
    peaks = eight.float().abs().amax(dim=1)
    assert (peaks <= largest).all()
    assert (peaks >= largest * 0.93).all()  # the scale was rounded up to a bfloat16, and float8 has few numbers there


@KIND
def test_a_scale_is_the_same_number_in_bfloat16(kind: str) -> None:
    _, scale = quantise(random(500, 8), kind)
    assert torch.equal(scale.bfloat16().float(), scale)


@KIND
def test_what_fits_in_8_bits_stays_what_it_is(kind: str) -> None:
    weight = (
        torch.tensor([[127.0, -127.0, 1.0, 0.0], [0.0] * 4]) if kind == "int8" else torch.tensor([[448.0, -2, 0, 1]])
    )
    assert torch.equal(dequantise(*quantise(weight, kind), torch.bfloat16).float(), weight)


def test_int8_is_nearer_than_float8() -> None:
    weight = random(64, 512)
    off = {kind: (dequantise(*quantise(weight, kind), torch.float32) - weight).norm() for kind in KINDS}
    assert off["int8"] < 0.4 * off["fp8"] < 0.02 * weight.norm()


# The files


@KIND
def test_the_file_holds_what_quantising_each_matrix_gives(playground: Path, stores: dict[str, Path], kind: str) -> None:
    for name in COMPONENTS:
        stored = load_file(weights_file(stores[kind], kind, name))
        whole = load_file(next(iter(read_weights(playground / name))))
        assert {key for key in whole if is_matrix(name, key)} == {key for key in stored if key.endswith(".weight")}
        for key in (key for key in stored if key.endswith(".weight")):
            weight, scale = quantise(whole[key], kind)
            assert torch.equal(stored[key].view(torch.uint8), weight.view(torch.uint8))
            assert torch.equal(stored[f"{key}_scale"], scale)


@pytest.mark.parametrize("elements", [1, 500, ROW_ELEMENTS])
def test_however_many_rows_are_read_at_once_the_file_is_the_same(
    playground: Path, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    monkeypatch.setattr(making, "ROW_ELEMENTS", elements)
    ensure_quantised(playground, "int8", ["dual_tower_bridge"], store=tmp_path)
    files = [weights_file(store, "int8", "dual_tower_bridge") for store in (tmp_path, stores["int8"])]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_no_more_than_a_few_rows_are_in_memory(
    playground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "ROW_ELEMENTS", 1000)
    sizes: list[int] = []
    monkeypatch.setattr(making, "quantise", lambda rows, kind: sizes.append(rows.numel()) or quantise(rows, kind))
    ensure_quantised(playground, "int8", ["video_dit"], store=tmp_path)
    assert max(sizes) <= 1000


@KIND
def test_files_are_as_large_as_was_said(playground: Path, tmp_path: Path, kind: str) -> None:
    said = room_needed(playground, kind, store=tmp_path)
    assert said == sum(
        reduced_bytes(name, header) for name in COMPONENTS for header in read_weights(playground / name).values()
    )
    heard: list[tuple[int, int]] = []
    ensure_quantised(playground, kind, store=tmp_path, progress=lambda *step: heard.append(step))
    assert heard[-1] == (said, said)
    assert heard == sorted(heard)
    headers = sum(8 + int.from_bytes(data[:8], "little") for data in files(tmp_path).values())
    assert sum(map(len, files(tmp_path).values())) == said + headers
    assert room_needed(playground, kind, store=tmp_path) == 0


def test_shards_are_read_where_their_tensors_lie(checkpoint: Path, stores: dict[str, Path]) -> None:
    folder = checkpoint / "video_dit"
    (file,) = read_weights(folder)
    tensors = load_file(file)
    file.unlink()
    shards: dict[str, dict[str, Tensor]] = {"b.safetensors": {}, "a.safetensors": {}}
    for number, key in enumerate(sorted(tensors)):
        shards[("a.safetensors", "b.safetensors")[number % 2]][key] = tensors[key]
    for shard, part in shards.items():
        save_file(part, folder / shard)
    weight_map = {key: shard for shard, part in shards.items() for key in part}
    (folder / f"{file.name}.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    store = ensure_quantised(checkpoint, "int8", ["video_dit"])
    made, expected = (load_file(weights_file(place, "int8", "video_dit")) for place in (store, stores["int8"]))
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[key], expected[key]) for key in made)


def test_beside_the_checkpoint_unless_told_otherwise(checkpoint: Path) -> None:
    store = ensure_quantised(checkpoint, "int8", ["dual_tower_bridge"])
    assert store == default_store(checkpoint) == checkpoint / "quantised"
    assert is_current(checkpoint, "int8", "dual_tower_bridge")
    assert outdated(checkpoint, "int8") == ("video_dit", "video_dit_2")
    assert outdated(checkpoint, "fp8") == COMPONENTS


def test_what_is_current_is_left_alone(checkpoint: Path) -> None:
    store = ensure_quantised(checkpoint, "int8")
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
    heard: list[tuple[int, int]] = []
    ensure_quantised(checkpoint, "int8", progress=lambda *step: heard.append(step))
    assert not heard
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")} == times


def test_a_changed_source_makes_its_weights_stale(checkpoint: Path) -> None:
    store = ensure_quantised(checkpoint, "int8")
    (file,) = read_weights(checkpoint / "video_dit_2")
    stat = file.stat()
    tensors = {key: -tensor for key, tensor in load_file(file).items()}
    save_file(tensors, file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert outdated(checkpoint, "int8") == ("video_dit_2",)
    with pytest.raises(QuantiseError, match=r"video_dit_2 .* Make them again"):
        load_quantised(checkpoint, "video_dit_2", "int8")
    ensure_quantised(checkpoint, "int8")
    key = "blocks.0.ffn.0.weight"
    made = load_file(weights_file(store, "int8", "video_dit_2"))[key]
    assert torch.equal(made, quantise(tensors[key], "int8")[0])


def test_weights_of_another_version_are_made_again(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_quantised(checkpoint, "int8", ["dual_tower_bridge"])
    monkeypatch.setattr("mova.eightbit.VERSION", 2)
    assert not is_current(checkpoint, "int8", "dual_tower_bridge")


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "gone"])
def test_damaged_weights_are_made_again(checkpoint: Path, damage: str) -> None:
    file = weights_file(ensure_quantised(checkpoint, "int8", ["dual_tower_bridge"]), "int8", "dual_tower_bridge")
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": whole[:-1], "header": b"\xff" * 64, "empty": b""}[damage])
    assert not is_current(checkpoint, "int8", "dual_tower_bridge")
    ensure_quantised(checkpoint, "int8", ["dual_tower_bridge"])
    assert file.read_bytes() == whole


# Interrupted, without room, without leave


def test_a_cancel_at_any_time_leaves_whole_files_only(
    playground: Path, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "ROW_ELEMENTS", 20_000)
    expected, calls = files(stores["int8"] / "int8"), 0

    def count(*_: int) -> None:
        nonlocal calls
        calls += 1

    ensure_quantised(playground, "int8", store=tmp_path / "all", progress=count)
    total = calls
    assert total > 20
    for stop_at in range(1, total + 1, total // 6):
        calls, store = 0, tmp_path / str(stop_at)

        def stop(*_: int, stop_at: int = stop_at) -> None:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise Stop

        with pytest.raises(Stop):
            ensure_quantised(playground, "int8", store=store, progress=stop)
        left = files(store / "int8")
        assert left.items() <= expected.items()
        calls = 0
        ensure_quantised(playground, "int8", store=store, progress=count)
        assert files(store / "int8") == expected
        assert calls < total or not left  # what was done isn't done again


def test_what_a_killed_maker_left_is_cleared(playground: Path, stores: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "video_dit.safetensors.part").write_bytes(b"half")
    ensure_quantised(playground, "int8", ["dual_tower_bridge"], store=tmp_path)
    assert set(files(tmp_path / "int8")) == {"dual_tower_bridge.safetensors"}


def test_too_little_room_is_said_before_anything_is_written(
    playground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(QuantiseError, match=r"need 0\.0 GB .* Make 0\.0 GB of room, or choose another folder"):
        ensure_quantised(playground, "int8", store=tmp_path)
    assert not files(tmp_path)


WITH_A_LIMIT = """
import resource, signal, sys
from pathlib import Path
from mova.eightbit import QuantiseError
from mova.quantise import ensure_quantised
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    ensure_quantised(Path(sys.argv[1]), "int8", store=Path(sys.argv[2]))
except QuantiseError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files there")
def test_a_disk_that_fills_up_meanwhile_leaves_nothing_half_done(playground: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITH_A_LIMIT, str(playground), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) in said
    assert "give it room, or choose another one" in said
    assert not files(tmp_path)
    ensure_quantised(playground, "int8", store=tmp_path)
    assert not outdated(playground, "int8", store=tmp_path)


def test_a_folder_that_can_t_be_made_is_named_with_what_to_do(playground: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(QuantiseError, match=r"file/store.*Make that folder writable.*or choose another one"):
        ensure_quantised(playground, "int8", store=tmp_path / "file" / "store")


def test_a_folder_that_may_only_be_read(playground: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o555)
    if os.access(store, os.W_OK):
        pytest.skip("who runs this test may write everywhere")
    with pytest.raises(QuantiseError, match="Make that folder writable"):
        ensure_quantised(playground, "int8", store=store)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_aren_t_numbers_are_named(checkpoint: Path, value: float) -> None:
    (file,) = read_weights(checkpoint / "dual_tower_bridge")
    tensors = load_file(file)
    key = "audio_to_video_conditioners.1.inner.k.weight"
    tensors[key][3, 5] = value
    save_file(tensors, file)
    with pytest.raises(QuantiseError, match=f"'{key}' has weights that aren't numbers"):
        ensure_quantised(checkpoint, "int8", ["dual_tower_bridge"])
    assert not list(default_store(checkpoint).rglob("*.safetensors*"))


def test_weights_that_are_small_numbers_already_are_refused(checkpoint: Path) -> None:
    (file,) = read_weights(checkpoint / "dual_tower_bridge")
    save_file({key: tensor.to(torch.float8_e4m3fn) for key, tensor in load_file(file).items()}, file)
    with pytest.raises(QuantiseError, match=r"F8_E4M3.*F32, BF16, F16"):
        ensure_quantised(checkpoint, "int8", ["dual_tower_bridge"])


def test_a_source_that_changes_meanwhile_is_noticed(checkpoint: Path) -> None:
    (file,) = read_weights(checkpoint / "dual_tower_bridge")
    with pytest.raises(QuantiseError, match="changed meanwhile"):
        ensure_quantised(
            checkpoint, "int8", ["dual_tower_bridge"], progress=lambda done, _: os.utime(file, ns=(done, done))
        )


def test_two_makers_take_turns(playground: Path, stores: dict[str, Path], tmp_path: Path) -> None:
    """Who comes second waits, can be heard waiting, and finds the weights made."""
    (tmp_path / "int8").mkdir()
    first = FileLock(tmp_path / "int8" / "making.lock")
    first.acquire()
    heard: list[tuple[int, int]] = []

    def hear(*step: int) -> None:
        heard.append(step)  # type: ignore[arg-type]
        if first.is_locked:
            shutil.copytree(stores["int8"] / "int8", tmp_path / "int8", dirs_exist_ok=True)
            first.release()

    ensure_quantised(playground, "int8", store=tmp_path, progress=hear)
    assert heard == [(0, 1)]
    assert files(tmp_path / "int8") == files(stores["int8"] / "int8")


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"'int4'.*int8, fp8"):
        weights_file(Path(), "int4", "video_dit")


def test_the_header_is_one_that_others_read(stores: dict[str, Path]) -> None:
    file = weights_file(stores["fp8"], "fp8", "video_dit")
    assert {tensor.dtype for tensor in read_header(file).values()} == {"F32", "F8_E4M3"}
    said = read_metadata(file)
    assert (said["kind"], said["version"]) == ("fp8", "1")
    assert list(json.loads(said["source"])) == ["diffusion_pytorch_model.safetensors"]
