"""The command line, mostly in this process; where it matters with a real keeper, a real worker and a fake engine."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import termios
import tomllib
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.sound import Sound
from app import cli, jobs, keeper, supervisor
from app.cli import CANCELLED, DONE, FAILED, IN_REVIEW, INTERRUPTED, WRONG_USE, main
from app.jobs import CLOSED, Failure, Full, Job, Progress, Rendered, Status, Step
from app.recipes import Recipe, RecipeError, order
from app.settings import ROOT, load
from app.store import JobStore, StoreError
from app.supervisor import Supervisor, WorkerState
from app.telling import Lines
from app.waiting import PAUSED, Service, wait
from app.worker import is_running
from tests.app.conftest import Start, ended, found, make_brief, picture, under_way, wait_for
from tests.app.fakes import write_clip
from tests.app.stub import stub

RECIPE = """
prompt = "A gull lands on a pier."
first_frame = "gull.png"
steps = 3
num_frames = 5
seed = 41
takes = 2
"""


@pytest.fixture
def data(store: JobStore) -> Path:
    return store.data


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "gull.png").write_bytes(picture(64, 48))
    return write(tmp_path / "gull.toml", RECIPE)


class Run:
    """Calls of the command line in this process: what they printed, and their status."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data = data
        self.capsys = capsys

    def __call__(self, *words: str | Path, status: int = DONE, seconds: float = 0.0) -> list[str]:
        said = [*map(str, words), "--data", str(self.data)]
        assert main(said, worker(self.data, seconds)) == status, self.capsys.readouterr()
        self.out, self.err = self.capsys.readouterr()
        return self.out.splitlines()

    def objects(self, *words: str | Path, status: int = DONE) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*words, "--json", status=status)]


@pytest.fixture
def run(data: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(data, capsys)


def worker(data: Path, seconds: float = 0.0) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.app.fakes", str(seconds), "--data", str(data), "--follow")


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def close(store: JobStore, job: Job, status: Status, failure: Failure | None = None) -> None:
    """End a queued job as a worker would."""
    assert store.claim()
    store.close(job.id, status, failure)


def finish(store: JobStore, job: Job, clip: bytes = b"a clip") -> None:
    assert store.claim()
    path = f"{job.folder}/clip.mp4"
    (store.data / job.folder).mkdir(exist_ok=True)
    (store.data / path).write_bytes(clip)
    rendered = Rendered(width=64, height=48, num_frames=5, fps=10, duration=0.5, sample_rate=16_000)
    store.save(job.id, job.draft.model_copy(update={"clip": path, "rendered": rendered}))
    store.close(job.id, Status.DONE)


# submit


def test_a_recipe_becomes_a_job_for_each_take(run: Run, store: JobStore, recipe: Path) -> None:
    ids = run("submit", recipe)
    jobs = [found(store, job) for each in ids if (job := store.get(each))]
    assert [job.brief.spec.seed for job in jobs] == [41, 42]
    assert [job.status for job in jobs] == [Status.QUEUED] * 2
    brief = jobs[0].brief
    assert (brief.prompt, brief.spec.num_inference_steps, brief.spec.num_frames) == ("A gull lands on a pier.", 3, 5)
    assert (brief.offload, brief.preset) == ("auto", "exact")
    assert brief.first_frame == f"{jobs[0].folder}/first_frame.png", "relative to the recipe, copied to the job"
    assert (store.data / brief.first_frame).is_file()


def test_a_recipe_may_be_json(run: Run, store: JobStore, tmp_path: Path) -> None:
    file = write(tmp_path / "one.json", json.dumps({"idea": "A ball bounces.", "sound": {"no_music": True}}))
    (job_id,) = run("submit", file)
    job = store.get(job_id)
    assert job and job.brief.full
    assert job.brief.full.sound.no_music
    assert job.brief.full.review == frozenset(), "review is off unless asked for"
    assert set(job.brief.full.models) == set(Step)


def test_flags_make_a_job_without_a_recipe(run: Run, store: JobStore) -> None:
    words = ["--idea", "A ball.", "--line", "a boy|English|Again!", "--effects", "a thud", "--review", "elements"]
    (job_id,) = run(
        "submit", *words, "--model", "video_prompt=builtin", "--orientation", "portrait", "--loudness", "-14"
    )
    job = store.get(job_id)
    assert job and job.brief.full
    assert job.brief.full.sound.dialogue[0].words == "Again!"
    assert job.brief.full.sound.effects == "a thud"
    assert job.brief.full.review == {Step.ELEMENTS}
    assert (job.brief.spec.width, job.brief.spec.height, job.brief.loudness) == (144, 256, -14)


def test_flags_overrule_a_recipe_and_leave_its_tables_otherwise(run: Run, store: JobStore, tmp_path: Path) -> None:
    text = 'idea = "A ball."\nseconds = 1\n[sound]\neffects = "a thud"\nambience = "a hall"\n'
    (job_id,) = run(
        *("submit", write(tmp_path / "r.toml", text), "--effects", "a squeak", "--size", "64x48", "--seed", "9"),
        *("--offload", "component", "--preset", "light"),
    )
    job = store.get(job_id)
    assert job and job.brief.full
    assert (job.brief.full.sound.effects, job.brief.full.sound.ambience) == ("a squeak", "a hall")
    assert (job.brief.spec.width, job.brief.spec.height, job.brief.spec.seed) == (64, 48, 9)
    assert (job.brief.offload, job.brief.preset) == ("component", "light")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'guidance = 3\nprompt = "x"',
            "There is nothing called 'guidance' in a recipe. Did you mean 'guidance_scale'?",
        ),
        ('promt = "x"', "There is nothing called 'promt' in a recipe. Did you mean 'prompt'?"),
        ('idea = "x"\n[sound]\nambiance = "y"', "'sound.ambiance' in a recipe. Did you mean 'ambience'?"),
        ('idea = "x"\n[[sound.dialogue]]\nword = "y"', "'sound.dialogue.0.word' in a recipe. Did you mean 'words'?"),
        ('prompt = "x"\nnum_frames = 8', "Frames 8 is not of the form 4n + 1; nearest valid: 5 and 9."),
        ('prompt = "x"\nsize = "640x360"', "eight 360 is not a positive multiple of 16; nearest valid: 352 and 368."),
        ('prompt = "x"\nseed = true', "seed = True can't be used: it must be a number."),
        ('prompt = "x"\nseed = -1', "eed -1 is outside 0 to"),
        ('prompt = "x"\nsteps = 2\nquality = "fine"', "Either steps or quality"),
        ('prompt = "x"\ntakes = 0', "takes = 0 can't be used: input should be greater than or equal to 1."),
        ('prompt = "x"\nreview = true', "review has no effect in Simple mode."),
        ('prompt = "x"\nidea = "y"', "Give an idea in its place"),
        ("steps = 2", "Give a prompt, or an idea for Full Workflow."),
        ('prompt = "x"\nengine = "sglang"', "The engine 'sglang' is not set up (servers: none)."),
        ('prompt = "x"\nengine = "cloud"', "engine = 'cloud' can't be used"),
        ('prompt = "x"\nfirst_frame = "gone.png"', "gone.png' can't be used"),
        ('prompt = "x"\ncheckpoint = "MOVA-playgroud"', "Did you mean MOVA-playground?"),
        ('idea = "x"\n[models]\nvideo_prompt = "gemini:g"', "STUDIO_PROVIDERS__GEMINI__API_KEY"),
        ('idea = "x"\n[[sound.dialogue]]\nwords = ""', "needs the words that are spoken"),
        ("prompt = ", "can't be read as TOML"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_in_a_sentence(
    run: Run, store: JobStore, tmp_path: Path, text: str, said: str
) -> None:
    run("submit", write(tmp_path / "r.toml", text), status=WRONG_USE)
    assert said in run.err
    assert run.out == ""
    assert store.history() == []


def test_of_several_recipes_none_is_queued_if_one_is_wrong(run: Run, store: JobStore, recipe: Path) -> None:
    wrong = write(recipe.with_name("wrong.toml"), 'prompt = "x"\nfps = 0')
    run("submit", recipe, wrong, status=WRONG_USE)
    assert f"{wrong}: Frames per second 0 is outside 1 to 240" in run.err
    assert store.history() == []
    right = write(recipe.with_name("right.toml"), 'prompt = "x"')
    assert len(run("submit", recipe, right)) == 3


def test_a_file_that_is_not_there_is_wrong_use(run: Run, tmp_path: Path) -> None:
    run("submit", tmp_path / "none.toml", status=WRONG_USE)
    assert "none.toml can't be read (No such file or directory)" in run.err


FIELDS = st.sampled_from([*Recipe.model_fields, "odd"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["full", "9x9", "sglang"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Sound.model_fields, *Step]), inner),
    max_leaves=5,
)


@given(content=st.dictionaries(FIELDS, VALUES, max_size=6), idea=st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_stands_in_a_recipe_is_an_order_or_sentences(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], idea: bool
) -> None:
    known = load(data=tmp_path_factory.getbasetemp() / "nowhere")
    try:
        made = order({"idea" if idea else "prompt": "x", **content}, known)
    except RecipeError as error:
        assert str(error).strip()
    else:
        assert made.brief.spec.num_frames % 4 == 1
        assert len(list(made.each())) == made.takes


def test_the_recipe_of_the_readme_has_no_word_that_recipes_do_not_know() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = readme.split("```toml\n")[1].split("```")[0]
    recipe = Recipe.model_validate(tomllib.loads(text))
    assert recipe.idea
    assert recipe.sound.dialogue[0].speaker == "a child"


# list, cancel, fetch


def test_list_tells_jobs_to_people_and_programs(run: Run, store: JobStore) -> None:
    first, second = store.submit(make_brief("One\n two.")), store.submit(make_brief("Three."))
    finish(store, first)
    lines = run("list")
    assert [line.split()[:2] for line in lines] == [[second.id[:8], "queued"], [first.id[:8], "done"]]
    assert lines[1].endswith("One two.")
    (told,) = run.objects("list", "--state", "done")
    assert (told["id"], told["status"], told["prompt"], told["seed"]) == (first.id, "done", "One\n two.", 7)
    assert told["clip"] == str(store.data / first.folder / "clip.mp4")
    assert told["failure"] is None
    run("list", "--limit", "1")
    assert "1 of 2" in run.err


def test_a_beginning_of_an_id_is_enough_unless_it_is_that_of_several(run: Run, store: JobStore) -> None:
    jobs = [store.submit(make_brief()) for _ in range(17)]  # of 16 first letters at least one is had twice
    letters = [job.id[0] for job in jobs]
    twice = next(letter for letter in letters if letters.count(letter) > 1)
    run("cancel", twice, status=WRONG_USE)
    assert f"'{twice}' may be any of {letters.count(twice)} jobs" in run.err
    run("cancel", jobs[0].id[:12])
    assert found(store, jobs[0]).status is Status.CANCELLED
    run("cancel", "zz", status=WRONG_USE)
    assert "There is no job 'zz'" in run.err


def test_cancel_says_where_there_is_nothing_to_cancel(run: Run, store: JobStore) -> None:
    done, waits = store.submit(make_brief()), store.submit(make_brief())
    finish(store, done)
    run("cancel", done.id, waits.id, status=FAILED)
    assert "has ended already (done)" in run.err
    assert found(store, waits).status is Status.CANCELLED
    assert run("cancel", waits.id) == [f"{waits.id[:8]}  cancelled"], "a second time is as good"


def test_fetch_copies_a_clip_and_overwrites_nothing_unasked(run: Run, store: JobStore, tmp_path: Path) -> None:
    job, target = store.submit(make_brief()), tmp_path / "mine.mp4"
    run("fetch", job.id, status=FAILED)
    assert "has no clip (queued)" in run.err
    finish(store, job)
    assert run("fetch", job.id, "-o", target) == [str(target)]
    target.write_bytes(b"something else")
    run("fetch", job.id, "-o", target, status=WRONG_USE)
    assert target.read_bytes() == b"something else"
    (told,) = run.objects("fetch", job.id, "-o", target, "--force")
    assert told == {"id": job.id, "file": str(target), "bytes": 6}
    assert target.read_bytes() == b"a clip"
    run("fetch", job.id, "-o", tmp_path)
    assert (tmp_path / f"mova-{job.id[:8]}.mp4").read_bytes() == b"a clip"
    assert not list(tmp_path.glob(".*.part"))


def test_fetch_leaves_nothing_where_it_cannot_write(run: Run, store: JobStore, tmp_path: Path) -> None:
    job = store.submit(make_brief())
    finish(store, job)
    run("fetch", job.id, "-o", tmp_path / "nowhere" / "a.mp4", status=FAILED)
    assert "can't be written (No such file or directory)" in run.err


def test_a_folder_that_was_mistyped_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["list"], ["wait", "a"], ["cancel", "a"], ["fetch", "a"]):
        assert main([*words, "--data", str(tmp_path / "typo")]) == WRONG_USE
    assert "is no studio's data folder yet" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


# wait


def test_wait_starts_a_worker_that_goes_once_the_queue_is_empty(run: Run, store: JobStore) -> None:
    first, second = store.submit(make_brief()), store.submit(make_brief())
    (line,) = run("wait", first.id[:10], seconds=0.5)
    assert line == f"{first.id[:8]}  done  {store.data / first.folder / 'clip.mp4'}"
    assert "denoising" in run.err, "plain lines, as this is no terminal"
    assert "\r" not in run.err
    assert ended(store, second).status is Status.DONE, "the rest of the queue isn't left behind"
    wait_for(lambda: not is_running(store.data))


def test_submit_can_wait_and_json_is_one_object_a_line(run: Run, recipe: Path) -> None:
    told = run.objects("submit", recipe, "--wait")
    assert [each["status"] for each in told[:2]] == ["queued", "queued"]
    last = {each["id"]: each for each in told}
    assert [each["status"] for each in last.values()] == ["done", "done"]
    assert all(Path(each["clip"]).is_file() for each in last.values())
    assert run.err == ""


def test_wait_uses_the_worker_that_is_there(run: Run, store: JobStore, start: Start) -> None:
    start()
    wait_for(lambda: is_running(store.data))
    job = store.submit(make_brief())
    run("wait", job.id)
    assert not (store.data / "logs" / keeper.LOG).exists()
    assert is_running(store.data), "it isn't ours to end"


def test_the_status_tells_failed_cancelled_and_review_apart(run: Run, store: JobStore) -> None:
    said = Failure(sentence="The model laughed.", remedy="Tell it another.")
    jobs = {
        status: store.submit(
            make_brief("An idea.", full=Full(models={}, review=frozenset({Step.VIDEO_PROMPT}), painted=False))
        )
        for status in (Status.FAILED, Status.CANCELLED, Status.REVIEW)
    }
    for status, job in jobs.items():
        close(store, job, status, said if status is Status.FAILED else None)
    run("wait", jobs[Status.FAILED].id, status=FAILED)
    assert "failed: The model laughed. Tell it another." in run.err
    run("wait", jobs[Status.CANCELLED].id, status=CANCELLED)
    run("wait", jobs[Status.REVIEW].id, status=IN_REVIEW)
    assert f"http://127.0.0.1:8501/?job={jobs[Status.REVIEW].id}" in run.err
    run("wait", *(job.id for job in jobs.values()), status=FAILED)


def test_a_failure_of_the_engine_reaches_the_one_who_waits(run: Run, store: JobStore) -> None:
    job = store.submit(make_brief("fail now"))
    run("wait", job.id, status=FAILED)
    assert "the *fake* engine was told to fail" in run.err


def test_a_job_that_is_deleted_meanwhile_ends_the_wait(run: Run, store: JobStore) -> None:
    job = store.submit(make_brief())
    store.delete(job.id)
    run("wait", job.id, status=CANCELLED)
    assert "was deleted" in run.err


def test_a_worker_that_cannot_live_is_said_with_its_log(
    run: Run, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.submit(make_brief())

    def fails(*_: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
        process.wait()
        return process

    monkeypatch.setattr(keeper, "start", fails)
    run("wait", job.id, status=FAILED)
    assert "worker-output.log says why" in run.err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_wait_and_not_the_work(store: JobStore) -> None:
    job = store.submit(make_brief(steps=20))
    with waiting(store, job, 0.2, stderr=subprocess.PIPE, text=True) as process:
        under_way(store, job)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert f"the work goes on. `mova-studio wait {job.id[:8]}` waits again" in said
    assert ended(store, job).status is Status.DONE


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_terminal_shows_a_bar_with_the_time_left(store: JobStore) -> None:
    before = store.submit(make_brief(steps=4))
    job = store.submit(make_brief(steps=4))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    with waiting(store, job, 0.3, stderr=theirs, stdout=subprocess.PIPE, text=True) as process:
        os.close(theirs)
        said = read_all(ours)
        out, _ = process.communicate(timeout=30)
    os.close(ours)
    assert found(store, before).status is Status.DONE
    assert process.returncode == DONE
    assert "denoising |" in said
    assert "left" in said
    assert "\r" in said
    assert out.startswith(f"{job.id[:8]}  done")


def waiting(store: JobStore, job: Job, seconds: float, **popen: Any) -> subprocess.Popen[str]:
    code = (
        f"import sys; from app.cli import main; "
        f"sys.exit(main(['wait', {job.id!r}, '--data', {str(store.data)!r}], {worker(store.data, seconds)!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **popen)


def read_all(terminal: int) -> str:
    pieces = []
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # as Linux says that the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode()


def test_a_paused_queue_is_said_once_and_waited_for(store: JobStore) -> None:
    job, said = store.submit(make_brief()), []
    store.pause_after()
    pauses = iter(range(5))

    def pause(_: float) -> None:
        if next(pauses) == 2:
            store.cancel(job.id)

    (last,) = wait(store, [job], Lines(said.append), Service(store, never), said.append, pause)
    assert last.status is Status.CANCELLED
    assert said.count(PAUSED) == 1


def test_a_store_that_is_held_for_a_while_is_waited_for(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "data", patience=0.01)
    job, said = store.submit(make_brief()), []
    store.cancel(job.id)
    held = sqlite3.connect(store.data / "studio.db", isolation_level=None)
    held.execute("PRAGMA locking_mode = EXCLUSIVE")
    held.execute("BEGIN IMMEDIATE")
    (last,) = wait(store, [job], Lines(said.append), Service(store, None), said.append, lambda _: held.close())
    assert last.status is Status.CANCELLED
    assert "Another program holds" in said[0]


def never() -> subprocess.Popen[bytes]:
    raise AssertionError("A paused queue needs no worker.")


def test_a_line_is_said_for_a_change_or_once_in_a_while(store: JobStore) -> None:
    moments, said = iter([0.0, 1.0, 2.0, 40.0, 41.0]), []
    lines = Lines(said.append, clock=lambda: next(moments))
    store.submit(make_brief())
    job = store.claim()
    assert job
    store.report(job.id, Progress(phase="denoising", step=1, total=3))
    for _ in range(5):
        lines([found(store, job)], {job.id: 70.4})
    assert said == [f"{job.id[:8]}  denoising 1/3, about 1:10 left"] * 2


# servers


def test_a_recipe_for_a_server_asks_for_what_it_can_make(
    run: Run, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_SGLANG__BIG__BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("STUDIO_OFFLOAD", "layer")
    words = ["submit", "--prompt", "x", "--engine"]
    (job_id,) = run(*words, "sglang:big", "--checkpoint", "mova-720p", "--orientation", "portrait")
    job = store.get(job_id)
    assert job
    assert (job.brief.engine, job.checkpoint_name, job.brief.offload) == ("sglang:big", "MOVA-720p", "auto")
    assert (job.brief.spec.width, job.brief.spec.height) == (720, 1280)
    (job_id,) = run(*words, "sglang")
    assert (job := store.get(job_id)) and job.checkpoint_name == "MOVA-360p", "the playground is of this machine only"
    for flags, said in {
        ("--size", "64x48"): "A server with MOVA-360p makes 640x352 and 352x640, and no 64x48.",
        ("--video-shift", "3"): "An SGLang server takes no shifts.",
        ("--offload", "layer"): "Choose auto",
        ("--preset", "light"): "Choose exact",
        ("--checkpoint", "MOVA-playground"): "A server makes clips by MOVA-360p or MOVA-720p",
    }.items():
        run(*words, "sglang", *flags, status=WRONG_USE)
        assert said in run.err
    run(*words, "sglang:small", status=WRONG_USE)
    assert "The engine 'sglang:small' is not set up (servers: big)." in run.err


def test_a_clip_comes_from_a_server_by_a_worker_that_wait_starts(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "made.mp4"
    write_clip(clip, 640, 352, 5, 24)
    with stub(clip.read_bytes()) as server:
        monkeypatch.setenv("STUDIO_SGLANG__BIG__BASE_URL", server.wire.address)
        words = ["--prompt", "A gull.", "--engine", "sglang", "--num-frames", "5", "--steps", "10", "--wait", "--json"]
        assert main(["submit", *words, "--data", str(store.data)]) == DONE, capsys.readouterr()
        assert len(server.handed_in) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["status"], last["engine"]) == ("done", "sglang")
    assert Path(last["clip"]).stat().st_size > 0


# the keeper


class Ending:
    """A supervisor whose worker claims a job in the very moment in which it is told to end.

    It is interrupted with this failure; without one the worker is killed before it can say so.
    """

    state = WorkerState.READY

    def __init__(self, store: JobStore, failure: Failure | None = CLOSED, *, cancelled: bool = False) -> None:
        self.store = store
        self.failure = failure
        self.cancelled = cancelled

    def start(self) -> None: ...

    def end(self) -> None:
        self.store.submit(make_brief())
        job = self.store.claim()
        assert job
        self.job = job
        if self.cancelled:
            self.store.cancel(job.id)
        if self.failure:
            self.store.close(job.id, Status.INTERRUPTED, self.failure)


@pytest.mark.parametrize("failure", [CLOSED, jobs.INTERRUPTED, None], ids=["closed", "recovered", "killed"])
def test_what_was_claimed_as_the_keeper_left_is_put_back(store: JobStore, failure: Failure | None) -> None:
    old = store.submit(make_brief())
    close(store, old, Status.INTERRUPTED, CLOSED)
    assert keeper.keep(store, Ending(store, failure))  # type: ignore[arg-type]
    assert found(store, old).status is Status.INTERRUPTED, "that was somebody else's"
    (job,) = store.queue()
    assert (job.status, job.failure, job.started_at, job.finished_at) == (Status.QUEUED, None, None, None)
    assert store.claim(), "it can be taken again"


def test_what_was_cancelled_as_the_keeper_left_is_not_put_back(store: JobStore) -> None:
    supervised = Ending(store, None, cancelled=True)
    assert keeper.keep(store, supervised)  # type: ignore[arg-type]
    assert found(store, supervised.job).status is Status.CANCELLED


def test_a_keeper_that_leaves_another_worker_behind_leaves_it_its_job(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOCK_SECONDS", 0)
    supervised = Ending(store, None)
    with FileLock(store.data / "worker.lock"):
        assert keeper.keep(store, supervised)  # type: ignore[arg-type]
    assert found(store, supervised.job).status is Status.RUNNING


def test_a_job_whose_failure_is_its_own_is_not_put_back(store: JobStore) -> None:
    supervised = Ending(store, jobs.HUNG)
    assert keeper.keep(store, supervised)  # type: ignore[arg-type]
    assert found(store, supervised.job).status is Status.INTERRUPTED


def test_a_keeper_leaves_a_paused_queue_alone(store: JobStore) -> None:
    store.submit(make_brief())
    store.pause_after()
    assert keeper.keep(store, Supervisor(store.data, worker(store.data)))
    assert store.queue()[0].status is Status.QUEUED


def test_a_keeper_that_finds_no_worker_gives_up(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "DEATHS", 1)
    store.submit(make_brief())
    assert not keeper.keep(store, Supervisor(store.data, (sys.executable, "-c", "raise SystemExit(1)")))


# the program


def test_it_is_a_program_with_help_and_wrong_use_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status in ((["--help"], 0), (["submit", "--help"], 0), (["dance"], 2), (["list", "--state", "odd"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == status
    assert "130 Ctrl+C" in capsys.readouterr().out


def test_run_is_the_studio_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "--port PORT" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_no_error(store: JobStore) -> None:
    for _ in range(30):
        store.submit(make_brief("word " * 2000))
    code = f"{sys.executable} -m app.cli list --json --limit 0 --data {store.data} | head -n 1"
    said = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["status"] == "queued"
    assert said.stderr == ""


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["ids", "json"])
def test_all_is_queued_though_nobody_reads_it(store: JobStore, options: list[str]) -> None:
    assert unread(store, "stdout", "submit", "--prompt", "A gull.", "--takes", "5", *options) == DONE
    assert len(store.queue()) == 5


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["lines", "json"])
def test_wait_has_its_status_though_nobody_reads_it(store: JobStore, stream: str, options: list[str]) -> None:
    done, cancelled = store.submit(make_brief()), store.submit(make_brief())
    finish(store, done)
    close(store, cancelled, Status.CANCELLED)
    assert unread(store, stream, "wait", done.id, *options) == DONE
    assert unread(store, stream, "wait", done.id, cancelled.id, *options) == CANCELLED


def test_what_could_be_queued_is_told_though_the_rest_could_not(
    run: Run, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, left = JobStore.submit, iter(range(2))

    def fills_the_disk(store: JobStore, brief: Any) -> Job:
        if next(left, None) is None:
            raise StoreError("The disk is full.")
        return submit(store, brief)

    monkeypatch.setattr(JobStore, "submit", fills_the_disk)
    ids = run("submit", "--prompt", "A gull.", "--takes", "5", status=WRONG_USE)
    assert ids == [job.id for job in store.queue()]
    assert "The disk is full." in run.err


def unread(store: JobStore, stream: str, *words: str) -> int:
    """The status of the command line as a program, with nobody at the other end of this stream."""
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "app.cli", *words, "--data", str(store.data)]
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: theirs}
    try:
        return subprocess.run(command, cwd=ROOT, check=False, timeout=60, **streams).returncode
    finally:
        os.close(theirs)


def test_a_console_of_few_letters_is_no_error(store: JobStore) -> None:
    store.submit(make_brief("海鸥落在码头上。"))
    for options, prompt in (([], "????????"), (["--json"], "\\u6d77\\u9e25")):
        command = [sys.executable, "-m", "app.cli", "list", "--data", str(store.data), *options]
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert prompt in said.stdout


def test_a_keeper_that_was_killed_is_replaced(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
    killed.wait()
    started = iter([killed, killed])
    service = Service(store, lambda: next(started), clock=iter([0.0, 0.0, 2.0, 2.0, 4.0, 4.0]).__next__)
    service()
    service()
    assert not list(started), "it was started twice"


def test_every_command_is_there() -> None:
    assert {*cli.COMMANDS, "run", "doctor"} == {"run", "submit", "wait", "list", "cancel", "fetch", "doctor"}
