from __future__ import annotations

import mmap

import pytest
import torch
from torch import nn

from mova.lanes import CudaLane, pages
from mova.streaming import LayerStream

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("nbytes", [1, mmap.PAGESIZE, 3 * mmap.PAGESIZE + 5])
def test_pages_begin_and_end_with_a_page_of_their_own(nbytes: int) -> None:
    memory, other = pages(nbytes), pages(nbytes)
    assert (memory.dtype, memory.numel()) == (torch.uint8, nbytes)
    assert memory.data_ptr() % mmap.PAGESIZE == 0
    assert abs(memory.data_ptr() - other.data_ptr()) >= mmap.PAGESIZE
    memory.fill_(7)
    assert not other.any()


def test_a_host_without_so_much_memory_says_so() -> None:
    with pytest.raises(MemoryError, match="bytes to copy weights from"):
        pages(1 << 60)


@pytest.fixture
def layers() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(1024, 1024) for _ in range(8)]


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize(("slots", "buffers"), [(2, 2), (3, 8), (8, 2)])
@torch.no_grad()
def test_streamed_is_resident_on_a_real_device(layers: list[nn.Linear], slots: int, buffers: int) -> None:
    device = torch.device("cuda")
    weights = [[weight.to(device) for weight in layer.parameters()] for layer in layers]
    x = start = torch.randn(4096, 1024, device=device)
    order = list(range(8)) * 20
    for index in order:
        x = nn.functional.linear(x, *weights[index]).tanh()
    expected = x
    lane = CudaLane(device)
    stream = LayerStream(
        {index: list(layer.parameters()) for index, layer in enumerate(layers)}, lane, slots=slots, buffers=buffers
    )
    x = start
    torch.cuda.set_sync_debug_mode("error")
    try:
        stream.follow(order)
        for index in order:
            with stream.lend(index):
                x = layers[index](x).tanh()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.close()
    assert torch.equal(x, expected)
    assert not lane.notes
    assert lane.pinned_bytes == 0
    assert stream.stats.pinned_bytes <= 1.02 * buffers * 4 * (1024 * 1024 + 1024)


@pytest.mark.gpu
@cuda
def test_refused_pinning_is_noted_and_leaves_no_error() -> None:
    lane = CudaLane(torch.device("cuda"))
    buffer = lane.buffer(100)
    lane._pin(buffer)  # a second time
    assert "refused" in lane.notes[0]
    assert torch.ones(3, device="cuda").sum().item() == 3
    plain = lane.buffer(100)
    assert not plain.is_pinned()
    assert len(lane.notes) == 1
    lane.release(plain)
    lane.release(buffer)
    assert lane.pinned_bytes == 0
