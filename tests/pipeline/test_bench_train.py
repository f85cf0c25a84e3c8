"""`recsys bench train`: how sides take turns, what the floor holds, and what the figures say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from recsys.commands.bench.train import whole_run
from recsys.commands.bench.train.cases import CASES, PEERS, sides_of, spec_of
from recsys.commands.bench.train.command import _Asked
from recsys.commands.bench.train.floor import check_complete, floor_step, of_step, padded, recorded
from recsys.commands.bench.train.history import _drawn, history_page, read_all
from recsys.commands.bench.train.results import CaseFigures, Measured, Middle, WholeRun, keep, middle, ratios, read_kept
from recsys.commands.bench.train.sides import interleaved, started
from recsys.commands.bench.train.targets import line, memory_shares, targets
from recsys.commands.cli import main
from recsys.commands.tree import command_tree
from recsys.data.batch import Batch
from recsys.errors import DataError
from recsys.features.schema import Schema
from recsys.models.wukong import compressed_fm
from recsys.training import device
from recsys.training.checkpoint import build
from recsys.training.device import Device

PEER = """
import json, sys, time
from pathlib import Path
from recsys.commands.bench.train.turns import Cannot, Trainer, serve

def trainer(job):
    print("a library that prints")
    if job["wrong"] == "import":
        import no_such_library
    if job["wrong"] == "model":
        raise Cannot("no model of that name")
    if job["wrong"] == "crash":
        raise RuntimeError("out of luck")

    def take(steps):
        print("and prints")
        with open(job["log"], "a") as log:
            log.write(f"{job['part']} {steps}\\n")
        time.sleep(0.01 * steps)
        if job["wrong"] == "late":
            raise RuntimeError("out of luck, later")
        return 0.5

    return Trainer({"memory": take}, {"threads": job["threads"]})

serve(trainer)
"""


@pytest.fixture
def fake_peers(tmp_path: Path):
    script, log = tmp_path / "peer.py", tmp_path / "log"
    script.write_text(PEER)

    def start(**wrong: str):
        jobs = {n: {"part": n, "threads": 1, "log": str(log), "wrong": w} for n, w in wrong.items()}
        return started({n: [sys.executable, str(script)] for n in jobs}, jobs), log

    return start


def test_sides_take_turns_one_at_a_time_and_those_that_cannot_are_named(fake_peers) -> None:
    context, log = fake_peers(a="", b="", c="import", d="model", e="crash")
    with context as (ready, missing):
        assert [s.name for s in ready] == ["a", "b"] and ready[0].about == {"threads": 1}
        turns = interleaved(ready, {("a", "memory"): 3, ("b", "memory"): 2}, turns=2)
        assert ready[0].steps_in("memory", 0.1) in range(2, 11)  # a step sleeps 0.01 s, or longer if others work
    assert log.read_text().split("\n")[:5] == ["a 3", "b 2", "a 3", "b 2", "a 3"]
    assert missing == {
        "c": "not installed: No module named 'no_such_library'",
        "d": "no model of that name",
        "e": "e failed: RuntimeError: out of luck",
    }
    assert all(t.seconds > 0.01 * t.steps and t.peak_bytes > 1e6 and t.loss == 0.5 for ts in turns.values() for t in ts)


def test_a_side_that_dies_at_its_turn_says_why(fake_peers) -> None:
    with fake_peers(a="late")[0] as (ready, _):
        for _ in range(2):
            with pytest.raises(DataError, match="a (failed|ended before its turn): RuntimeError: out of luck, later"):
                ready[0].turn("memory", 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_floor_holds_each_product_of_each_layer_once_forward_and_twice_backward(
    schema: Schema, batch: Batch, precision: str
) -> None:
    spec = spec_of(CASES["dcn-S-4096"])
    model, device = build(schema, spec).eval(), Device.choose("cpu", precision)

    def answer() -> None:
        with device.autocast():
            model.logits_of(model.features(batch))

    products = of_step(answer)
    width, (first, second) = sum(model.widths), spec["model"]["hidden"]
    weights = 3 * width**2 + width * first + first * second + (width + second)
    assert sum(p.flops for p in products) == 3 * 2 * len(batch) * weights
    assert {p.a.dtype for p in products} == {torch.bfloat16 if precision == "bf16" else torch.float32}
    check_complete(products, model, len(batch))
    for p in products:  # each is a product that can be computed, of an operand in its own layout
        a, b = p.a.drawn(), p.b.drawn()
        assert (a.stride(), b.stride()) == (p.a.stride, p.b.stride) and 2 * (a @ b).numel() * a.shape[1] == p.flops
    again = recorded(floor_step(products))
    assert [(p.a.shape, p.b.shape, p.a.dtype) for p in again] == [(p.a.shape, p.b.shape, p.a.dtype) for p in products]
    step = 32 if precision == "bf16" else 16
    widths = {n for p in padded(products) for n in (*p.a.shape, *p.b.shape)}
    assert all(n == 1 or n % step == 0 for n in widths) and -(-width // step) * step in widths


def test_gradients_are_the_products_that_autograd_computes() -> None:
    a_MK, b_KN = torch.randn(5, 7, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    forward, *backward = of_step(lambda: a_MK @ b_KN)
    computed = recorded(lambda: (a_MK @ b_KN).square().sum().backward())
    shapes = [(p.a.shape, p.b.shape) for p in computed]
    assert shapes[0] == (forward.a.shape, forward.b.shape)
    assert sorted(shapes[1:]) == sorted((p.a.shape, p.b.shape) for p in backward)


def test_the_floor_holds_products_a_row() -> None:
    rows, n, d, k = 5, 7, 4, 3
    x_BND = torch.randn(rows, n, d)
    for y_NK in (torch.randn(rows, n, k), torch.randn(n, k)):
        products = of_step(lambda y_NK=y_NK: compressed_fm(x_BND, y_NK))
        assert sum(p.flops for p in products) == 3 * 2 * (2 * rows * n * d * k)
        floor_step(products)()
        floor_step(padded(products))()


def test_a_layer_that_hides_its_products_is_refused() -> None:
    layers = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    products = of_step(lambda: layers[1](torch.randn(32, 16)))
    with pytest.raises(DataError, match="expected at least 3.69e\\+04 floating-point operations"):
        check_complete(products, layers, 32)
    check_complete(of_step(lambda: layers(torch.randn(32, 8))), layers, 32)


def measured(*seconds: float, steps: int = 10, anonymous: int = 9_000) -> Measured:
    return Measured(steps, list(seconds), 10_000, anonymous)


@pytest.fixture
def figures() -> CaseFigures:
    ours = {"memory": measured(1.0, 2.0, 4.0), "loader": measured(2.0, 2.0, 5.0, anonymous=8_000)}
    sides = {"ours bf16": ours, "floor bf16": {"memory": measured(0.5, 1.5, 1.0)}}
    sides |= {"FuxiCTR": {"memory": measured(3.0, 10.0, 8.0, steps=5)}}
    about = {"ours bf16": {"table_bytes": 4_000, "optimizer_bytes": 1_000, "bytes_before": 2_000}}
    return CaseFigures(100, sides, about, {"TorchEasyRec": "not installed"})


def test_ratios_are_of_turns_side_by_side(figures: CaseFigures) -> None:
    found = ratios(figures)
    assert found["ours bf16 / FuxiCTR"] == middle([6.0, 10.0, 4.0]) and middle([6.0, 10.0, 4.0]).median == 6.0
    assert found["ours bf16 / floor bf16"].median == 0.5
    assert found["ours bf16 loader / memory"].median == 0.8
    assert set(found) == {"ours bf16 / FuxiCTR", "ours bf16 / floor bf16", "ours bf16 loader / memory"}
    assert figures.rate("ours bf16").median == 500 and memory_shares(figures, "ours bf16") == (2.0, 1.4)


def test_what_is_wanted_is_judged(figures: CaseFigures) -> None:
    run = WholeRun([5.5, 4.25], [90.0, 80.0], [100.0, 100.0, 60.0])
    held = {t.name: t for t in targets({"dcn-S-4096": figures, "dcn-L-4096": figures}, run, "bf16")}
    assert held["dcn-S-4096: times FuxiCTR"].met and not held["dcn-L-4096: times FuxiCTR"].met
    assert held["dcn-L-4096: times TorchEasyRec"].met is None and held["dcn-S-1024: times FuxiCTR"].value is None
    assert held["dcn-S-4096: share of its matrix products alone, bf16"].met is False
    assert held["run: share of steps in memory"].value == 0.95 and held["run: seconds to the first step"].met
    assert held["run: seconds to the first step"].value == 4.875, "a median, as all else"
    assert held["dcn-L-4096: peak memory / tables and optimiser"].value == 2.0


def test_kept_figures_are_read_back_and_drawn_in_the_order_of_commits(figures: CaseFigures, tmp_path: Path) -> None:
    record = {
        "date": "2026-01-03T00:00:00+00:00", "commit": "b" * 40, "committed": "2026-01-02T00:00:00+00:00",
        "dirty": False, "machine": {"processor": "<Some> CPU", "cores": 2, "memory_bytes": 1}, "threads": 2,
        "precisions": ["bf16"], "rows": 1, "turns": 3, "load": {"before": [0.1, 0.1, 0.1], "after": [9.0, 0.1, 0.1]},
    }  # fmt: skip
    run = WholeRun([4.0], [90.0], [100.0, 100.0])
    keep(tmp_path / "in" / "b.json", record, {"dcn-S-4096": figures}, run)
    earlier = {**record, "commit": "a" * 40, "committed": "2026-01-01T00:00:00+00:00"}
    keep(tmp_path / "in" / "c.json", earlier, {"dcn-S-4096": replace(figures, missing={})}, None)
    kept = read_kept(tmp_path / "in" / "b.json")
    assert kept.cases == {"dcn-S-4096": figures} and kept.run == run and kept.record["commit"] == "b" * 40
    history = read_all(tmp_path / "in")
    assert [k.record["commit"][0] for k in history] == ["a", "b"]
    shown = history_page(history)
    assert "bbbbbbbb: 2 of 4 measured figures are as wanted" in shown and "TorchEasyRec: not installed" in shown
    assert "beside other work: load 9.0" in shown and "<Some>" not in shown and "&lt;Some&gt;" in shown
    assert main(["bench", "history", "--results", str(tmp_path / "in")]) == 0
    assert (tmp_path / "train.html").exists()
    names = [f"case {c}: side {s}" for c in range(6) for s in range(4)]
    lines = _drawn(history, lambda _: {n: Middle(3.0, 2.0, 5.0) for n in names}, "times", True).data
    assert len({(x.line.color, x.line.dash, x.marker.symbol) for x in lines}) == len(names) == len(lines)
    said = json.loads(line(record, {"dcn-S-4096": figures}, run, targets({"dcn-S-4096": figures}, run, "bf16")))
    assert said["cases"]["dcn-S-4096"]["ratios"]["ours bf16 / FuxiCTR"][0] == 6.0
    assert said["wanted"]["dcn-S-4096: times FuxiCTR"] == {"value": 6.0, "wanted": 3, "met": True}


RUN = """
import json, os, sys, time
folder = sys.argv[-1].partition("=")[2]
os.makedirs(folder)
def tell(stage, done):
    progress = None if done is None else {"done": done, "total": 3000, "unit": "rows"}
    with open(folder + "/new", "w") as file:
        json.dump({"stage": stage, "progress": progress}, file)
    os.replace(folder + "/new", folder + "/run.json")
for stage, done in (("prepare", 7), ("train", None), ("train", 1000), ("train", 2000), ("train", 3000)):
    time.sleep(0.3)
    tell(stage, done)
time.sleep(0.05)
sys.exit(int(sys.argv[1]))
"""


def test_a_whole_run_is_read_from_run_json(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    first, rate = whole_run._run([sys.executable, str(script), "0"], tmp_path / "ok", 1)
    assert first > 0.8 and 0 < rate <= 1000 / 0.3
    with pytest.raises(DataError, match="the whole run failed"):
        whole_run._run([sys.executable, str(script), "3"], tmp_path / "failed", 1)


def test_the_command_names_all_cases_and_libraries() -> None:
    given = command_tree()["bench train"].parse_args([])
    assert given.cases == list(CASES) and given.peers == list(PEERS)
    folder = Path(__file__).parents[2] / "benchmarks" / "peers"
    assert {*PEERS.values()} <= {p.name for p in folder.glob("*.py")}
    assert list(sides_of(CASES["wukong-S-4096"], ["bf16"], ["FuxiCTR"])) == ["ours bf16", "floor bf16"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cases", "dcn-XL"], "--cases: expected some of dcn-S-4096"),
        (["--peers", "FuxiCRT"], "--peers: expected some of FuxiCTR"),
        (["--turns", "0"], "--turns: expected a number above 0"),
        (["--quick", "--keep"], "--keep: expected a checkout without changes and no --quick"),
    ],
)
def test_a_wrong_ask_is_one_line(arguments: list[str], said: str, capfd, tmp_path: Path) -> None:
    assert main(["bench", "train", "--folder", str(tmp_path / "f"), *arguments]) == 2
    assert said in capfd.readouterr().err and not (tmp_path / "f").exists()


@pytest.mark.slow
def test_the_whole_benchmark_on_tiny_sets(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recsys", "bench", "train", "--quick", "--threads", "1", "--runs", "1"]
    command += [
        "--folder",
        str(tmp_path),
        "--cases",
        "dcn-S-4096",
        "din-S-4096",
        "--peers-python",
        str(tmp_path / "none"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said["cases"]) == {"dcn-S-4096", "din-S-4096"} and said["run"]["share"][0] > 0
    assert said["cases"]["dcn-S-4096"]["missing"] == dict.fromkeys(PEERS, "not installed: make bench-peers")
    about = said["cases"]["dcn-S-4096"]["about"]["floor fp32"]
    width = 26 * 16 + 13
    weights = 3 * width**2 + width * 256 + 256 * 128 + width + 128
    assert about["flops_per_row"] == 6 * weights  # 4.17 million


@pytest.mark.parametrize(("itself", "measured"), [(True, ["bf16", "fp32"]), (False, ["fp32"])])
def test_bf16_is_measured_by_default_only_if_the_hardware_multiplies_it(
    itself: bool, measured: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Emulated, the first case alone had not ended after 13 minutes."""
    monkeypatch.setattr(device, "_multiplies_bf16", lambda place: itself)
    given = command_tree()[""].parse_args(["bench", "train"])
    assert _Asked.of(given).precisions == measured
    assert ("--precisions bf16 fp32 measures both" in capsys.readouterr().err) == (not itself)
    given = command_tree()[""].parse_args(["bench", "train", "--precisions", "bf16"])
    assert _Asked.of(given).precisions == ["bf16"]
