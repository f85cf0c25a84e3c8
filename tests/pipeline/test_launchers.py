"""Launchers: the processes of a run on this machine, on Ray and on Slurm; one that dies, one that gives up."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

from pipelines.launchers.contract import Launcher, extra
from pipelines.launchers.launch import GIVEN_UP, log_of, supervise
from pipelines.launchers.local import Local
from pipelines.launchers.ray import Ray
from pipelines.launchers.slurm import Slurm
from pipelines.launchers.torchrun import Torchrun
from pipelines.one_run import run_one
from recsys.config.factory import make
from recsys.config.options import CONF
from recsys.data.processes import LAUNCHED
from recsys.errors import ConfigError, DataError, RecsysError
from recsys.results import read_result
from tests.configs import run_config
from tests.pipeline.small import SMALL, recsys, whole_recsys

ROOT = Path(__file__).parents[2]
VARIABLES = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
SUM = f"""
import json, os, signal, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from recsys.data.ranks import Ranks
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
log = os.open(folder / f"rank-{{rank}}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1), os.dup2(log, 2)
Ranks.join()
x = torch.tensor([rank + 1.0])
dist.all_reduce(x)
print("the sum is", x.item(), flush=True)
died = folder / "died"
if rank == 1 and not died.exists():
    died.touch()
    os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
told = {{name: os.environ[name] for name in {VARIABLES}}}
(folder / f"{{rank}}.json").write_text(json.dumps(told | {{"sum": x.item(), "cwd": os.getcwd()}}))
dist.destroy_process_group()
"""  # rank 1 is killed the first time, so that all must start again


@dataclass
class Here:
    """A launcher of the tests: each attempt runs another line of Python, in two processes."""

    lines: Sequence[str]
    processes: int = 2

    def __post_init__(self) -> None:
        self.started: list[Any] = []

    @property
    def attempts(self) -> int:
        return len(self.lines)

    def start(self, command: Sequence[str], folder: Path) -> "Here":
        line = self.lines[len(self.started) // self.processes]
        for rank in range(self.processes):
            script = f"import os, time; rank = {rank}; log = open({str(log_of(folder, rank))!r}, 'a'); {line}"
            self.started.append(subprocess.Popen([sys.executable, "-S", "-c", script], cwd=folder))
        return self

    def poll(self) -> int | None:
        codes = [p.poll() for p in self.started[-self.processes :]]
        failed = next((c for c in codes if c), 0)
        if failed:
            self.cancel()
        return None if not failed and None in codes else failed

    def cancel(self) -> None:
        for p in self.started:
            p.kill()
            p.wait()


def test_every_option_of_the_group_makes_a_launcher() -> None:
    options = sorted((CONF / "launcher").glob("*.yaml"))
    assert {f.stem for f in options} == {"local", "torchrun", "ray", "slurm"}
    for file in options:
        launcher: Launcher = make(OmegaConf.to_container(OmegaConf.load(file)), "launcher")()  # type: ignore[arg-type]
        assert launcher.processes == (1 if file.stem == "local" else 2) and launcher.attempts >= 1


def test_local_starts_nothing(tmp_path: Path) -> None:
    assert supervise(Local(), [sys.executable, "-c", "raise SystemExit(3)"], tmp_path) is False


def test_all_start_again_if_one_dies(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    launcher = Here(["os.kill(os.getpid(), 9) if rank else time.sleep(60)", "print('well', rank, file=log)"])
    assert supervise(launcher, [], tmp_path)
    assert [p.returncode for p in launcher.started] == [-9, -9, 0, 0]
    said = capfd.readouterr().err
    assert "a process ended with -9: all start again" in said and "well 0" in said and "well 1" not in said


def test_after_the_last_attempt_the_error_says_what_each_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ended with 7, .* rank-0\.log ends with 'sorry 0'.*resume="):
        supervise(Here(["print('sorry', rank, file=log, flush=True); os._exit(7)"] * 2), [], tmp_path)


def test_what_a_user_has_to_mend_does_not_start_again(tmp_path: Path) -> None:
    (tmp_path / GIVEN_UP).touch()  # of an attempt before
    line = f"rank and (print('error: mend it', file=log, flush=True), open({GIVEN_UP!r}, 'w').write('1')); os._exit(2)"
    launcher = Here([line, line], processes=2)
    with pytest.raises(RecsysError, match="^mend it$"):
        supervise(launcher, [], tmp_path)
    assert len(launcher.started) == 2


def test_a_rank_writes_its_log_and_gives_up_at_an_error_of_the_user(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recsys.commands.rank", str(tmp_path), "compare", "--nonsense"]
    env = {**os.environ, "RANK": "5", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert (
        log_of(tmp_path, 5).read_text().startswith("error: recsys compare") and (tmp_path / GIVEN_UP).read_text() == "5"
    )
    assert subprocess.run(command, env=env).returncode == 2
    assert log_of(tmp_path, 5).read_text().count("error:") == 1, "it ended at once, since the file is there"


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"no_such_package, which is not installed: pip install 'recsys\[ray\]'"):
        extra("no_such_package", "ray")


def test_processes_are_shared_out_evenly() -> None:
    with pytest.raises(ConfigError, match=r"multiple of launcher.nodes \(4\), got 6: give 4"):
        Slurm(processes=6, nodes=4)


@pytest.mark.parametrize("name", ["", "gpu\n#SBATCH --wrap=x", "a b", "$(x)", "gpu;x"])
def test_a_partition_adds_nothing_to_the_script(name: str) -> None:
    assert Slurm(partition="gpu_a100,cpu-2.big").partition
    with pytest.raises(ConfigError, match=r"launcher.partition: expected letters, digits, _ , . and - alone"):
        Slurm(partition=name)


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (["experiment=elsewhere"], "launcher: a file may not say where a run starts: give launcher="),
        (["experiment=elsewhere", "launcher=ray"], "launcher: a file may not say where a run starts"),
        (["launcher=torchrun", "launcher.processes=0"], "launcher.processes: input should be greater than or equal"),
        (
            ["launcher=torchrun", "launcher.nodes=2"],
            "launcher.nodes: no such key: expected some of processes, restarts",
        ),
        (["launcher=cloud"], "launcher: no option 'cloud': expected one of local, ray, slurm, torchrun"),
    ],
)
def test_only_the_command_line_says_where_a_run_starts(place: Path, typed: list[str], why: str) -> None:
    (place / "experiment").mkdir(exist_ok=True)
    (place / "experiment" / "elsewhere.yaml").write_text("# @package _global_\nlauncher: {address: 10.0.0.1:6379}\n")
    done = recsys(place, "run", *SMALL, "stages=[train]", *typed)
    assert done.returncode == 2 and why in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("environment", "launches"),
    [
        ({"RANK": "0"}, True),
        ({"RANK": "0", "WORLD_SIZE": "1"}, True),
        ({"WORLD_SIZE": "2"}, False),
        ({LAUNCHED: "1"}, False),
    ],
)
def test_only_a_process_that_was_launched_launches_no_others(
    environment: dict[str, str], launches: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Schedulers leave RANK in the environment of a shell: launcher=ray was ignored there without a word."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pipelines.one_run.quiet", lambda: None)
    monkeypatch.setattr("pipelines.launchers.launch.launch", lambda *_: "in other processes")
    monkeypatch.setattr("pipelines.run.execute", lambda *_: "here")
    config = run_config(launcher={"_target_": "pipelines.launchers.ray.Ray"}, runs=str(tmp_path))
    assert run_one(lambda: config, tmp_path / "run", list) == 0
    assert capsys.readouterr().out.splitlines()[-1] == ("in other processes" if launches else "here")


def test_a_sweep_refuses_a_launcher(place: Path) -> None:
    done = recsys(place, "sweep", *SMALL, "launcher=torchrun")
    assert done.returncode == 2 and "launcher: trials run one after another" in done.stderr


@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit (extra slurm) is not installed")
def test_a_job_that_a_killed_launcher_left_behind_is_ended_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's commands are three scripts here: a job runs until it is cancelled."""
    jobs = tmp_path / "job"
    scripts = {
        "sbatch": f"echo >> {tmp_path}/jobs; n=$(wc -l < {tmp_path}/jobs); touch {jobs}.$n; "
        "echo Submitted batch job $n",
        "squeue": f"for a; do case $a in --jobs=*) [ -e {jobs}.${{a#--jobs=}} ] && echo RUNNING; esac; done; true",
        "scancel": f'for a; do case $a in --*) ;; *) rm -f {jobs}.$a; esac; done',
        "srun": "true",
    }  # fmt: skip
    (tmp_path / "bin").mkdir()
    for name, line in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    left = Slurm(1).start(["true"], tmp_path)
    assert left.poll() is None and (tmp_path / ".slurm" / "job").read_text() == "1"
    again = Slurm(1).start(["true"], tmp_path)  # by another process, after the first was killed
    assert not (tmp_path / "job.1").exists() and (tmp_path / "job.2").exists()
    again.cancel()
    assert not (tmp_path / "job.2").exists() and not (tmp_path / ".slurm" / "job").exists()


@pytest.fixture
def ray_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of this machine alone, which ends with the test: by its processes' ids, for others may run one."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # of the head; a driver sets it itself
    port, folder = 20_000 + os.getpid() % 10_000, tempfile.mkdtemp(prefix="ray")  # its sockets want a short path
    flags = [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false"]
    flags += ["--disable-usage-stats", f"--temp-dir={folder}", "--object-store-memory=100000000", "--block"]
    ray = Path(sys.executable).with_name("ray")
    with (tmp_path / "ray.out").open("w") as out:
        head = psutil.Popen([ray, "start", "--head", *flags], stdout=out, stderr=out, cwd=tmp_path)
    monkeypatch.delenv("RAY_AUTH_MODE")
    until = time.monotonic() + 120
    while "Ray runtime started" not in (tmp_path / "ray.out").read_text():
        assert head.poll() is None and time.monotonic() < until, (tmp_path / "ray.out").read_text()
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    if "ray" in sys.modules:  # an import here, without the mode, would decide for the tests that come after
        sys.modules["ray"].shutdown()
    mine = [head, *head.children(recursive=True)]
    head.terminate()
    _, left = psutil.wait_procs(mine, timeout=30)
    for process in left:
        process.kill()
    psutil.wait_procs(left)
    shutil.rmtree(folder)


def _told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def _check_two_ranks(launcher: Launcher, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both processes join, one is killed, and all start again."""
    script = folder / "sum.py"
    script.write_text(SUM)
    assert supervise(launcher, [sys.executable, str(script), str(folder)], folder)
    told = _told(folder)
    assert [t["RANK"] for t in told] == ["0", "1"] and {t["WORLD_SIZE"] for t in told} == {"2"}
    assert [t["LOCAL_RANK"] for t in told] == ["0", "1"] and {t["cwd"] for t in told} == {os.getcwd()}
    assert {t["sum"] for t in told} == {3.0} and len({(t["MASTER_ADDR"], t["MASTER_PORT"]) for t in told}) == 1
    assert (folder / "died").exists() and capfd.readouterr().err.count("the sum is 3.0") == 2


@pytest.mark.slow
def test_torchrun(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _check_two_ranks(Torchrun(2, 1), tmp_path, capfd)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit (extra slurm) is not installed")
def test_submitit_without_slurm(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _check_two_ranks(Slurm(2, cluster="local"), tmp_path, capfd)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("srun") and find_spec("submitit")), reason="there is no Slurm here")
def test_slurm(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _check_two_ranks(Slurm(2, restarts=1, minutes=5), tmp_path, capfd)
    launched = Slurm(1, minutes=5).start(["sleep", "600"], tmp_path)
    until = time.monotonic() + 60
    while "RUNNING" not in subprocess.check_output(["squeue", "-h", "-o%T", f"-j{launched.job.job_id}"], text=True):
        assert time.monotonic() < until
    subprocess.check_call(["scancel", "--signal=KILL", "--full", launched.job.job_id])  # as if its machine was lost
    while launched.poll() is None:
        assert time.monotonic() < until, "a job that is gone without a result has ended"
        time.sleep(0.5)
    assert launched.poll()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray (extra ray) is not installed")
def test_ray(tmp_path: Path, ray_cluster: str, capfd: pytest.CaptureFixture[str]) -> None:
    _check_two_ranks(Ray(2, 1, address=ray_cluster), tmp_path, capfd)
    with pytest.raises(ConfigError, match=r"expected 9 places of .* within 1 s, got 2 free CPUs"):
        Ray(9, address=ray_cluster, wait=1.0).start([], tmp_path)


@pytest.mark.slow
def test_a_run_under_torchrun_is_the_run_itself(place: Path) -> None:
    (place / "model").mkdir()  # an option of the user's folder, which the rank must find as well
    (place / "model" / "little.yaml").write_text("_target_: recsys.models.mlp.MLP\nhidden: [16]\n")
    train = ["run", *SMALL, "stages=[prepare,train]", "seed=3", "model=little"]
    here = recsys(place, *train)
    there = whole_recsys(place, *train, "launcher=torchrun", "launcher.processes=1", "--config-dir=.")
    assert there.returncode == 0, there.stderr
    again = [f"resume={read_result(place / there.stdout.splitlines()[-1]).id}", "launcher=torchrun"]
    resumed = whole_recsys(place, "run", *again, "launcher.processes=1")
    assert resumed.returncode == 0, resumed.stderr
    results = [read_result(place / done.stdout.splitlines()[-1]) for done in (here, there)]
    one, two = (r.stages["train"].metrics for r in results)
    assert one and two and one["valid_logloss"] == two["valid_logloss"] and one["best_step"] == two["best_step"]
    told = json.loads((place / "runs" / results[1].id / "run.json").read_text())
    assert told["state"] == "finished" and "launcher" not in told["config"]
