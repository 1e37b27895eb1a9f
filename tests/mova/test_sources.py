from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mova.checkpoint import load_component
from mova.layout import CheckpointError, read_header, read_offsets, read_weights
from mova.sources import Extent, FileSource, mapped, stored_extents
from mova.streaming import LayerStream
from tests.standin import StandIn

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.uint8, torch.bool)


class Weights(nn.Module):
    """A tensor of each kind, loaded from a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        for name, tensor in load_file(file).items():
            self.register_buffer(name, tensor)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {str(index): (torch.randn(5, 7) * 40).to(dtype) for index, dtype in enumerate(DTYPES)}
    tensors |= {"scalar": torch.tensor(0.25), "empty": torch.empty(0, 3)}
    save_file(tensors, tmp_path / "weights.safetensors", {"format": "pt"})
    return tmp_path / "weights.safetensors"


def filled(source: object, home: Tensor) -> Tensor:
    place = torch.full_like(home, 1)
    source(home, place)  # type: ignore[operator]
    return place.reshape(-1).view(torch.uint8)


def test_offsets_are_where_the_bytes_lie(file: Path) -> None:
    content, offsets = file.read_bytes(), read_offsets(file)
    assert {name: tensor for name, (tensor, _) in offsets.items()} == read_header(file)
    for name, tensor in load_file(file).items():
        start = offsets[name][1]
        assert content[start : start + tensor.nbytes] == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("keep_cached", [True, False])
def test_files_give_what_is_mapped(file: Path, keep_cached: bool) -> None:
    module = Weights(file)
    extents = stored_extents(module, [file])
    assert len(extents) == len(DTYPES) + 1  # nothing is read of what is empty
    for buffer in module.buffers():
        direct, there = filled(FileSource(extents, keep_cached=keep_cached), buffer), filled(mapped, buffer)
        assert torch.equal(direct, there)


@pytest.mark.parametrize("keep_cached", [True, False])
def test_pages_are_dropped_if_they_shall_be(file: Path, keep_cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux is told")
    told: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, _start, _length, advice: told.append(advice))
    module = Weights(file)
    filled(FileSource(stored_extents(module, [file]), keep_cached=keep_cached), module.get_buffer("0"))
    assert told == [os.POSIX_FADV_SEQUENTIAL, *([] if keep_cached else [os.POSIX_FADV_DONTNEED])]


def test_what_isnt_in_the_file_as_it_is_in_memory_comes_from_memory(file: Path) -> None:
    module = Weights(file)
    module.get_buffer("0").data = torch.randn(5, 7).half()  # another dtype
    module.get_buffer("2").data = torch.randn(7, 5).half()  # another shape
    module.get_buffer("1").data = module.get_buffer("1").t().contiguous().t()  # another order
    module.register_buffer("more", torch.randn(3))
    extents = stored_extents(module, [file])
    assert len(extents) == len(DTYPES) + 1 - 3
    file.unlink()
    source = FileSource(extents)
    for name in ("0", "1", "2", "more"):
        home = module.get_buffer(name).data
        assert torch.equal(filled(source, home), filled(mapped, home))


def test_a_file_that_is_gone_or_changed_is_named(file: Path) -> None:
    module = Weights(file)
    source = FileSource(stored_extents(module, [file]))
    home = module.get_buffer("0")
    os.utime(file, ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors was changed while it was in use"):
        filled(source, home)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is gone") as caught:
        filled(source, home)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    file.mkdir()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors can't be read"):
        filled(source, home)


def test_a_file_that_is_cut_short_is_named(file: Path) -> None:
    module = Weights(file)
    extents = stored_extents(module, [file])
    os.truncate(file, file.stat().st_size - 100)
    home = module.get_buffer("0")
    with pytest.raises(CheckpointError, match="was changed"):
        filled(FileSource(extents), home)
    about = file.stat()
    short = Extent(file, about.st_size - 10, (about.st_size, about.st_mtime_ns))  # cut once it was looked at
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is cut short"):
        filled(FileSource({(home.data_ptr(), home.nbytes): short}), home)


def test_a_missing_file_is_told_at_once(file: Path) -> None:
    module = Weights(file)
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        stored_extents(module, [file])


@pytest.mark.parametrize("keep_cached", [True, False])
def test_a_checkpoint_is_streamed_from_its_files(playground: Path, keep_cached: bool) -> None:
    """Every weight is read, none is touched at home: a home that was overwritten isn't noticed."""
    tower = load_component(playground, "video_dit")
    expected = {name: weight.clone() for name, weight in tower.named_parameters()}
    extents = stored_extents(tower, read_weights(playground / "video_dit"))
    assert len(extents) == len(expected)
    for weight in tower.parameters():
        clone = weight.data.clone().fill_(7)
        key = (weight.data_ptr(), weight.nbytes)
        extents[clone.data_ptr(), clone.nbytes] = extents.pop(key)
        weight.data = clone
    packs = {index: list(block.parameters()) for index, block in enumerate(tower.blocks)}
    device = StandIn()
    stream = LayerStream(packs, device, slots=2, buffers=2, source=FileSource(extents, keep_cached=keep_cached))
    stream.follow([*packs, *packs])
    for index in [*packs, *packs]:
        with stream.lend(index):
            for name, weight in tower.blocks[index].named_parameters():
                assert torch.equal(weight, expected[f"blocks.{index}.{name}"])
    stream.close()
    device.check()


def test_a_file_that_vanishes_while_it_streams_is_heard_of(file: Path) -> None:
    module = Weights(file)
    source = FileSource(stored_extents(module, [file]))
    packs = {name: [buffer] for name, buffer in module.named_buffers()}
    stream = LayerStream(packs, StandIn(), slots=2, buffers=2, source=source)
    stream.follow(["0", "1", "2", "3"])
    with stream.lend("0"):
        pass
    file.unlink()
    stream.follow(["4", "5"])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is gone"), stream.lend("4"):
        pass
    stream.close()


def test_a_view_at_the_same_address_is_another_weight() -> None:
    """The first half of a tensor has its address."""
    whole = torch.arange(8.0)
    source = FileSource({(whole.data_ptr(), whole.nbytes): Extent(Path("nowhere"), 0, (0, 0))})
    assert torch.equal(filled(source, whole[:4]), filled(mapped, whole[:4]))
    with pytest.raises(CheckpointError):
        filled(source, whole)
