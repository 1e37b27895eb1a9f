"""The table of known cards, and how names find their way into it."""

from __future__ import annotations

import pytest

from mova.cards import _KNOWN, HOPPER_NATIVE, rates_of


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("4090", 165.2),
        ("NVIDIA GeForce RTX 3060", 25.5),
        ("NVIDIA GeForce RTX 4060 Ti", 44.1),
        ("RTX 4060Ti 16GB", 44.1),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA L40S", 362),
        ("NVIDIA B200", 2250),
    ],
)
def test_cards_are_known_by_any_of_their_names(name: str, tflops: float) -> None:
    rates = rates_of(name)
    assert rates is not None
    assert rates.bf16 == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "Quadro RTX 6000",
        "GRID A100-10C",
        "Tesla T4",
        "AMD Instinct MI300X",
        "",
    ],
)
def test_a_card_that_only_sounds_alike_is_not_known(name: str) -> None:
    assert rates_of(name) is None


def test_the_table_is_plausible() -> None:
    for name, (bf16, eight_bit, memory, generation, lanes, seen) in _KNOWN.items():
        assert 1.9 < eight_bit / bf16 < 4.1, name
        assert 200 < memory < 10_000, name
        assert (generation, lanes) in {(4, 8), (4, 16), (5, 8), (5, 16)}, name
        assert 0 < seen.share < 1, name


def test_a_slow_attention_kernel_costs_hopper_most() -> None:
    fast, slow = rates_of("NVIDIA H200"), rates_of("NVIDIA H200", slow_attention=True)
    assert fast and slow
    assert slow.seen is HOPPER_NATIVE
    assert slow.seen.share < fast.seen.share
    assert rates_of("RTX 4090") == rates_of("RTX 4090", slow_attention=True)


def test_a_bus_is_slower_than_the_memory_behind_it() -> None:
    for name in _KNOWN:
        rates = rates_of(name)
        assert rates
        assert rates.bus < rates.memory
