"""``mova-studio doctor``: settings, checkpoints, store, worker, servers and providers, after the machine itself.

Each comes as one ``Check`` with what to do about it. No key is ever told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app import endpoints, installed, plans, servers
from app.checkpoints import checkpoint_folder, find_checkpoints
from app.explain import without
from app.installed import Check, State
from app.jobs import HUNG_SECONDS, Job, Mode, Status
from app.probes import Failed, Passed, Probes, Running
from app.schema import DATABASE, MIGRATIONS, StoreError, connected
from app.settings import Server, Settings, SettingsError, load, secrets
from app.store import JobStore
from app.texts import Language, duration, size
from app.worker import is_running
from mova.layout import MODEL_INDEX
from mova.plan import DoesNotFit

__all__ = ["Check", "State", "examine"]

SERVER_REMEDIES = {
    servers.State.WARMING_UP: "It comes by itself; with torch.compile that takes minutes.",
    servers.State.UNHEALTHY: "Start the server anew: it won't come back by itself.",
    servers.State.UNREACHABLE: "Start the server, or mend its address: {variable}__BASE_URL.",
    servers.State.DENIED: "Set {variable}__TOKEN to what the proxy in front of it asks for.",
    servers.State.TOO_OLD: "Update the server: SGLang 0.5.23 tells of progress and of workers that died.",
    servers.State.OTHER_MODEL: "Start it with a MOVA checkpoint, or take it out of the settings.",
    servers.State.NOT_SGLANG: "Mend its address: {variable}__BASE_URL.",
}
LOOK_SECONDS = 0.1  # between two looks at trials under way
SERVE = "`mova-studio run` serves it; `mova-studio wait ID` starts a worker for as long as it is needed."


def examine(given: Mapping[str, Path], *, test: bool = False) -> Iterator[Check]:
    """Everything, one by one as it is known. ``given`` overrules settings; ``test`` calls the providers too."""
    try:
        settings = load(**given)
    except SettingsError as error:
        yield from installed.checks(given.get("data", Path("data")))
        yield Check("settings", State.WRONG, str(error), "The rest can't be looked at before that.")
        return
    keys = secrets(settings.providers) + _tokens(settings)
    for check in _all(settings, test=test):
        yield Check(check.name, check.state, without(check.said, keys), without(check.remedy, keys))


def _all(settings: Settings, *, test: bool) -> Iterator[Check]:
    yield from installed.checks(settings.data, settings.device)
    yield from checkpoints(settings)
    yield from plan(settings)
    yield from store(settings.data)
    yield from sglang(settings.sglang)
    yield from providers(settings, test=test)


def checkpoints(settings: Settings) -> Iterator[Check]:
    """Each checkpoint: complete, or what it lacks."""
    real = [info for info in find_checkpoints(settings.data, settings.checkpoint) if not info.playground]
    for info in real:
        if info.problems:
            more = f" (and {len(info.problems) - 1} more)" if len(info.problems) > 1 else ""
            yield Check("checkpoint", State.WRONG, f"{info.path}: {info.problems[0]}{more}")
            continue
        size = sum(part.bytes for part in info.components) / 1e9
        yield Check("checkpoint", State.OK, f"{info.name} is complete: {info.path}, {size:.1f} GB")
    folder = checkpoint_folder(settings.data)
    for begun in sorted(folder.iterdir()) if folder.is_dir() else ():
        if begun.is_dir() and any(begun.iterdir()) and not (begun / MODEL_INDEX).exists():
            said = f"{begun} has no {MODEL_INDEX}, so that it isn't offered."
            yield Check("checkpoint", State.ATTENTION, said, "Let its download finish, or take the folder away.")
    if real:
        return
    said = "There is the playground only, whose clips are noise"
    if settings.sglang:
        yield Check("checkpoint", State.OK, f"{said}; servers make the others.")
        return
    remedy = f"Put OpenMOSS-Team/MOVA-360p or MOVA-720p (77.7 GB each) into {folder}, or set STUDIO_CHECKPOINT."
    yield Check("checkpoint", State.ATTENTION, f"{said}.", remedy)


def plan(settings: Settings) -> Iterator[Check]:
    """How the usual clip of each real checkpoint would be made here, by the settings as they are."""
    for info in find_checkpoints(settings.data, settings.checkpoint):
        model = None if info.playground or info.problems else plans.model_of(info.path)
        if model is None:
            continue
        spec, found = info.default_spec, plans.resources_of(info.path, settings.device)
        how = plans.How(settings.offload, settings.preset, settings.device, settings.dtype)
        clip = f"{info.name}, {spec.width}x{spec.height}, {spec.duration:.0f} s"
        if outlook := plans.outlook(model, spec, found, how):
            yield planned(clip, outlook)


def planned(clip: str, outlook: plans.Outlook) -> Check:
    """That it fits, in what and how; or by how much it doesn't, and what would."""
    if isinstance(outlook, DoesNotFit):
        remedy = " ".join(map(str, outlook.remedies))
        return Check("plan", State.ATTENTION, f"{clip}: {plans.lacking(outlook, Language.EN)}", remedy)
    vram = "" if outlook.device == "cpu" else f"{size(outlook.vram)} of VRAM, "
    time = "" if outlook.seconds is None else f", about {duration(outlook.seconds, Language.EN)} (estimated)"
    said = f"{clip}: {plans.in_words(outlook, Language.EN)} At most {vram}{size(outlook.ram)} of RAM{time}"
    return Check("plan", State.OK, said)


def store(data: Path) -> Iterator[Check]:
    """The store's file, whole and of this studio's version, and whether somebody works on what it holds."""
    file = data / DATABASE
    if not file.is_file():
        parent = next(folder for folder in (data, *data.absolute().parents) if folder.exists())
        if not os.access(parent, os.W_OK) or not parent.is_dir():
            remedy = "Let the folder be written to, or choose another one by --data."
            yield Check("store", State.WRONG, f"{data} can't be made or written to.", remedy)
        else:
            yield Check("store", State.OK, f"There are no jobs in {data} yet.")
        return
    try:
        with connected(data, patience=5.0) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            said = [str(row[0]) for row in db.execute("PRAGMA integrity_check(5)")]
        yield (found := _sound(file, version, said))
        if found.state is State.OK:
            yield worker(JobStore(data, patience=5.0))
    except StoreError as error:
        yield Check("store", State.WRONG, str(error))
    except OSError as error:  # of the worker's lock
        remedy = "Let the folder be written to by whoever runs the studio."
        yield Check("worker", State.WRONG, f"{error.filename or data}: {error.strerror or error}", remedy)


def worker(store: JobStore, clock: Callable[[], float] = time.time) -> Check:
    """Whether the queue is served, if there is anything in it."""
    queue, serves, said = store.queue(), is_running(store.data), store.worker()
    running = [job for job in queue if job.status is Status.RUNNING]
    waiting = len(queue) - len(running)
    if serves:
        if hung := _hung(running, clock()):
            minutes = hung.silent(clock()) / 60
            remedy = "End it on the page Queue, or end its process; the job can be started again."
            pid = said.pid if said else "unknown"
            return Check("worker", State.WRONG, f"Process {pid} hasn't reported for {minutes:.0f} minutes.", remedy)
        paused = ", paused" if store.mode() is not Mode.RUNNING else ""
        pid = f"Process {said.pid} serves" if said else "A worker serves"
        return Check("worker", State.OK, f"{pid} the folder: {len(running)} running, {waiting} waiting{paused}")
    if running:
        return Check("worker", State.ATTENTION, "A job is said to run, and no worker is there.", SERVE)
    if waiting:
        return Check("worker", State.ATTENTION, f"Nobody serves the folder; jobs that wait: {waiting}.", SERVE)
    return Check("worker", State.OK, "None runs, and nothing waits.")


def sglang(configured: Mapping[str, Server]) -> Iterator[Check]:
    """Each SGLang server, asked for its health and its release."""
    if not configured:
        yield Check("sglang", State.OK, "No server is set up: clips are made on this machine.")
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        looks = {name: pool.submit(servers.look, name, server) for name, server in configured.items()}
        for name, pending in looks.items():
            seen, where = pending.result(), servers.address_of(configured[name])
            if seen.error is None:
                yield Check(f"sglang:{name}", State.OK, f"{where} is ready: {seen.model}, SGLang {seen.version}")
                continue
            state = State.ATTENTION if seen.state is servers.State.WARMING_UP else State.WRONG
            remedy = SERVER_REMEDIES[seen.state].format(variable=f"STUDIO_SGLANG__{name.upper()}")
            yield Check(f"sglang:{name}", state, f"{where}: {seen.error}", remedy)


def providers(settings: Settings, *, test: bool) -> Iterator[Check]:
    """Each endpoint that the studio was told of; with ``test`` by the smallest real call."""
    rows = [row for row in endpoints.all_rows(settings.providers) if row.configured]
    if not rows:
        yield Check("providers", State.OK, "None is set up: the built-in rules do Full Workflow, without any model.")
    probes = Probes()
    for row in rows:
        if test and _can_be_tried(row):
            probes.start(row.name, settings.providers)
    for row in rows:
        name = f"provider:{row.name}"
        if row.state is endpoints.State.BROKEN:
            yield Check(name, State.WRONG, row.problem or "What was set can't be used.")
        elif row.state is endpoints.State.KEY_MISSING:
            yield Check(name, State.WRONG, f"{row.title} has no key.", f"Set {row.key_variable}.")
        elif test and _can_be_tried(row):
            yield _tried(name, row, probes)
        else:
            key = "a key is set" if row.state is endpoints.State.KEY_SET else "no key is needed"
            where = f" at {row.address}" if row.address else ""
            trial = "--test makes a real call" if _can_be_tried(row) else "untried: no model of it is known"
            yield Check(name, State.OK, f"{row.title}{where}: {key} ({trial})")


def _can_be_tried(row: endpoints.Row) -> bool:
    return row.usable and bool(row.models)


def _tried(name: str, row: endpoints.Row, probes: Probes) -> Check:
    """What came of the trial, which ends by the endpoint's own time limit."""
    while isinstance(outcome := probes.result(row.name), Running):
        time.sleep(LOOK_SECONDS)
    match outcome:
        case Passed(trial) if trial.seconds is None:
            return Check(name, State.OK, f"{row.title}: the files of {trial.model} are there")
        case Passed(trial):
            return Check(name, State.OK, f"{row.title}: {trial.model} answered in {trial.seconds:.1f} s")
        case Failed(sentence):
            return Check(name, State.WRONG, sentence)
    return Check(name, State.WRONG, f"{row.title} wasn't tried.")


def _sound(file: Path, version: int, said: list[str]) -> Check:
    known = len(MIGRATIONS)
    if said != ["ok"]:
        remedy = f"Keep a copy of it, then mend it: sqlite3 {file.name} .recover."
        return Check("store", State.WRONG, f"{file} is damaged: {'; '.join(said)}", remedy)
    if version > known:
        remedy = "Update the studio, or choose another folder with --data."
        return Check("store", State.WRONG, f"{file} is of a newer studio (schema {version}, here {known}).", remedy)
    if version < known:
        remedy = "Nothing is to be done: the studio brings it up to date when it is next started."
        return Check(
            "store", State.ATTENTION, f"{file} is of an older studio (schema {version}, here {known}).", remedy
        )
    return Check("store", State.OK, f"{file} is whole (schema {version})")


def _hung(running: list[Job], now: float) -> Job | None:
    return next((job for job in running if job.silent(now) > HUNG_SECONDS), None)


def _tokens(settings: Settings) -> tuple[str, ...]:
    tokens = (settings.token, *(server.token for server in settings.sglang.values()))
    return tuple(value for token in tokens if token and (value := token.get_secret_value()))
