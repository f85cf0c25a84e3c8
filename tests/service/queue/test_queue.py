"""The queue's contract, each method on SQLite and on Postgres."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from recsys.errors import ConfigError
from recsys.service.queue.errors import LeaseLost
from recsys.service.queue.records import Claim, Live, Needs, NewRun
from recsys.service.queue.sql import SqlQueue
from tests.service.queue.conftest import ROOM

New = Callable[..., NewRun]
Jump = Callable[[SqlQueue, float], None]


def take(queue: SqlQueue, worker: str = "w1", host: str = "h1", room: Needs = ROOM) -> Claim:
    claim = queue.claim(worker, host, room)
    assert claim is not None
    return claim


def states(queue: SqlQueue) -> dict[str, str]:
    return {run.id: run.state for run in queue.find(limit=1000)}


def test_what_was_submitted_is_what_is_read(queue: SqlQueue, new: New) -> None:
    full = new(
        "20260101-000000-käufer-0",
        overrides=["name=käufer", 'x="a b"', "y=😀"],
        config={"a": {"ß": [1, 2.5, None, float("inf")]}},
        experiment="demo",
        client_key="k",
        priority=-3,
        needs=Needs(2, 3 << 30, 1),
        git={"commit": "abc", "dirty": True},
        user="you",
    )
    (run,) = queue.submit([full])
    assert run.new == full and queue.get(full.id) == run
    assert (run.state, run.attempt, run.owner, run.ended_at) == ("queued", 0, None, None)
    (listed,) = queue.find()
    assert listed == replace(run, new=replace(full, config={}))
    assert queue.configs([full.id, "none"]) == {full.id: full.config}
    with pytest.raises(ConfigError, match="UTF-8"):  # a byte of an argument that is no text
        queue.submit([new("a"), new("b", overrides=["y=\udce9"])])
    with pytest.raises(ConfigError, match="NUL"):
        queue.submit([new("a"), new("b", overrides=["y=\0"])])
    (backslash,) = queue.submit([new("c", overrides=["y=\\u0000"])])
    assert queue.get(backslash.id).new.overrides == ["y=\\u0000"]
    assert len(queue.find()) == 2


def test_names_that_are_taken_get_letters_and_children_follow_their_sweep(queue: SqlQueue, new: New) -> None:
    sweep = [new("s", kind="sweep"), new("s/0", parent="s"), new("s/1", parent="s", after=["s/0"])]
    queue.submit(sweep)
    again = queue.submit(sweep)
    assert [run.id for run in again] == ["s-b", "s-b/0", "s-b/1"]
    assert again[2].new.parent == "s-b" and again[2].new.after == ["s-b/0"] and again[2].reason == "waits for s-b/0"
    assert [run.id for run in queue.submit([new("a"), new("a"), new("a")])] == ["a", "a-b", "a-c"]
    (waiting,) = queue.submit([new("a", after=["a"])])
    assert (waiting.id, waiting.new.after) == ("a-d", ["a"])  # no run waits for itself: it means the one that is there


def test_a_folder_that_is_there_takes_its_name(queue: SqlQueue, new: New, tmp_path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert queue.submit([new("a")])[0].id == "a-b"


def test_a_client_key_is_one_run(queue: SqlQueue, new: New) -> None:
    (first,) = queue.submit([new("a", client_key="k")])
    assert queue.submit([new("b", client_key="k"), new("c", client_key="k")]) == [first, first]
    with pytest.raises(ConfigError, match=r"key 'k': run a has it, with another configuration .* give another key"):
        queue.submit([new("d", client_key="k", digest="1" * 16)])
    sweep = [new("s/0", parent="s"), new("s", kind="sweep", client_key="s"), new("s/1", parent="s")]
    assert queue.submit(sweep) == queue.submit(sweep)
    assert sorted(states(queue)) == ["a", "s", "s/0", "s/1"]


def test_order_is_priority_then_age(queue: SqlQueue, new: New) -> None:
    queue.submit([new("a"), new("b", priority=1), new("c", priority=1), new("d", priority=-1)])
    assert [take(queue).run.id for _ in range(4)] == ["b", "c", "a", "d"]
    assert queue.claim("w1", "h1", ROOM) is None


def test_runs_fit_beside_each_other_on_a_host(queue: SqlQueue, new: New, jump: Jump) -> None:
    big, gpu = Needs(3, 1 << 30), Needs(1, 1 << 30, 1)
    queue.submit([new("big", needs=big), new("big2", needs=big), new("gpu", needs=gpu), new("gpu2", needs=gpu)])
    queue.submit([new("memory", needs=Needs(1, 8 << 30))])
    first = take(queue)
    assert first.run.id == "big"
    assert take(queue, "w2").run.id == "gpu"  # another worker of the same machine sees the same slots
    assert queue.claim("w2", "h1", ROOM) is None
    assert take(queue, "w3", "h2").run.id == "big2"
    assert queue.load().used == {"h1": Needs(4, 2 << 30, 1), "h2": big}
    jump(queue, 60)
    (lost, *_) = queue.overdue()
    assert queue.take_back(lost, False, 3).state == "unknown"
    assert queue.claim("w2", "h1", ROOM) is None  # what may still run takes its slots
    queue.end(first, "finished", 0, None)
    assert queue.claim("w1", "h1", ROOM) is None  # gpu2 waits for the GPU, memory for the memory
    assert take(queue, "w4", "h3").run.id == "gpu2"


def test_a_run_waits_until_all_before_it_have_finished(queue: SqlQueue, new: New) -> None:
    queue.submit([new("c", after=["a", "b"]), new("a"), new("b")])
    a, b = take(queue), take(queue)
    assert (a.run.id, b.run.id, queue.claim("w1", "h1", ROOM)) == ("a", "b", None)
    assert queue.get("c").reason == "waits for a; b"
    queue.end(a, "finished", 0, None)
    queue.end(b, "failed", 1, "no disk")
    assert queue.claim("w1", "h1", ROOM) is None
    assert queue.get("c").reason == "waits for b, which is failed: recsys resume b"
    queue.resume("b")
    queue.end(take(queue), "finished", 0, None)
    assert take(queue).run.id == "c" and queue.get("c").reason is None
    (late,) = queue.submit([new("d", after=["a", "b"])])
    assert late.reason is None and take(queue).run.id == "d"


def test_circles_and_unknown_names_are_refused_and_nothing_is_added(queue: SqlQueue, new: New) -> None:
    queue.submit([new("20260101-demo-0"), new("s", kind="sweep"), new("x", after=["s"])])
    bad: dict[str, list[NewRun]] = {
        r"circle: [abc] → [abc] → [abc] → [abc]: leave": [
            new("a", after=["b"]),
            new("b", after=["c"]),
            new("c", after=["a"]),
        ],
        r"expected the id of a run, got '20260101-dmeo-0': the nearest are 20260101-demo-0": [
            new("ok"),
            new("a", after=["20260101-dmeo-0"]),
        ],
        r"got 'none'": [new("a", parent="none")],
        r"circle: .*s.*x": [new("s/0", parent="s", after=["x"])],  # x waits for the sweep, and so for its children
    }
    for message, runs in bad.items():
        with pytest.raises(ConfigError, match=message):
            queue.submit(runs)
    assert sorted(states(queue)) == ["20260101-demo-0", "s", "x"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "../up"}, "id: expected a path below"),
        ({"id": "/etc"}, "id: expected a path below"),
        ({"id": "a//b"}, "id: expected a path below"),
        ({"id": ""}, "id: expected a path below"),
        ({"id": "a\x1b[1m"}, "id: expected a path below"),
        ({"name": "a\0b"}, "name: expected printable letters"),
        ({"client_key": "a\n"}, "key: expected printable letters"),
        ({"priority": 1 << 40}, "priority: expected a whole number from"),
        ({"needs": Needs(0)}, "cores: expected a whole number from 1 "),
        ({"needs": Needs(1, -1)}, "memory: expected"),
    ],
)
def test_bad_submissions_say_what_was_expected(queue: SqlQueue, new: New, changes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        queue.submit([new(**changes)])


def test_a_run_that_can_never_fit_is_refused(queue: SqlQueue, new: New, jump: Jump) -> None:
    huge = new("huge", needs=Needs(64, 1 << 40, 8))
    queue.submit([huge])  # nobody knows which workers will come
    queue.attend("w1", "h1", ROOM)
    message = (
        r"huge-b needs 64 cores, 1.02e\+03 GiB, 8 GPUs, which no worker can ever give: w1 has 4 cores, 8 GiB, 1 GPUs"
    )
    with pytest.raises(ConfigError, match=message):
        queue.submit([huge])
    queue.attend("w2", "h2", Needs(128, 2 << 40, 8))
    queue.submit([huge])
    assert [w.name for w in queue.load().workers] == ["w1", "w2"]
    queue.leave("w2")
    with pytest.raises(ConfigError):
        queue.submit([huge])
    jump(queue, 2 * 24 * 3600)
    assert queue.load().workers == [] and queue.submit([huge])


def test_only_the_newest_token_changes_a_run(queue: SqlQueue, new: New, jump: Jump) -> None:
    queue.submit([new("a")])
    old = take(queue)
    queue.began(old, 10, 10, "boot", 5)
    jump(queue, 60)
    queue.take_back(queue.overdue()[0], True, 3)
    current = take(queue, "w2", "h2")
    before = queue.get("a")
    assert before.pid is None  # the process of the earlier attempt says nothing of this one
    for call in (
        lambda: queue.beat(old),
        lambda: queue.began(old, 1, 1, "b", 1),
        lambda: queue.note(old, Live(stage="train")),
        lambda: queue.end(old, "finished", 0, None),
        lambda: queue.end(old, "queued", 0, None),
    ):
        with pytest.raises(
            LeaseLost, match=r"run a: expected attempt 1 of worker w1 .* running \(attempt 2, worker w2\)"
        ):
            call()
    assert queue.get("a") == before and queue.load().lost == 1
    assert queue.end(current, "finished", 0, None).state == "finished"
    with pytest.raises(LeaseLost, match="it is finished"):
        queue.beat(current)


def test_an_end_whose_answer_was_lost_may_be_said_again(queue: SqlQueue, new: New) -> None:
    queue.submit([new("a")])
    claim = take(queue)
    ended = queue.end(claim, "failed", 1, "a\nb")
    assert (ended.exit, ended.reason, ended.state) == (1, "a b", "failed") and ended.ended_at is not None
    events = queue.events()
    assert queue.end(claim, "failed", 1, "a\nb") == ended and queue.events() == events
    with pytest.raises(LeaseLost):
        queue.end(claim, "finished", 0, None)
    with pytest.raises(ValueError, match="not as running"):
        queue.end(claim, "running", None, None)


def test_a_run_that_is_given_back_goes_on_elsewhere(queue: SqlQueue, new: New) -> None:
    queue.submit([new("a")])
    claim = take(queue)
    assert queue.end(claim, "queued", None, "the worker ends").state == "queued"
    with pytest.raises(LeaseLost):
        queue.beat(claim)
    again = take(queue, "w2")
    assert again.run.attempt == 2 and again.run.started_at == claim.run.started_at
    queue.cancel("a")
    assert queue.end(again, "queued", None, None).state == "cancelled"  # nobody wants it any more


def test_a_heartbeat_renews_the_lease_and_brings_the_wish_to_stop(queue: SqlQueue, new: New, jump: Jump) -> None:
    queue.submit([new("a")])
    claim = take(queue)
    assert queue.overdue() == [] and claim.lease_seconds == 30
    jump(queue, 25)
    assert queue.beat(claim) is False
    jump(queue, 25)
    assert queue.overdue() == []
    queue.cancel("a")
    assert queue.beat(claim) is True and queue.get("a").state == "running"
    jump(queue, 31)
    assert [run.id for run in queue.overdue()] == ["a"]


@pytest.mark.parametrize("seconds", [-7200, 7200])
def test_a_clock_that_jumps_makes_leases_looked_at_and_no_run_is_lost_or_run_twice(
    queue: SqlQueue, new: New, jump: Jump, seconds: float
) -> None:
    queue.submit([new("a"), new("b")])
    claim = take(queue)
    jump(queue, seconds)  # forwards, leases have ended; backwards, they began in the future
    (seen,) = queue.overdue()
    assert queue.get("a").state == "running"
    assert queue.beat(claim) is False  # its worker lives
    assert queue.overdue() == []
    assert queue.take_back(seen, True, 3).state == "running"  # the verdict is of before: nothing changes
    assert take(queue).run.id == "b"


def test_a_dead_worker(queue: SqlQueue, new: New, jump: Jump) -> None:
    queue.submit([new("a")])
    for attempt in (1, 2):
        assert take(queue).run.attempt == attempt
        jump(queue, 31)
        back = queue.take_back(queue.overdue()[0], True, 3)
        assert back.state == "queued" and back.reason == "worker w1 on h1 died: goes on from its checkpoint"
    take(queue)
    jump(queue, 31)
    back = queue.take_back(queue.overdue()[0], True, 3)
    assert back.state == "failed" and "died 3 times" in (back.reason or "")
    assert queue.resume("a").state == "queued"
    take(queue)
    jump(queue, 31)
    assert queue.take_back(queue.overdue()[0], True, 3).state == "queued"  # resuming counts anew
    take(queue)
    queue.cancel("a")
    jump(queue, 31)
    assert queue.take_back(queue.overdue()[0], True, 3).state == "cancelled"


def test_a_worker_that_may_be_dead(queue: SqlQueue, new: New, jump: Jump) -> None:
    queue.submit([new("a"), new("b")])
    claim, other = take(queue), take(queue)
    jump(queue, 31)
    for run in queue.overdue():
        assert queue.take_back(run, False, 3).state == "unknown"
    events = queue.events()
    for run in queue.overdue():  # somebody may find out later
        assert queue.take_back(run, False, 3).state == "unknown"
    assert queue.events() == events
    assert queue.claim("w2", "h2", ROOM) is None
    assert queue.beat(claim) is False and queue.get("a").state == "running"  # it was only slow
    with pytest.raises(ConfigError, match="recsys resume b --dead"):
        queue.resume("b")
    assert queue.resume("b", dead=True).state == "queued"
    with pytest.raises(LeaseLost):
        queue.beat(other)
    with pytest.raises(ConfigError):
        queue.resume("a", dead=True)


def prepare_state(queue: SqlQueue, new: New, jump: Jump, state: str) -> Claim | None:
    queue.submit([new("a")])
    if state in ("queued", "cancelled before it started"):
        if state != "queued":
            queue.cancel("a")
        return None
    claim = take(queue)
    if state in ("finished", "failed", "cancelled"):
        queue.end(claim, state, 0, None)  # type: ignore[arg-type]
    if state == "unknown":
        jump(queue, 31)
        queue.take_back(queue.overdue()[0], False, 3)
    return claim


EVERY = ["queued", "running", "unknown", "finished", "failed", "cancelled", "cancelled before it started"]


@pytest.mark.parametrize("state", EVERY)
def test_cancel_in_every_state(queue: SqlQueue, new: New, jump: Jump, state: str) -> None:
    prepare_state(queue, new, jump, state)
    if state in ("queued", "running", "unknown"):
        after = "cancelled" if state == "queued" else state
        assert queue.cancel("a").state == after and queue.get("a").cancel_asked_at is not None
        if state != "queued":
            once = queue.events()
            assert queue.cancel("a") == queue.get("a") and queue.events() == once
    else:
        with pytest.raises(ConfigError, match="run a has ended already"):
            queue.cancel("a")


@pytest.mark.parametrize("state", EVERY)
def test_resume_in_every_state(queue: SqlQueue, new: New, jump: Jump, state: str) -> None:
    prepare_state(queue, new, jump, state)
    if state in ("failed", "cancelled"):
        assert queue.resume("a").state == "queued"
        claim = take(queue)
        assert claim.run.attempt == 2 and queue.beat(claim) is False
        return
    mends = {
        "queued": "recsys cancel a",
        "running": "recsys cancel a",
        "unknown": "--dead",
        "finished": "recsys retry a",
    }
    with pytest.raises(ConfigError, match=mends.get(state, "never started.*recsys retry a")):
        queue.resume("a")


@pytest.mark.parametrize("state", EVERY)
def test_retry_in_every_state(queue: SqlQueue, new: New, jump: Jump, state: str) -> None:
    prepare_state(queue, new, jump, state)
    again = queue.retry("a")
    assert (again.id, again.state, again.attempt) == ("a-b", "queued", 0)
    assert again.new == replace(queue.get("a").new, id="a-b")


def test_retry_names_a_run_by_its_time(queue: SqlQueue, new: New) -> None:
    queue.submit([new("20200101-000000-s", kind="sweep"), new("20200101-000000-s/0", parent="20200101-000000-s")])
    again = queue.retry("20200101-000000-s/0")
    assert again.id.endswith("-s-0") and again.id > "2026" and again.new.parent is None
    with pytest.raises(ConfigError, match="kind sweep"):
        queue.retry("20200101-000000-s")


def test_a_sweep_follows_its_children(queue: SqlQueue, new: New) -> None:
    queue.submit([new("s", kind="sweep"), *[new(f"s/{i}", parent="s") for i in range(3)], new("later", after=["s"])])

    def sweep() -> tuple[str, int]:
        run = queue.get("s")
        return run.state, (run.live.progress or {})["done"]

    assert sweep() == ("queued", 0)
    first, second = take(queue), take(queue)
    assert sweep() == ("running", 0) and queue.get("s").started_at is not None
    queue.end(first, "finished", 0, None)
    assert sweep() == ("running", 1)
    queue.cancel("s")
    assert states(queue)["s/2"] == "cancelled" and sweep() == ("running", 2) and queue.beat(second)
    queue.end(second, "cancelled", -15, "stopped on request")
    assert sweep() == ("cancelled", 3) and queue.get("s").ended_at is not None
    with pytest.raises(ConfigError, match="ended already"):
        queue.cancel("s")
    assert queue.resume("s").state == "running" and states(queue)["s/2"] == "queued"
    for _ in range(2):
        queue.end(take(queue), "finished", 0, None)
    assert sweep() == ("finished", 3) and take(queue).run.id == "later"
    with pytest.raises(ConfigError, match="none of its runs"):
        queue.resume("s")


def test_a_sweep_of_which_a_run_goes_on_can_be_cancelled_again(queue: SqlQueue, new: New) -> None:
    queue.submit([new("s", kind="sweep"), *[new(f"s/{i}", parent="s") for i in range(2)]])
    queue.end(take(queue), "finished", 0, None)
    claim = take(queue)
    for id in ("s/1", "s"):
        queue.cancel("s")
        queue.end(claim, "cancelled", -15, "stopped on request")
        queue.resume(id)
        assert queue.get("s").state == "running" and queue.get("s").cancel_asked_at is None
        claim = take(queue)
    assert queue.cancel("s").cancel_asked_at is not None and queue.beat(claim)


def test_children_wait_for_what_their_sweep_waits_for(queue: SqlQueue, new: New) -> None:
    queue.submit([new("a")])
    sweep = [new("s", kind="sweep", after=["a"]), new("s/0", parent="s"), new("s/1", parent="s", after=["s/0"])]
    assert [run.new.after for run in queue.submit(sweep)] == [["a"], ["a"], ["a", "s/0"]]
    queue.end(take(queue), "finished", 0, None)
    assert take(queue).run.id == "s/0" and queue.claim("w1", "h1", ROOM) is None


def test_a_sweep_fails_with_a_child_and_goes_on_with_a_new_one(queue: SqlQueue, new: New) -> None:
    queue.submit([new("s", kind="sweep"), new("s/0", parent="s")])
    queue.end(take(queue), "failed", 1, "x")
    assert (queue.get("s").state, queue.get("s").reason) == ("failed", "1 failed")
    queue.submit([new("s/1", parent="s")])
    assert queue.get("s").state == "running" and queue.get("s").ended_at is None
    assert queue.find(parent="s", states=["queued"])[0].id == "s/1" and len(queue.find(parent="s")) == 2
    assert queue.counts() == {"failed": 1, "queued": 1}


def test_find_filters_and_pages(queue: SqlQueue, new: New) -> None:
    queue.submit([new(f"run-{i}", overrides=[f"train.epochs={i}", "data=Größe_%"]) for i in range(7)])
    assert [r.id for r in queue.find(limit=3)] == ["run-6", "run-5", "run-4"]
    assert [r.id for r in queue.find(limit=3, before=queue.get("run-4").number)] == ["run-3", "run-2", "run-1"]
    assert [r.id for r in queue.find(text="EPOCHS=3")] == ["run-3"]
    assert len(queue.find(text="größe_%")) == 7 and queue.find(text="e%s") == []
    queue.cancel("run-2")
    assert [r.id for r in queue.find(states=["cancelled", "failed"])] == ["run-2"]


def test_events_tell_what_happened_in_order(queue: SqlQueue, new: New) -> None:
    queue.submit([new("a"), new("b")])
    claim = take(queue)
    queue.note(claim, Live("train", {"done": 1, "total": 9, "unit": "steps"}, {}, "begins"))
    queue.note(claim, Live("train", {"done": 1, "total": 9, "unit": "steps"}, {}, "begins"))
    queue.note(
        claim, Live("train", {"done": 2, "total": 9, "unit": "steps"}, {"train": {"step": 2.0, "auc": 0.7}}, "begins")
    )
    queue.cancel("a")
    queue.end(claim, "cancelled", -15, "stopped")
    events = queue.events(run="a")
    kinds = [e.kind for e in events]
    assert kinds == ["state", "claim", "state", "stage", "note", "metrics", "progress", "cancel", "state"]
    assert [e.id for e in events] == sorted({e.id for e in events})
    assert events[5].payload == {"stage": "train", "step": 2.0, "figures": {"auc": 0.7}}
    assert events[6].payload == {"stage": "train", "done": 2, "total": 9, "unit": "steps"}  # the newest only
    assert queue.events(after=events[-1].id) == [] and len(queue.events(after=events[3].id)) == 5
    assert queue.load().newest_event == events[-1].id
    assert queue.get("a").live.metrics == {"train": {"step": 2.0, "auc": 0.7}}
    assert queue.events(limit=2)[1].run == "b"


def test_threads_share_a_queue(queue: SqlQueue, new: New) -> None:
    queue.submit([new(f"r{i}") for i in range(12)])
    taken: list[str] = []

    def work(host: str) -> None:
        while claim := queue.claim(host, host, Needs(1, 8 << 30)):
            taken.append(claim.run.id)
            queue.end(claim, "finished", 0, None)

    threads = [threading.Thread(target=work, args=(f"h{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"r{i}" for i in range(12))
    assert queue.counts() == {"finished": 12}
