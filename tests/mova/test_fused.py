"""The fused functions: the formula's numbers however they run, and one kernel where they are compiled."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_towers import wave
from torch import Tensor
from torch._inductor import config as inductor
from torch._inductor.scheduler import Scheduler
from torch.overrides import TorchFunctionMode

from mova import fused
from mova.attention import Rotary

EPS, HEADS = 1e-6, 3
DTYPES = [torch.float32, torch.bfloat16]
CPU = frozenset({"cpu"})
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler to compile kernels with")


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    with torch.no_grad():
        yield
    fused.use(compiled=False)


def tables(rows: int, head_dim: int, dtype: torch.dtype, *, interleaved: bool) -> Rotary:
    """float32 and half as wide as a head for the towers, in the model's dtype and as wide for the bridge."""
    angles = torch.outer(torch.arange(rows), 1.7 ** -torch.arange(head_dim // 2)).unsqueeze(1)
    if interleaved:
        return Rotary(angles.cos(), angles.sin())
    angles = angles.repeat(1, 1, 2)
    return Rotary(angles.cos().to(dtype), angles.sin().to(dtype), interleaved=False)


def norm_and_turn(x: Tensor, weight: Tensor, rope: Rotary | None) -> Tensor:
    """What ``normed_rope`` stands for, as torch and ``Rotary`` say it."""
    split = F.rms_norm(x, weight.shape, weight, EPS).unflatten(-1, (HEADS, -1))
    return rope.apply(split) if rope else split


def run(x: Tensor, weight: Tensor, rope: Rotary | None, out: Tensor | None = None) -> Tensor:
    if rope is None:
        return fused.normed_rope(x, weight, EPS, HEADS, out=out)
    return fused.normed_rope(x, weight, EPS, HEADS, rope.cos, rope.sin, interleaved=rope.interleaved, out=out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [None, "interleaved", "halves"])
@pytest.mark.parametrize("head_dim", [6, 32, 64])
@pytest.mark.parametrize("block", [fused.BLOCK, 500])
def test_norm_and_rotation_are_the_formulas(
    dtype: torch.dtype, kind: str | None, head_dim: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "BLOCK", block)
    x, weight = wave(2, 19, HEADS * head_dim).to(dtype), wave(HEADS * head_dim).to(dtype)
    rope = tables(19, head_dim, dtype, interleaved=kind == "interleaved") if kind else None
    expected = norm_and_turn(x, weight, rope)
    assert torch.equal(run(x.clone(), weight, rope), expected)
    out = torch.zeros(2, 30, HEADS, head_dim, dtype=dtype)
    run(x.clone(), weight, rope, out=out[:, 4:23])
    assert torch.equal(out[:, 4:23], expected)
    assert not out[:, :4].any()
    assert not out[:, 23:].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 19])
def test_the_rest_are_the_formulas(dtype: torch.dtype, rows: int) -> None:
    x, y = wave(2, 19, 48).to(dtype), wave(2, 19, 48).flip(1).to(dtype)
    shift, scale = wave(2, rows, 48).flip(0).to(dtype), wave(2, rows, 48).to(dtype)
    modulated = F.layer_norm(x, (48,), eps=EPS) * (1 + scale) + shift
    assert torch.equal(fused.modulated_norm(x, shift, scale, EPS), modulated)
    sums = [(gate, x + (y if gate is None else gate * y)) for gate in (None, scale, scale[:1, 0, :1].squeeze(0))]
    for gate, expected in sums:
        state = x.clone()
        assert fused.gated_add(state, gate, y.clone()) is state
        assert torch.equal(state, expected)
    assert torch.equal(fused.gelu(x.clone()), F.gelu(x, approximate="tanh"))


def test_float64_stays_float64() -> None:
    x, weight, rope = wave(1, 5, 18).double(), wave(18).double(), tables(5, 6, torch.float64, interleaved=True)
    torch.testing.assert_close(run(x.clone(), weight, rope), norm_and_turn(x, weight, rope), rtol=1e-12, atol=1e-12)


class Names(TorchFunctionMode):
    """What a function mode sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_function_mode_sees_each_as_one() -> None:
    x, gate = wave(1, 5, 18), wave(1, 1, 18)
    expected = run(x.clone(), x[0, 0], None)
    state, other = x.clone(), x.clone()
    with Names() as names:
        normed = fused.modulated_norm(x, gate, gate, EPS)
        turned = run(state, x[0, 0], None)
        fused.gated_add(other, None, normed)
        fused.gelu(other)
    assert [name for name in names.seen if hasattr(fused, name)] == [
        "modulated_norm",
        "normed_rope",
        "gated_add",
        "gelu",
    ]
    assert torch.equal(turned, expected)


def compiled_cases(dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Each function that is compiled, as the blocks call it."""
    x, y, weight = wave(1, 37, 96).to(dtype), wave(1, 37, 96).flip(1).to(dtype), wave(96).to(dtype)
    shift, scale = wave(1, 1, 96).flip(2).to(dtype), wave(1, 1, 96).to(dtype)
    turned = tables(37, 32, dtype, interleaved=True)
    halves = tables(37, 32, dtype, interleaved=False)
    buffer = torch.zeros(1, 37, HEADS, 32, dtype=dtype)
    return {
        "modulated_norm": lambda: fused.modulated_norm(x, shift, scale, EPS),
        "gated_add": lambda: fused.gated_add(x.clone(), scale, y.clone()),
        "norm": lambda: run(x.clone(), weight, None),
        "towers": lambda: run(x.clone(), weight, turned),
        "bridge": lambda: run(x.clone(), weight, halves),
        "into a buffer": lambda: run(x.clone(), weight, turned, out=buffer).clone(),
    }


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many kernels each compilation makes: what is left after the compiler has fused what it can."""
    counts: list[int] = []
    fuse: Callable[..., Any] = Scheduler.fuse_nodes

    def count(scheduler: Scheduler, nodes: Any) -> Any:
        fused_nodes = fuse(scheduler, nodes)
        counts.append(len(fused_nodes))
        return fused_nodes

    monkeypatch.setattr(Scheduler, "fuse_nodes", count)
    fused._compiled.cache_clear()
    with inductor.patch(force_disable_caches=True, compile_threads=1):
        yield counts
    fused._compiled.cache_clear()


@compiler
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in ("modulated_norm", "norm", "towers", "into a buffer")),
        *((name, torch.bfloat16) for name in ("modulated_norm", "gated_add", "towers", "bridge")),
    ],
)
def test_a_compiled_function_is_one_kernel_with_the_formulas_numbers(
    name: str, dtype: torch.dtype, kernels: list[int]
) -> None:
    case = compiled_cases(dtype)[name]
    expected = case()
    fused.use(compiled=True, devices=CPU)
    result = case()
    assert kernels == [1]
    if dtype is torch.bfloat16:
        assert torch.equal(result, expected)
    else:  # a sum over the row goes another way
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


@compiler
def test_a_compiled_function_takes_any_number_of_rows_and_is_compiled_twice_for_them(kernels: list[int]) -> None:
    fused.use(compiled=True, devices=CPU)
    for width in (96, 48):
        for rows in (37, 20, 5, 64):
            x, gate = wave(1, rows, width), wave(1, 1, width)
            torch.testing.assert_close(fused.gated_add(x.clone(), gate, x.clone()), x + gate * x)
    assert len(kernels) == 4


def test_only_the_chosen_devices_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_compiled", lambda *_: pytest.fail("compiled"))
    fused.use(compiled=True)
    run(wave(1, 5, 18), wave(18), None)
    assert not fused.can_compile(torch.device("cpu"))
