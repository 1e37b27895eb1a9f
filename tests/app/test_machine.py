from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.machine import Gpu, Held, disk_free, held_by, last_lines, look, read_gpus, read_meminfo, read_use


def test_this_machine_has_memory_and_disk(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.cores >= 1
    assert found.disk_total >= found.disk_free > 0
    assert found.memory_total is None or found.memory_total > 1 << 28


def test_nvidia_smis_answer_is_read() -> None:
    answer = "NVIDIA H200, 143000, 143771\nNVIDIA A100, PCIe, 10, 20\nNVIDIA H100 MIG, [N/A], [N/A]\n\n"
    assert read_gpus(answer) == (
        Gpu("NVIDIA H200", 143000 << 20, 143771 << 20),
        Gpu("NVIDIA A100, PCIe", 10 << 20, 20 << 20),
    )
    assert read_gpus("") == ()


def test_what_a_process_uses_of_the_gpus_is_read() -> None:
    answer = "12, 1024\n345, 500\n12, 1\n345, [N/A]\n"
    assert (read_use(answer, 12), read_use(answer, 345), read_use(answer, 1), read_use("", 12)) == (
        1025 << 20,
        500 << 20,
        None,
        None,
    )


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells what a process holds")
def test_what_a_process_holds_of_memory() -> None:
    before = held_by(os.getpid()).memory
    hoard = bytearray(64 << 20)
    assert held_by(os.getpid()).memory - before > len(hoard) * 0.9
    assert held_by(2**30) == Held(0, None), "there is no such process"


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert disk_free(tmp_path / "not" / "there") > 0


def test_linux_memory_is_read() -> None:
    text = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   12000000 kB\n"
    assert read_meminfo(text) == (12000000 << 10, 24000000 << 10)
    assert read_meminfo("") == (None, None)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    assert last_lines(log, 3) == ""
    log.write_text("one\ntwo\nthree\nfour\n")
    assert last_lines(log, 3) == "two\nthree\nfour"
    log.write_bytes(b"x" * 100_000 + b"\n" + "é".encode() * 10 + b"\nlast\n")
    assert last_lines(log, 2).splitlines()[-1] == "last"
