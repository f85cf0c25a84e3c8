"""Any order of calls by several workers and people leaves the queue as a simple model says, on both databases."""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from recsys.errors import ConfigError
from recsys.service.queue.errors import LeaseLost
from recsys.service.queue.open import open_queue
from recsys.service.queue.records import Claim, Needs, QueuedRun
from recsys.service.queue.sql import SqlQueue
from tests.service.queue.conftest import new_run

ROOM = Needs(3, 8 << 30)
HOSTS = {"w0": "h0", "w1": "h0", "w2": "h1"}
ENDED = ("finished", "failed", "cancelled")
MOST = 3  # attempts whose worker died


@dataclass
class Model:
    """One run, as the contract's text describes it."""

    id: str
    number: int
    priority: int
    cores: int
    after: list[str]
    parent: str | None
    state: str = "queued"
    attempt: int = 0
    deaths: int = 0
    host: str | None = None
    asked: bool = False
    current: int | None = None  # which of the claims holds it, or ended it
    lapsed: bool = False


@dataclass
class World:
    runs: dict[str, Model] = field(default_factory=dict)
    sweeps: list[str] = field(default_factory=list)

    def ready(self, host: str) -> Model | None:
        held = sum(r.cores for r in self.runs.values() if r.host == host and r.state in ("running", "unknown"))
        fits = [
            run
            for run in self.runs.values()
            if run.state == "queued" and run.cores <= 3 - held and all(self.state(a) == "finished" for a in run.after)
        ]
        return min(fits, key=lambda run: (-run.priority, run.number), default=None)

    def state(self, id: str) -> str:
        if id in self.runs:
            return self.runs[id].state
        states = [run.state for run in self.runs.values() if run.parent == id]
        if all(state == "queued" for state in states):
            return "queued"
        if any(state not in ENDED for state in states):
            return "running"
        return next(state for state in ("failed", "cancelled", "finished") if state in states)


class Protocol(RuleBasedStateMachine):
    queue: SqlQueue

    def __init__(self) -> None:
        super().__init__()
        self.queue = self.fresh()
        self.world, self.claims, self.seen = World(), list[Claim](), list[QueuedRun]()

    def fresh(self) -> SqlQueue:
        raise NotImplementedError

    def teardown(self) -> None:
        self.queue.close()

    def pick(self, data: st.DataObject, sweeps: bool = True) -> str:
        return data.draw(st.sampled_from([*self.world.runs, *(self.world.sweeps if sweeps else ())]))

    def add(self, run: QueuedRun) -> None:
        new = run.new
        self.world.runs[run.id] = Model(run.id, run.number, new.priority, new.needs.cores, new.after, new.parent)

    @rule(data=st.data(), priority=st.integers(-1, 1), cores=st.integers(1, 3))
    def submit(self, data: st.DataObject, priority: int, cores: int) -> None:
        known = [*self.world.runs, *self.world.sweeps]
        after = data.draw(st.lists(st.sampled_from(known), max_size=2, unique=True)) if known else []
        new = new_run("r", "/nowhere", priority=priority, needs=Needs(cores, 0), after=after)
        (run,) = self.queue.submit([new])
        self.add(run)

    @rule(size=st.integers(1, 3), chained=st.booleans())
    def submit_sweep(self, size: int, chained: bool) -> None:
        after = [["s/0"] if chained and i else [] for i in range(size)]
        children = [new_run(f"s/{i}", "/nowhere", parent="s", needs=Needs(1, 0), after=after[i]) for i in range(size)]
        sweep, *runs = self.queue.submit([new_run("s", "/nowhere", kind="sweep"), *children])
        self.world.sweeps.append(sweep.id)
        for run in runs:
            self.add(run)

    @rule(worker=st.sampled_from(list(HOSTS)))
    def claim(self, worker: str) -> None:
        expected, claim = self.world.ready(HOSTS[worker]), self.queue.claim(worker, HOSTS[worker], ROOM)
        assert (claim and claim.run.id) == (expected and expected.id)
        if claim and expected:
            self.claims.append(claim)
            expected.state, expected.host, expected.attempt = "running", HOSTS[worker], expected.attempt + 1
            expected.current, expected.lapsed, expected.asked = len(self.claims) - 1, False, False
            assert claim.run.attempt == expected.attempt

    def holder(self, number: int) -> Model | None:
        """The run that a claim still holds."""
        run = self.world.runs[self.claims[number].run.id]
        return run if run.current == number and run.state in ("running", "unknown") else None

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.claims) - 1))
        if (run := self.holder(number)) is None:
            with pytest.raises(LeaseLost):
                self.queue.beat(self.claims[number])
            return
        assert self.queue.beat(self.claims[number]) == run.asked
        run.state, run.lapsed = "running", False

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), state=st.sampled_from(["finished", "failed", "cancelled", "queued"]))
    def end(self, data: st.DataObject, state: str) -> None:
        number = data.draw(st.integers(0, len(self.claims) - 1))
        model = self.world.runs[self.claims[number].run.id]
        if (run := self.holder(number)) is None and (model.current != number or model.state != state):
            with pytest.raises(LeaseLost):
                self.queue.end(self.claims[number], state, 0, None)  # type: ignore[arg-type]
            return
        expected = "cancelled" if run and run.asked and state == "queued" else state
        assert self.queue.end(self.claims[number], state, 0, None).state == expected  # type: ignore[arg-type]
        if run:
            run.state = expected
            run.current = None if state == "queued" and expected == "queued" else number

    @rule()
    def lapse(self) -> None:
        """Half a minute passes without a heartbeat."""
        with self.queue.changing() as connection:
            connection.exec_driver_sql(
                "UPDATE runs SET lease_until = lease_until - 31, heartbeat_at = heartbeat_at - 31"
            )
        for run in self.world.runs.values():
            run.lapsed = run.lapsed or run.state in ("running", "unknown")

    @rule()
    def look(self) -> None:
        overdue = self.queue.overdue()
        held = [r.id for r in self.world.runs.values() if r.state in ("running", "unknown") and r.lapsed]
        assert [run.id for run in overdue] == held
        self.seen = overdue  # judged now or later, when they may have been renewed

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), dead=st.booleans())
    def take_back(self, data: st.DataObject, dead: bool) -> None:
        seen = data.draw(st.sampled_from(self.seen))
        before = self.queue.get(seen.id)
        run = self.world.runs[seen.id]
        state = self.queue.take_back(seen, dead, MOST).state
        same = ("state", "attempt", "lease_until", "heartbeat_at")
        if any(getattr(before, key) != getattr(seen, key) for key in same):
            assert state == before.state
        elif dead:
            run.deaths, run.current = run.deaths + 1, None
            run.state = "cancelled" if run.asked else "failed" if run.deaths >= MOST else "queued"
        else:
            run.state = "unknown"

    @precondition(lambda self: self.world.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = self.pick(data)
        if self.world.state(id) in ENDED:
            with pytest.raises(ConfigError, match="ended already"):
                self.queue.cancel(id)
            return
        self.queue.cancel(id)
        for run in self.world.runs.values():
            if id in (run.id, run.parent) and run.state not in ENDED:
                run.asked = True
                if run.state == "queued":
                    run.state, run.current = "cancelled", None

    @precondition(lambda self: self.world.runs)
    @rule(data=st.data(), dead=st.booleans())
    def resume(self, data: st.DataObject, dead: bool) -> None:
        id = self.pick(data)
        runs = self.world.runs
        if id in runs:
            run = runs[id]
            begun = run.attempt > 0 or run.parent is not None  # one of a sweep goes on with the sweep
            again = (run.state in ("failed", "cancelled") and begun) or (dead and run.state == "unknown")
            runs_again = [run] if again else []
        else:
            runs_again = [r for r in runs.values() if r.parent == id and r.state in ("failed", "cancelled")]
        if not runs_again:
            with pytest.raises(ConfigError):
                self.queue.resume(id, dead)
            return
        self.queue.resume(id, dead)
        for run in runs_again:
            run.state, run.asked, run.deaths, run.current = "queued", False, 0, None

    @precondition(lambda self: self.world.runs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self.add(self.queue.retry(self.pick(data, sweeps=False)))

    @invariant()
    def states_are_those_of_the_model(self) -> None:
        rows = {run.id: run for run in self.queue.find(limit=1000)}
        assert {id: run.state for id, run in rows.items()} == {
            id: self.world.state(id) for id in [*self.world.runs, *self.world.sweeps]
        }
        for id, run in self.world.runs.items():
            assert rows[id].attempt == run.attempt
            assert (rows[id].ended_at is not None) == (run.state in ENDED)


def machine(url: str, clear: Any) -> type[Protocol]:
    class OnDatabase(Protocol):
        def fresh(self) -> SqlQueue:
            clear()
            return open_queue(url)

    return OnDatabase


@pytest.fixture
def protocol(url: str, request: pytest.FixtureRequest) -> Generator[type[Protocol]]:
    def clear() -> None:
        if url.startswith("sqlite"):
            for path in Path(url.removeprefix("sqlite:///")).parent.glob("service.db*"):
                path.unlink()
        else:
            request.getfixturevalue("server").clear()

    yield machine(url, clear)


CALM = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def test_the_protocol(protocol: type[Protocol]) -> None:
    run_state_machine_as_test(protocol, settings=settings(max_examples=6, stateful_step_count=25, **CALM))


@pytest.mark.slow
def test_the_protocol_at_length(protocol: type[Protocol]) -> None:
    run_state_machine_as_test(protocol, settings=settings(max_examples=150, stateful_step_count=50, **CALM))
