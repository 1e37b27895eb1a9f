"""The meter: what it counts is checked against arithmetic done by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from mova.meter import FUSED, Meter

ROWS, WIDTH = 6, 8
SIZE = ROWS * WIDTH * 4  # bytes of a float32 [ROWS, WIDTH]


@pytest.fixture(params=["cpu", "meta"])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def halved_sum(x: Tensor, y: Tensor) -> Tensor:
    """As the functions of mova.fused are made: several operations, one for those who count."""
    if has_torch_function((x, y)):
        return handle_torch_function(halved_sum, (x, y), x, y)  # type: ignore[no-any-return]
    return (x + y) / 2


def add_into(x: Tensor, y: Tensor) -> Tensor:
    if has_torch_function((x, y)):
        return handle_torch_function(add_into, (x, y), x, y)  # type: ignore[no-any-return]
    return x.add_(y * 2)


def copied_twice(x: Tensor, *, out: Tensor) -> Tensor:
    if has_torch_function((x, out)):
        return handle_torch_function(copied_twice, (x, out), x, out=out)  # type: ignore[no-any-return]
    return out.copy_(x).copy_(x)


halved_sum.__module__ = add_into.__module__ = copied_twice.__module__ = FUSED


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_matrix_products_are_two_flops_a_multiply_add(device: str, mode: Callable[[], torch.no_grad]) -> None:
    linear = nn.Linear(WIDTH, 5, device=device)
    x = torch.zeros(ROWS, WIDTH, device=device)
    with mode(), Meter() as meter:
        linear(x)
    assert meter.flops == {"addmm": 2 * ROWS * WIDTH * 5}
    assert not meter.traffic
    assert meter.peak == ROWS * 5 * 4


def test_a_convolution_and_an_integer_product_are_counted() -> None:
    with Meter() as meter:
        F.conv1d(torch.zeros(1, 3, 10), torch.zeros(4, 3, 3))
        torch._int_mm(torch.zeros(32, 16, dtype=torch.int8), torch.zeros(16, 8, dtype=torch.int8))
    assert sum(meter.flops.values()) == 2 * 4 * 3 * 3 * 8 + 2 * 32 * 16 * 8


def test_attention_is_one_kernel_on_every_device(device: str) -> None:
    query = torch.zeros(1, 9, 2, 4, device=device)
    key = torch.zeros(1, 7, 2, 4, device=device)
    with torch.no_grad(), Meter() as meter:
        out = dispatch_attention_fn(query, key, key)
    assert out.shape == query.shape
    assert meter.flops == {"scaled_dot_product_attention": 2 * 2 * (2 * 9 * 7 * 4)}
    assert not meter.traffic
    assert meter.peak == meter.live == query.nbytes


def test_the_result_of_attention_is_laid_out_on_meta_as_on_a_device() -> None:
    query = torch.zeros(1, 9, 2, 4, device="meta")
    with torch.no_grad(), Meter():
        assert dispatch_attention_fn(query, query, query).is_contiguous()


def test_reads_and_writes_of_elementwise_work(device: str) -> None:
    x = torch.zeros(ROWS, WIDTH, device=device)
    with torch.no_grad(), Meter() as meter:
        y = x + x[:1]  # one row is read once
        y.mul_(y)
        y[0].zero_()
        y.copy_(x)
    assert meter.traffic == {
        "add": 2 * SIZE + WIDTH * 4,
        "mul_": 3 * SIZE,
        "zero_": WIDTH * 4,
        "copy_": 2 * SIZE,
    }


def test_views_and_claims_of_memory_move_nothing(device: str) -> None:
    x = torch.zeros(ROWS, WIDTH, device=device)
    with torch.no_grad(), Meter() as meter:
        torch.empty(100, device=device)
        x.view(-1).reshape(WIDTH, ROWS).t().unflatten(0, (2, -1)).expand(2, -1, -1).chunk(2)
        x[1:3].detach().contiguous()
    assert not meter.traffic


def test_a_look_up_reads_only_what_it_finds() -> None:
    table, rows = torch.zeros(1000, 4), torch.tensor([3, 4])
    with torch.no_grad(), Meter() as meter:
        F.embedding(rows, table)
    assert meter.traffic == {"embedding": 2 * (2 * 4 * 4) + rows.nbytes}


def test_live_bytes_rise_and_fall(device: str) -> None:
    x = torch.zeros(ROWS, WIDTH, device=device)
    with torch.no_grad(), Meter() as meter:
        y = x * 2
        half = y[:, :4]
        assert meter.live == SIZE
        z = y + 1
        del y
        assert meter.live == 2 * SIZE  # the view keeps it
        del half
        assert meter.live == SIZE
        z.add_(1)
        assert (meter.live, meter.peak) == (SIZE, 2 * SIZE)
        meter.forget_peak()
        assert meter.peak == SIZE
    del z
    assert meter.live == 0


def test_what_was_there_before_is_not_counted(device: str) -> None:
    layer = nn.Linear(WIDTH, WIDTH, device=device)
    with torch.no_grad(), Meter() as meter:
        parts = layer.weight.t(), layer.weight.data, layer.bias[2:]
        assert meter.live == 0
    del parts


def test_a_storage_that_another_keeps_is_counted_until_it_is_gone() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    with torch.no_grad(), Meter() as meter:
        parameter.data = torch.ones(ROWS, WIDTH)
        assert meter.live == SIZE
        parameter.data = torch.zeros(2)
    assert meter.live == 2 * 4


def test_a_function_of_fused_is_one_kernel(device: str) -> None:
    x, y = torch.zeros(ROWS, WIDTH, device=device), torch.zeros(ROWS, WIDTH, device=device)
    with torch.no_grad(), Meter() as one, Meter(fused=False) as all_of_them:
        halved_sum(x, y)
    assert one.traffic == {"halved_sum": 3 * SIZE}
    assert one.peak == SIZE
    assert all_of_them.peak == 2 * SIZE
    assert all_of_them.traffic == {"add": 3 * SIZE, "div": 2 * SIZE}


def test_fused_work_in_place_claims_nothing(device: str) -> None:
    x, y = torch.zeros(ROWS, WIDTH, device=device), torch.zeros(ROWS, WIDTH, device=device)
    with torch.no_grad(), Meter() as meter:
        add_into(x, y)
        copied_twice(x, out=y)
    assert meter.traffic == {"add_into": 3 * SIZE, "copied_twice": 2 * SIZE}  # out is written, not read
    assert meter.peak == 0


def test_counting_changes_no_number() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True).eval()
    x = torch.randn(1, ROWS, WIDTH)
    with torch.no_grad():
        plain = layer(x)
        with Meter():
            counted = layer(x)
    torch.testing.assert_close(counted, plain, rtol=0, atol=1e-6)  # nn's own fast path is another formula


def test_other_threads_are_not_counted() -> None:
    with Meter() as meter:
        thread = threading.Thread(target=lambda: torch.zeros(100) + 1)
        thread.start()
        thread.join()
    assert meter.peak == 0


def test_an_error_inside_leaves_no_mode_behind() -> None:
    with pytest.raises(RuntimeError), Meter() as meter:
        torch.zeros(2) @ torch.zeros(3)
    torch.zeros(100)
    assert meter.peak <= 2 * 4 + 3 * 4
