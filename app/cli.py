"""``mova-studio``: the studio's queue from a shell, with a running studio or without one."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from app import doctor, flags, keeper, recipes
from app.form import too_long
from app.jobs import Job, Status, Wanted
from app.origins import came_from, handed_on
from app.recipes import RecipeError
from app.schema import DATABASE
from app.settings import Settings, SettingsError, load
from app.store import JobStore, StoreError
from app.telling import SHORT, Bar, Lines, Objects, Show, as_json, as_line, as_object, title
from app.waiting import NotServedError, Service, wait
from app.worker import is_running
from mova.picture import PictureError

DONE, FAILED, WRONG_USE, CANCELLED, IN_REVIEW, INTERRUPTED = 0, 1, 2, 3, 4, 130
EVERY = 1_000_000  # more jobs than a folder has


class UseError(Exception):
    """What was asked for can't be done as it was asked; the message is a sentence."""


@dataclass(frozen=True)
class Call:
    """One call of the command line: what was given, and the settings in force. ``worker`` replaces the worker."""

    given: argparse.Namespace
    settings: Settings
    worker: Sequence[str] | None

    def store(self, *, must_exist: bool = True) -> JobStore:
        """The data folder's; a folder that was mistyped isn't made."""
        data = self.settings.data
        if must_exist and not (data / DATABASE).is_file():
            raise UseError(
                f"{data} is no studio's data folder yet. Name the right one by --data, or submit a job first."
            )
        return JobStore(data)

    def say(self, text: str) -> None:
        """A result, on standard output."""
        _put(text, sys.stdout)

    def tell(self, job: Job, left: float | None = None) -> None:
        """A job as a result: an object for programs, a line for people."""
        self.say(as_json(as_object(job, self.settings.data, left)) if self.given.json else as_line(job, left))


def main(arguments: Sequence[str] | None = None, worker: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. ``worker`` replaces the worker that ``wait`` sees to."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["run"]:
        from app.__main__ import main as run  # noqa: PLC0415  the server: only for the one who serves

        return run(words[1:])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that has no arrow, no Chinese
    given = flags.parser().parse_args(words)
    overruled = {"data": given.data} if given.data else {}
    try:
        if given.command == "doctor":  # which does without settings that can be used
            return examine(given, overruled)
        return COMMANDS[given.command](Call(given, load(**overruled), worker))
    except (UseError, RecipeError, SettingsError, StoreError, PictureError) as error:
        _complain(str(error))
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED


def submit(call: Call) -> int:
    """Queue what recipes and flags ask for; nothing of it if anything is wrong."""
    given = call.given
    overruling = recipes.absolute(flags.asked(given), Path.cwd())
    orders = []
    for file in given.recipes or [None]:
        try:
            orders.append(recipes.order(recipes.merged(recipes.read(file) if file else {}, overruling), call.settings))
        except RecipeError as error:
            if len(given.recipes) < 2:
                raise
            raise RecipeError("\n".join(f"{file}: {line}" for line in str(error).splitlines())) from error
    store = call.store(must_exist=False)
    jobs: list[Job] = []
    try:
        for order in orders:
            if order.brief.full is None and (long := too_long(order.brief.prompt)):
                _complain(long)
            for brief in order.each():
                jobs.append(store.submit(brief))
    finally:  # what is queued is told, even if not all could be
        for job in jobs:
            call.say(as_json(as_object(job, store.data)) if given.json else job.id)
    return _wait(call, store, jobs) if given.wait else DONE


def wait_for(call: Call) -> int:
    """Stay until the jobs have ended."""
    store = call.store()
    return _wait(call, store, [_find(store, beginning) for beginning in call.given.ids])


def show_list(call: Call) -> int:
    """The jobs, newest first."""
    store, given = call.store(), call.given
    wanted = Wanted(states=tuple(Status(state) for state in given.state), text=given.search or "")
    times, now = store.finish_times(), time.time()
    found = store.find(wanted, per_page=given.limit or EVERY)
    for job in found.jobs:
        at = times.get(job.id)
        left = None if at is None else max(0.0, at - now)
        if given.json:
            call.tell(job, left)
        else:
            call.say(f"{as_line(job, left):<40}  {title(job)}")
    if not given.json and found.total > len(found.jobs):
        _complain(f"{len(found.jobs)} of {found.total}; --limit 0 shows all.")
    return DONE


def cancel(call: Call) -> int:
    """Cancel jobs that wait, run, or are in review; status 1 if one had ended another way."""
    store, status = call.store(), DONE
    for found in [_find(store, beginning) for beginning in call.given.ids]:
        store.cancel(found.id)
        job = store.get(found.id) or found
        call.tell(job)
        if not (job.cancel or job.status is Status.CANCELLED):
            _complain(f"{job.id[:SHORT]} has ended already ({job.status}): there is nothing to cancel.")
            status = FAILED
    return status


def fetch(call: Call) -> int:
    """Copy a clip, whole or not at all."""
    store, given = call.store(), call.given
    job = _find(store, given.id)
    clip = store.data / job.draft.clip if job.draft.clip else None
    if clip is None or not clip.is_file():
        _complain(f"{job.id[:SHORT]} has no clip ({job.status}). `mova-studio wait {job.id[:SHORT]}` waits for it.")
        return FAILED
    target = given.output or Path(f"mova-{job.id[:SHORT]}.mp4")
    target = target / f"mova-{job.id[:SHORT]}.mp4" if target.is_dir() else target
    if target.exists() and not given.force:
        raise UseError(f"{target} is there already. Choose another name by -o, or overwrite it with --force.")
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        shutil.copyfile(clip, part)
        part.replace(target)
    except OSError as error:
        _complain(f"{target} can't be written ({error.strerror or error}). Choose another place by -o.")
        return FAILED
    finally:
        part.unlink(missing_ok=True)
    told = {"id": job.id, "file": str(target.absolute()), "bytes": target.stat().st_size}
    call.say(as_json(told) if given.json else str(target))
    return DONE


def examine(given: argparse.Namespace, overruled: dict[str, Path]) -> int:
    """Say what is well on this machine and what isn't; status 1 if anything is wrong."""
    wrong = False
    for check in doctor.examine(overruled, test=given.test):
        _put(as_json(check.as_object()) if given.json else check.as_text(), sys.stdout)
        wrong = wrong or check.state is doctor.State.WRONG
    return FAILED if wrong else DONE


def _wait(call: Call, store: JobStore, jobs: Sequence[Job]) -> int:
    show = _show(call, store)
    environment = os.environ | handed_on(
        call.settings, came_from(os.environ, [n for n in ("data",) if call.given.data])
    )
    start = None if call.given.no_worker else partial(keeper.start, store.data, environment, call.worker)
    try:
        ended = wait(store, jobs, show, Service(store, start), _complain)
    except KeyboardInterrupt:
        show.close()
        ids = " ".join(job.id[:SHORT] for job in jobs)
        goes_on = "the work goes on" if is_running(store.data) else "the jobs stay where they are"
        _complain(f"Stopped waiting; {goes_on}. `mova-studio wait {ids}` waits again, `cancel` ends it.")
        return INTERRUPTED
    except (NotServedError, OSError) as error:
        show.close()
        _complain(str(error))
        return FAILED
    show.close()
    return _conclude(call, ended)


def _show(call: Call, store: JobStore) -> Show:
    if call.given.json:
        return Objects(call.say, store.data)
    seen = sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).lines  # 0 where nobody told it a size
    return Bar(sys.stderr) if seen else Lines(_complain)


def _conclude(call: Call, jobs: Sequence[Job]) -> int:
    """Say what came of each; the status of the one that matters most."""
    found = set()
    for job in jobs:
        short, failure = job.id[:SHORT], job.failure
        match job.status:
            case Status.DONE if job.deleted_at is None:
                found.add(DONE)
                if not call.given.json:
                    call.say(f"{short}  done  {call.settings.data / (job.draft.clip or '')}")
            case Status.FAILED | Status.INTERRUPTED:
                found.add(FAILED)
                words = f"{failure.sentence} {failure.remedy}" if failure else "It ended without a clip."
                _complain(f"{short} {job.status}: {words}")
            case Status.REVIEW:
                found.add(IN_REVIEW)
                _complain(
                    f"{short} waits for its creator: look at it and let it go on at "
                    f"http://{call.settings.host}:{call.settings.port}/?job={job.id} (`mova-studio run` serves that)."
                )
            case _:
                found.add(CANCELLED)
                _complain(f"{short} was {'deleted' if job.deleted_at else 'cancelled'}.")
    return next((status for status in (FAILED, IN_REVIEW, CANCELLED) if status in found), DONE)


def _find(store: JobStore, beginning: str) -> Job:
    """The job whose id that is, or the only one whose id begins so."""
    beginning = beginning.strip().lower()
    if job := store.get(beginning):
        return job
    found = [job for job in store.find(Wanted(), per_page=EVERY).jobs if beginning and job.id.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UseError(f"There is no job {beginning!r} in {store.data}. `mova-studio list` shows all.")
    ids = ", ".join(job.id[: max(SHORT, len(beginning) + 4)] for job in found[:5])
    raise UseError(f"{beginning!r} may be any of {len(found)} jobs ({ids}…). Give more of its id.")


def _complain(text: str) -> None:
    _put(text, sys.stderr)


def _put(text: str, stream: TextIO) -> None:
    """Say it; once whoever read has enough, to nobody: the work goes on, to the exit status that it has."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


COMMANDS: dict[str, Callable[[Call], int]] = {
    "submit": submit,
    "wait": wait_for,
    "list": show_list,
    "cancel": cancel,
    "fetch": fetch,
}


if __name__ == "__main__":
    sys.exit(main())
