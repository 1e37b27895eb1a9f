"""Any sequence of calls, against a model of what each is to do: no job is lost, doubled or run again once done."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import get_args

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from app.jobs import Draft, Mode, Place, Progress, Status, Wanted
from app.store import JobStore
from tests.app.conftest import make_brief

ENDS = (Status.DONE, Status.FAILED, Status.CANCELLED, Status.INTERRUPTED)


class Store(RuleBasedStateMachine):
    """The model: each job's status, which are deleted, which are to be cancelled, and the order of those that wait."""

    jobs = Bundle("jobs")

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = JobStore(self.folder)
        self.status: dict[str, Status] = {}
        self.order: list[str] = []  # of all jobs, by position
        self.deleted: set[str] = set()
        self.cancelled: set[str] = set()
        self.done: set[str] = set()
        self.paused = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(target=jobs)
    def submit(self) -> str:
        job = self.store.submit(make_brief())
        assert job.id not in self.status
        self.status[job.id] = Status.QUEUED
        self.order.append(job.id)
        return job.id

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        self.store.cancel(job)
        if self.status[job].active:
            self.cancelled.add(job)
        if self.status[job] is Status.QUEUED:
            self.status[job] = Status.CANCELLED

    @rule(job=jobs)
    def requeue(self, job: str) -> None:
        self.store.requeue(job)
        if self.status[job] in (Status.FAILED, Status.CANCELLED, Status.INTERRUPTED) and job not in self.deleted:
            self.status[job] = Status.QUEUED
            self.cancelled.discard(job)
            self._put(job, len(self.order))

    @rule(job=jobs)
    def delete(self, job: str) -> None:
        self.store.delete(job)
        if job not in self.deleted and self.status[job] is Status.RUNNING:
            self.cancelled.add(job)
        self.deleted.add(job)

    @rule(job=jobs)
    def restore(self, job: str) -> None:
        self.store.restore(job)
        self.deleted.discard(job)

    @rule(job=consumes(jobs))
    def purge(self, job: str) -> None:
        """Everything that is deleted, now; at least this one, unless it runs."""
        self.store.delete(job)
        if job not in self.deleted and self.status[job] is Status.RUNNING:
            self.cancelled.add(job)
        self.deleted.add(job)
        gone = {name for name in self.deleted if self.status[name] is not Status.RUNNING}
        assert set(self.store.purge(-60)) == gone
        self.deleted -= gone
        self.order = [name for name in self.order if name not in gone]
        self.gone = gone

    @rule(job=jobs, to=st.sampled_from(get_args(Place)))
    def move(self, job: str, to: Place) -> None:
        self.store.move(job, to)
        waiting = self._waiting()
        if job not in waiting:
            return
        at = waiting.index(job)
        if to in ("first", "last"):
            self._put(job, 0 if to == "first" else len(self.order))
        elif 0 <= (other := at + (1 if to == "down" else -1)) < len(waiting):
            one, two = self.order.index(job), self.order.index(waiting[other])
            self.order[one], self.order[two] = self.order[two], self.order[one]

    @rule()
    def claim(self) -> None:
        job = self.store.claim()
        waiting = self._waiting()
        if self.paused or not waiting:
            assert job is None
            return
        assert job is not None
        assert job.id == waiting[0]
        assert job.id not in self.done, "a done job is never run again"
        self.status[job.id] = Status.RUNNING

    @rule(job=jobs)
    def report(self, job: str) -> None:
        stop = self.store.report(job, Progress(phase="text", step=0, total=1))
        assert stop == (self.status[job] is not Status.RUNNING or job in self.cancelled)

    @rule(job=jobs)
    def save(self, job: str) -> None:
        self.store.save(job, Draft(prompt="saved"))

    @rule(job=jobs, end=st.sampled_from(ENDS))
    def close(self, job: str, end: Status) -> None:
        self.store.close(job, end)
        if self.status[job] is Status.RUNNING:
            self.status[job] = end
            if end is Status.DONE:
                self.done.add(job)

    @rule()
    def recover(self) -> None:
        running = [job for job in self.order if self.status[job] is Status.RUNNING]
        assert sorted(self.store.recover()) == sorted(running)
        for job in running:
            self.status[job] = Status.CANCELLED if job in self.cancelled else Status.INTERRUPTED

    @rule()
    def pause_after(self) -> None:
        self.store.pause_after()
        self.paused = True

    @rule()
    def pause_now(self) -> None:
        self.store.pause_now()
        self.paused = True
        for job in [job for job in reversed(self.order) if self.status[job] is Status.RUNNING]:
            self.status[job] = Status.CANCELLED if job in self.cancelled else Status.QUEUED
            self._put(job, 0)

    @rule()
    def resume(self) -> None:
        self.store.resume()
        self.paused = False

    @invariant()
    def every_job_is_there_once_and_as_it_should_be(self) -> None:
        if not hasattr(self, "store"):
            return
        here = [job for job in self.order if job not in self.deleted]
        found = self.store.history(1000)
        assert sorted(job.id for job in found) == sorted(here)
        assert {job.id: job.status for job in found} == {job: self.status[job] for job in here}
        assert self.store.find(Wanted(), per_page=1).total == len(here)
        assert [job.id for job in self.store.queue() if job.status is Status.QUEUED] == self._waiting()
        everyone = [self.store.get(job) for job in self.order]
        positions = [job.position for job in everyone if job]
        assert len(positions) == len(self.order)
        assert positions == sorted(set(positions)), "the order is strict"

    @invariant()
    def the_mode_is_told(self) -> None:
        if not hasattr(self, "store"):
            return
        busy = any(self.status[job] is Status.RUNNING for job in self.order)
        mode = self.store.mode()
        assert (mode is not Mode.RUNNING) == self.paused
        assert mode is not Mode.FINISHING or busy

    def _waiting(self) -> list[str]:
        return [job for job in self.order if self.status[job] is Status.QUEUED and job not in self.deleted]

    def _put(self, job: str, place: int) -> None:
        self.order.remove(job)
        self.order.insert(place, job)


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
