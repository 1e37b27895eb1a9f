"""What a machine has to give, from what its tools and files say."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from mova.resources import Card, parse_cards, parse_meminfo, read_memory, read_resources, try_disk

MIB = 1 << 20
ANSWER = """0, GPU-aa, NVIDIA GeForce RTX 4090, 23000 MiB, 24564 MiB, 8.9
1, GPU-bb, NVIDIA A100-SXM4-40GB, [N/A], [N/A], 8.0
2, GPU-cc, NVIDIA H200, 143000 MiB, 143771 MiB, 9.0
"""
CARDS = (
    Card("NVIDIA GeForce RTX 4090", 23000 * MIB, 24564 * MIB, (8, 9)),
    Card("NVIDIA H200", 143000 * MIB, 143771 * MIB, (9, 0)),
)


@pytest.mark.parametrize(
    ("visible", "seen"),
    [(None, CARDS), ("2,0", CARDS[::-1]), ("GPU-cc", CARDS[1:]), ("", ()), ("1", ()), ("7", ())],
)
def test_cards_are_those_that_cuda_may_see(visible: str | None, seen: tuple[Card, ...]) -> None:
    assert parse_cards(ANSWER, visible) == seen


def test_an_older_driver_does_not_know_the_capability() -> None:
    (card,) = parse_cards("0, GPU-aa, Tesla T4, 15000 MiB, 15360 MiB, [Not Supported]")
    assert card.capability is None
    assert parse_cards("") == parse_cards("NVIDIA-SMI has failed\n") == ()


def test_memory_that_is_available_not_only_free() -> None:
    text = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 600 kB\n"
    assert parse_meminfo(text) == (600 << 10, 1000 << 10)


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="Linux only")
def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    free, total = read_memory(tmp_path)
    assert 0 < free <= total
    limits = {"memory.max": "3000000\n", "memory.current": "2500000\n", "memory.stat": "anon 1\ninactive_file 500000\n"}
    for name, content in limits.items():
        (tmp_path / name).write_text(content)
    assert read_memory(tmp_path) == (1_000_000, 3_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert read_memory(tmp_path)[1] == total


def test_a_disk_is_tried_for_so_long_as_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(20 << 20))
    ticks = count()
    speed = try_disk(file, clock=lambda: next(ticks) * 0.125)
    assert speed is None or 0 < speed <= 20 * MIB / 0.125
    file.write_bytes(b"too little to tell")
    assert try_disk(file) is None


def test_this_machine(playground: Path) -> None:
    here = read_resources(playground, "cpu")
    assert here.card is None
    assert here.disk_free > 0
    assert here.ram_free <= here.ram_total
