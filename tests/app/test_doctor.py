"""What doctor says of a machine: real programs and loopback servers; only what isn't here is made up."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app import doctor, installed
from app.cli import DONE, FAILED, main
from app.installed import Answer, Check, State
from app.jobs import HUNG_SECONDS
from app.machine import Gpu, ThisMachine
from app.schema import DATABASE, MIGRATIONS
from app.settings import load
from app.store import JobStore
from app.worker import is_running
from tests.agents.wire import Answer as Said
from tests.agents.wire import Request, Wire
from tests.app.conftest import Start, make_brief, wait_for

GIB = 1 << 30
MACHINE = ThisMachine("Linux", 8, 60 * GIB, 64 * GIB, 500 * GIB, 900 * GIB, ())
CARD = Gpu("NVIDIA H200", 138 * GIB, 140 * GIB)
CPU = Answer({"version": "2.13.0+cpu", "cuda": None, "devices": [], "failed": None})
CUDA = Answer({"version": "2.13.0", "cuda": "13.0", "devices": ["NVIDIA H200"], "failed": None})
KEY = "sk-planted-doctor-0123456789"
READY = {
    "/health": Said({"status": "ok"}),
    "/server_info": Said({"model_path": "OpenMOSS-Team/MOVA-360p", "version": "0.5.23"}),
}

Told = Callable[..., dict[str, list[Check]]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the programs that ask torch and PyAV, which tests of their own do."""

    def imported(name: str, code: str) -> Answer:
        return CPU if name == "torch" else Answer({"version": "18", "missing": []})

    monkeypatch.setattr(installed, "_imported", imported)


@pytest.fixture
def told(quick: None, tmp_path: Path) -> Told:
    """What doctor says by the name of each check, of the data folder of ``store``."""

    def told(*, test: bool = False) -> dict[str, list[Check]]:
        found: dict[str, list[Check]] = {}
        for check in doctor.examine({"data": tmp_path / "data"}, test=test):
            found.setdefault(check.name, []).append(check)
        return found

    return told


@pytest.fixture
def sglang(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Said]]:
    """A server called big, by what it says on each path."""
    answers = dict(READY)
    wire.answer_by = lambda request: answers.get(_path(request), Said({"detail": "Not Found"}, 404))
    monkeypatch.setenv("STUDIO_SGLANG__BIG__BASE_URL", wire.address)
    yield answers


def _path(request: Request) -> str:
    return request.path.partition("?")[0]


# the machine


def test_it_looks_at_this_very_machine_with_real_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json", "--data", str(tmp_path / "none")])
    checks = {each["check"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert status == (FAILED if "wrong" in {each["state"] for each in checks.values()} else DONE)
    assert list(checks)[:7] == ["python", "encoders", "gpu", "torch", "attention", "memory", "disk"]
    assert checks["python"]["state"] == checks["encoders"]["state"] == "ok"
    assert "libx264 and aac" in checks["encoders"]["said"]
    assert checks["torch"]["said"].startswith("2.")
    assert all(each["remedy"] for each in checks.values() if each["state"] != "ok")
    assert not (tmp_path / "none").exists(), "looking makes nothing"


def test_people_read_a_line_a_check_with_what_to_do(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--data", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok         python")
    place = next(n for n, line in enumerate(lines) if line.startswith("attention  checkpoint"))
    assert lines[place + 1].strip().startswith("→ Put OpenMOSS-Team/MOVA-360p")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libcudart.so.13 is missing')", "ImportError: libcudart.so.13 is missing"),
        ("import os; os.kill(os.getpid(), 11)", "it ended with status -11"),
        ("import time; time.sleep(600)", "no answer within 2 s"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_broken_torch_cannot_take_doctor_down(code: str, said: str) -> None:
    answer = installed.ask([sys.executable, "-c", code], 2)
    assert answer.failed == said
    check = installed.engine(answer, (), "auto")
    assert (check.state, check.said) == (State.WRONG, f"It can't be used: {said}")
    assert "pytorch.org" in check.remedy


def test_a_gpu_that_torch_does_not_see_is_wrong() -> None:
    assert installed.engine(CPU, (), "auto").state is State.OK
    check = installed.engine(CPU, (CARD,), "auto")
    assert (check.state, check.said) == (State.WRONG, "2.13.0+cpu sees no GPU (its CUDA: none).")
    assert installed.engine(CUDA, (CARD,), "auto").state is State.OK
    assert installed.engine(CUDA, (CARD,), "cpu").state is State.ATTENTION
    assert "there are 1 GPUs" in installed.engine(CUDA, (CARD,), "cuda:1").said
    assert installed.engine(CPU, (), "cuda").state is State.WRONG
    faulty = Answer({**CUDA.found, "failed": "RuntimeError: no kernel image is available"})
    assert "can't compute: RuntimeError: no kernel image" in installed.engine(faulty, (CARD,), "auto").said


def test_a_card_is_told_with_its_memory() -> None:
    check = installed.gpu(replace(MACHINE, gpus=(CARD,)), Answer({"version": "580.1"}), CUDA)
    assert (check.state, check.said) == (State.OK, "NVIDIA H200, 140.0 GiB (138.0 GiB free); driver 580.1")
    failed = installed.gpu(MACHINE, Answer({}, "Driver/library version mismatch"), CPU)
    assert (failed.state, failed.said) == (State.WRONG, "nvidia-smi doesn't answer: Driver/library version mismatch")
    assert installed.gpu(MACHINE, Answer({}), CPU).state is State.ATTENTION


def test_an_encoder_that_is_missing_is_named() -> None:
    assert "has no libx264." in installed.encoders(Answer({"version": "18", "missing": ["libx264"]})).said
    assert installed.encoders(Answer({}, "ImportError: DLL load failed")).state is State.WRONG


def test_a_kernel_that_cannot_be_imported_wants_attention() -> None:
    check = installed.attention(
        CUDA, {"flash_attn_interface": Answer({}, "undefined symbol"), "sageattention": Answer({"version": "2.2"})}
    )
    assert check.state is State.ATTENTION
    assert "flash_attn_interface can't be imported: undefined symbol" in check.said
    assert "sageattention 2.2 (SageAttention, used by the presets fast and fastest)" in check.said
    assert "pip uninstall flash_attn_interface" in check.remedy


def test_a_full_disk_is_wrong_and_a_fuller_one_worth_a_look() -> None:
    states = [installed.disk(replace(MACHINE, disk_free=free), Path("d")).state for free in (0, 2 * GIB, 20 * GIB)]
    assert states == [State.WRONG, State.ATTENTION, State.OK]
    assert installed.memory(replace(MACHINE, memory_free=GIB)).state is State.ATTENTION
    assert installed.memory(replace(MACHINE, memory_free=None, memory_total=None)).state is State.OK


# settings and checkpoints


def test_settings_that_cannot_be_used_are_said_and_the_machine_is_still_looked_at(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_PORT", "a lot")
    found = told()
    assert "The setting port = 'a lot' can't be used" in found["settings"][0].said
    assert found["settings"][0].state is State.WRONG
    assert "python" in found


def test_an_unfinished_checkpoint_is_told_by_what_it_lacks(told: Told, store: JobStore) -> None:
    begun, broken = (store.data / "checkpoints" / name for name in ("MOVA-360p", "MOVA-720p"))
    begun.mkdir(parents=True)
    (begun / "half.safetensors").touch()
    broken.mkdir()
    (broken / "model_index.json").write_text("{}")
    first, second = told()["checkpoint"]
    assert (first.state, second.state) == (State.WRONG, State.ATTENTION)
    assert f"{broken / 'model_index.json'}: 'video_dit' names the class None" in first.said
    assert f"{begun} has no model_index.json" in second.said


# store and worker


def test_a_store_is_told_with_its_version(told: Told, store: JobStore) -> None:
    found = told()
    assert found["store"][0].said == f"{store.data / DATABASE} is whole (schema {len(MIGRATIONS)})"
    assert found["worker"][0] == Check("worker", State.OK, "None runs, and nothing waits.")


def test_a_damaged_store_is_wrong(told: Told, store: JobStore) -> None:
    for _ in range(200):
        store.submit(make_brief("word " * 50))
    file = store.data / DATABASE
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode = DELETE")
    raw = bytearray(file.read_bytes())
    raw[4096 * 5 : 4096 * 20] = b"\xa5" * 4096 * 15
    file.write_bytes(raw)
    (check,) = told()["store"]
    assert check.state is State.WRONG
    assert str(file) in check.said


@pytest.mark.parametrize(("version", "state"), [(99, State.WRONG), (1, State.ATTENTION)])
def test_a_store_of_another_version_is_named_and_left_alone(
    told: Told, store: JobStore, version: int, state: State
) -> None:
    with sqlite3.connect(store.data / DATABASE) as db:
        db.execute(f"PRAGMA user_version = {version}")
    found = told()
    assert found["store"][0].state is state
    assert f"schema {version}, here {len(MIGRATIONS)}" in found["store"][0].said
    assert "worker" not in found
    with sqlite3.connect(store.data / DATABASE) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (version,)


def test_jobs_that_nobody_works_on_want_attention(told: Told, store: JobStore) -> None:
    store.submit(make_brief())
    assert told()["worker"][0].said == "Nobody serves the folder; jobs that wait: 1."
    store.claim()
    assert told()["worker"][0].said == "A job is said to run, and no worker is there."


def test_a_worker_is_told_and_one_that_hangs_is_wrong(told: Told, store: JobStore, start: Start) -> None:
    process = start(600.0)
    wait_for(lambda: is_running(store.data))
    job = store.submit(make_brief())
    wait_for(lambda: (worker := store.worker()) and worker.job == job.id)
    check = told()["worker"][0]
    assert check.said == f"Process {process.pid} serves the folder: 1 running, 0 waiting"
    late = doctor.worker(store, clock=lambda: time.time() + HUNG_SECONDS + 61)
    assert (late.state, late.said) == (State.WRONG, f"Process {process.pid} hasn't reported for 11 minutes.")


# servers and providers


def test_a_server_is_told_with_model_and_release(told: Told, sglang: dict[str, Said], wire: Wire) -> None:
    found = told()
    (check,) = found["sglang:big"]
    assert found["checkpoint"][0].state is State.OK, "none is needed here"
    assert check == Check("sglang:big", State.OK, f"{wire.address} is ready: MOVA-360p, SGLang 0.5.23")
    assert sorted(map(_path, wire.requests)) == ["/health", "/server_info"]


@pytest.mark.parametrize(
    ("answers", "state", "remedy"),
    [
        ({"/health": Said(b"", 503)}, State.ATTENTION, "It comes by itself"),
        ({"/health": Said({"status": "unhealthy", "error": "worker died"}, 503)}, State.WRONG, "Start the server anew"),
        ({"/server_info": Said({"detail": "Not Found"}, 404)}, State.WRONG, "Update the server"),
        ({"/health": Said(b"no", 401), "/server_info": Said(b"no", 401)}, State.WRONG, "STUDIO_SGLANG__BIG__TOKEN"),
        ({"/health": Said(b"<html>", 200), "/server_info": Said(b"<html>", 200)}, State.WRONG, "Mend its address"),
    ],
)
def test_a_server_that_is_not_ready_comes_with_a_remedy(
    told: Told, sglang: dict[str, Said], answers: dict[str, Said], state: State, remedy: str
) -> None:
    sglang.update(answers)
    (check,) = told()["sglang:big"]
    assert check.state is state
    assert remedy in check.remedy


def test_a_server_that_never_answers_does_not_hold_doctor_up(told: Told, sglang: dict[str, Said]) -> None:
    sglang.update(dict.fromkeys(READY, Said(b"", delay=None)))
    began = time.monotonic()
    (check,) = told()["sglang:big"]
    assert check.state is State.WRONG
    assert time.monotonic() - began < 12


def test_providers_are_told_without_their_keys_and_tried_on_demand(
    told: Told, scripted: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PROVIDER": scripted, "BASE_URL": wire.address, "API_KEY": KEY}.items():
        monkeypatch.setenv(f"STUDIO_PROVIDERS__OPENAI__{name}", value)
        if name != "API_KEY":
            monkeypatch.setenv(f"STUDIO_PROVIDERS__MINE__{name}", value)
    monkeypatch.setenv("STUDIO_PROVIDERS__GEMINI__TIMEOUT", "5")
    monkeypatch.setenv("STUDIO_PROVIDERS__ODD__PROVIDER", "nobody")
    wire.answers = [Said(b"ok")]
    found = {name: checks[0] for name, checks in told().items()}
    assert found["provider:openai"].said == f"OpenAI at {wire.address}: a key is set (--test makes a real call)"
    assert found["provider:gemini"].remedy == "Set STUDIO_PROVIDERS__GEMINI__API_KEY."
    assert found["provider:odd"].state is State.WRONG
    assert not wire.requests, "no call unless asked"
    tried = told(test=True)
    assert [request.path for request in wire.requests] == ["/test"]
    assert "answered in" in tried["provider:openai"][0].said
    assert "no model of it is known" in tried["provider:mine"][0].said
    wire.answers = [Said(f"no such key {KEY}".encode(), 401)]
    refused = told(test=True)
    assert refused["provider:openai"][0].state is State.WRONG
    assert "no such key" in refused["provider:openai"][0].said
    assert not any(said_anywhere(KEY, each) for each in (tried, refused))


def test_no_token_is_ever_told(told: Told, sglang: dict[str, Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_SGLANG__BIG__TOKEN", KEY)
    sglang["/server_info"] = Said({"model_path": f"OpenMOSS-Team/MOVA-360p-{KEY}", "version": KEY})
    found = told()
    assert load().sglang["big"].token is not None
    assert not said_anywhere(KEY, found)


def said_anywhere(word: str, found: dict[str, list[Check]]) -> bool:
    return any(word in str(check) for checks in found.values() for check in checks)
