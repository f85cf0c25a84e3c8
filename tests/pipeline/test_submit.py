"""A mistake on the command line: told at once, in one line, before anything runs or is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.commands.tree import command_tree
from recsys.config.options import CONF
from tests.reports import report_json

HEAVY = ["torch", "torchrec", "fbgemm_gpu", "sklearn", "scipy", "mlflow", "pandas", "polars", "pyarrow", "plotly"]
HEAVY += ["onnx", "onnxruntime", "safetensors", "lightgbm", "jinja2"]
TABLE = "data=table data.label=y +data.fields={x:{}}"
MODELS = sorted(f.stem for f in (CONF / "model").glob("*.yaml"))
WRONG = {
    "model.absent=3": "model.absent: no such key: expected some of dropout, hidden, layers",
    "data.fields.department.kind=numeric": "do not set this key yet: write +data.fields.department.kind=numeric",
    "data.fields.department.colour=red": "data.fields.department.colour: no such key",
    "data.fields.absent.kind=numeric": "data.fields.absent.kind: no such key: expected some of age, brand",
    "data.weight=w": "data.weight: the options do not set this key yet: write +data.weight=w",
    "~data.fields.department.kind": "data.fields.department.kind: no such key",
    "absent=3": "absent: no such key: expected some of calibrate",
    "+absent=3": "unknown absent",
    "+select.absent=3": "select: unknown absent",
    "+data.absent=3": "data: unknown absent",
    "+train.absent=3": "train: unknown absent",
    "+model.depth=3": "model: unknown depth",
    "+model.widths=[3]": "model: unknown widths",
    "+selection.depth=3": "selection: unknown depth",
    "+data.source.depth=3": "data.source: unknown depth",
    "model=absent": f"model: no option 'absent': expected one of {', '.join(MODELS)}",
    "experiment=absent": "experiment: no option 'absent': expected one of daily, daily_own, demo",
    "stages=[fly]": "unknown ['fly']",
    "stages=[]": "stages: expected a list",
    "stages=[select] select.apply=[item]": "stages lacks it: add train",
    "stages=train": "stages: expected a list",
    "stages=[compress]": "stage compress needs train",
    "stages=[train,retrain]": "stage retrain needs select",
    "from_run=absent": "no finished run 'absent'",
    "evaluate.slices=[user]": "got 'user', which is no field: leave it out, or add it to data.fields",
    "evaluate.slices=[quantity]": "got 'quantity', a number without buckets: leave it out, or add +data.fields.q",
    "data=ml100k evaluate.slices=[genres]": "got 'genres', which is multi, not one id a row: leave it out",
    "evaluate.slices=brand": "evaluate.slices: input should be a valid list, got 'brand'",
    "train.lr=fast": "train.lr",
    "train.lr=-1": "train.lr: input should be greater than 0",
    "train.patience=0": "train.patience",
    "+data.split.shares=[.5,nan,.5]": "data.split.shares.1: expected a number, got nan: give one",
    "train.precision=fp8": "train.precision: input should be 'auto', 'fp32' or 'bf16'",
    "train.decay=auto": "train.decay",
    "optimizer.eps=1": "optimizer.eps: input should be less than or equal to 0.1",
    "table_optimizer=sgd": "train.table_lr: auto is for table_optimizer=rowwise_adagrad and adagrad, got auto for ",
    "distill.model=fm": "distill.model: expected settings, got 'fm': write model@distill.model=fm",
    "trusted=my_ctr": "trusted: expected a list of packages, got 'my_ctr': write [my_ctr]",
    "data.split=null": "data.split: expected a value, got None: write shares: [0.8, 0.1, 0.1]",
    "table_optimizer=adam": "table_optimizer: no option 'adam': expected one of adagrad, rowwise_adagrad, sgd",
    "model.layers=many": "model.layers",
    "model.layers=auto": "model.layers",
    "model.dropout=2": "model.dropout: input should be less than 1",
    "model.hidden=[-1]": "model.hidden.0",
    "embedding.dim=6": "multiple of 4",
    "embedding.dim=0": "embedding.dim",
    "selection.steps=many": "selection.steps",
    "compression.rank=x": "compression.rank",
    "model=3": "expected GROUP=OPTION",
    "select=3": "select: expected",
    "compression._target_=os.system": "compression._target_",
    "data.source=3": "data.source: expected a mapping, got 3",
    "data.label=???": "no value for data.label",
    "data.label=null": "data.label",
    "+data.fields.item.colour=red": "colour",
    "device=gpu": "device: input should be 'auto', 'cpu' or 'cuda'",
    "train.device=cuda": "train.device: no such key",
    "+train.device=cpu": "train: unknown device",
    "name=${name}": "name: the value does not resolve",
    "name=${nothing}": "name: the value does not resolve",
    "name=${oc.env:NO_SUCH_VARIABLE}": "name: the value does not resolve",
    "seed=1,2": "seed=1,2: add -m",
    "seed": "cannot read 'seed'",
    "stages=[a b": "cannot read 'stages=[a b'",
    "name='a": 'cannot read "name=\'a"',
    "=3": "error: ",
    "~model.absent": "model.absent: no such key",
    "+model.layers=3": "already at 'model.layers'",
    "hydra.run=x": "hydra.run",
    "hydra/launcher=absent": "hydra/launcher: no option 'absent'",
    "--absent": "unrecognized arguments: --absent",
    "--cfg=absent": "invalid choice: 'absent'",
    "--config-dir=absent": "--config-dir: expected a folder",
    "-m seed=1 model=dcn,absent": "model: no option 'absent'",
    "-m train.lr=.1,fast": "train.lr",
    "--cfg job model.absent=3": "model.absent: no such key",
    "resume=absent": "no run 'absent'",
    "hydra.run.dir=/elsewhere": "hydra.run.dir: expected a folder inside runs",
    "hydra.run.dir=runs": "hydra.run.dir: expected a folder inside runs",
    "hydra.run.dir=???": "hydra.run.dir: the value does not resolve",
    "stages=[[train]]": "stages: expected a list",
    "hydra.run.dir=runs/../x": "hydra.run.dir: expected a folder inside runs",
    "-m seed=1,2 hydra.sweep.dir=/elsewhere": "hydra.sweep.dir: expected a folder inside runs",
    "-m seed=1,2 hydra.sweep.subdir=../x": "hydra.sweep.subdir",
    "name=../../x": "name: expected",
    "name=": "name: expected",
    "name=.x": "name: expected",
    f"name={'x' * 300}": "name: expected",
    "data.name=a/b": "data.name: expected",
    "data.name=/a": "data.name: expected",
    "tracking.register=a/b": "tracking.register: expected",
    f"{TABLE} data.source.path=absent.csv": "data.source.path: expected a table at absent.csv, found none",
    f"{TABLE} data.source.path=[absent/,b.csv]": "data.source.path: expected a table at absent/, found none",
    f"{TABLE} data.source.path={{train:absent*.csv}}": "data.source.path: expected a table at absent*.csv, found none",
    f"{TABLE} data.source.path='~/absent/**/*.csv'": "data.source.path: expected a table at ~/absent/**/*.csv",
    f"{TABLE} data.source.path=s3://absent data.split.shares=[.5,.6,.1]": "data.split.shares: expected three positive",
    f"{TABLE} data.source.path=s3://absent data.split.gap_days=-1": "data.split.gap_days: expected days from 0",
    "data.split.test=[2017]": "data.split.test: expected [from, to) as two ISO dates",
    "seed=-1": "seed: input should be greater than or equal to 0",
    "seed=100000000000000000000": "seed: input should be less than",
    "seed=abc": "seed: input should be a valid integer",
    "seed=null": "seed: input should be a valid integer",
    "-m seed=1,-2": "seed: input should be greater than or equal to 0",
    "+data.split.seed=-1": "data.split.seed",
    "embedding=hashed embedding.seed=-1": "embedding.seed",
    "model.hidden=[1000000000]": "model.hidden.0",
    "model.layers=1000000000": "model.layers",
    "embedding.dim=1000000000": "embedding.dim",
    "+data.fields.x={encoding:hash,buckets:99999999999}": "data.fields.x.buckets: expected at most 2,147,483,647",
    "+data.fields.x={encoding:hash,buckets:2000000000} embedding.dim=65536": "in training; this machine has",
    "embedding=unified embedding.rows=1000000000000": "in training; this machine has",
    "runs=/dev/null": "runs: expected a folder",
    "runs=/dev/null/x": "runs: expected a folder",
    "runs=/proc/x": "runs: cannot write to /proc",
    "runs=null": "runs: expected a folder",
    "tracking.uri=foo://user:secret@x": "tracking.uri: expected sqlite:///FILE or a server",
    "tracking.uri=http://user:secret@x": "tracking.uri: expected an address without a name",
    "tracking.uri='postgresql://x/db?passfile=secret'": "tracking.uri: expected an address without a name",
    "tracking.uri='http://x?api_key=secret'": "tracking.uri: expected an address without a name",
    "tracking.uri=sqlite:////no/such/x.db": "tracking.uri: expected a file in a folder that is there",
    "tracking.uri=sqlite:////dev": "tracking.uri: expected a SQLite database",
    "select.top_k=x": "select.top_k",
    "select.top_k=0": "select.top_k",
    "select.repeats=some": "select.repeats",
    "select.probes=-1": "select.probes",
    "calibrate=3": "calibrate",
    "select.apply=absent": "no selection report for 'absent'",
    "select.apply=[3]": "select.apply",
    "stages=[benchmark]": "stage benchmark needs the key benchmark",
    "experiment=selection_benchmark benchmark.metric=f1": "benchmark.metric: input should be 'auc' or 'logloss'",
    "experiment=selection_benchmark benchmark.seeds=[0,-1]": "benchmark.seeds.1: input should be greater",
    "experiment=selection_benchmark benchmark.methods=[lepa]": "benchmark.methods: no selector ['lepa']",
    "experiment=selection_benchmark +benchmark.settings.leap.steps=3": "benchmark.settings.leap.steps",
    "~seed": "no value for seed",
    "~tracking.experiment": "tracking: no value for experiment",
    "~selection": "selection: stage select needs an option",
    "~model": "model._target_: expected",
    f"{TABLE} compression=null": "'compression=null': expected GROUP=OPTION, with the name of an option: ~compression",
    "data=planted hydra/launcher=null": "'hydra/launcher=null': expected GROUP=OPTION",
    "trusted=os": "trusted",
    "model._target_=recsys.tracking.os.system": "model._target_: expected what a packaged option names",
    "data.source._target_=recsys.tracking.os.system": "data.source._target_: expected what a packaged option names",
}
_CHILD = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys({heavy!r}))  # to import one of them is an error
from recsys.commands.cli import main
for line in {wrong!r}:
    said, printed = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            code = main(["run", *({{"stages=[a b": ["stages=[a b"]}}.get(line) or line.split())])
    except BaseException as error:
        code = repr(error)
    print(json.dumps([line, code, said.getvalue(), printed.getvalue()]))
"""


_MISTAKE = "test_a_mistake_is_one_line_and_exit_code_2_before_torch_is_imported"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, list]:
    """Command line → exit code, standard error and standard output, of one process that cannot import torch."""
    folder = tmp_path_factory.mktemp("wrong")
    asked = {i.callspec.params["line"] for i in request.session.items if getattr(i, "originalname", "") == _MISTAKE}
    child = _CHILD.format(heavy=HEAVY, wrong=[line for line in WRONG if line in asked])
    ran = subprocess.run([sys.executable, "-c", child], cwd=folder, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stderr
    assert not list(folder.iterdir()), "something was left behind"
    return {line: rest for line, *rest in map(json.loads, ran.stdout.splitlines())}


# To compose takes half a second: the fast suite tries every eighth mistake.
@pytest.mark.parametrize(
    "line", [pytest.param(w, marks=pytest.mark.slow if i % 8 else ()) for i, w in enumerate(WRONG)]
)
def test_a_mistake_is_one_line_and_exit_code_2_before_torch_is_imported(told: dict[str, list], line: str) -> None:
    code, said, printed = told[line]
    assert code == 2, said
    assert WRONG[line] in said
    assert "secret" not in said
    assert said.startswith("error: ") and len(said.strip().splitlines()) == 1
    assert "HYDRA_FULL_ERROR" not in said and printed == ""


def without(packages: list[str], arguments: list[str], folder: Path) -> str:
    """What a command prints in a process that cannot import some packages."""
    code = f"import sys; sys.modules.update(dict.fromkeys({packages!r})); from recsys.commands.cli import main; "
    code += f"sys.exit(main({arguments!r}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert not list(folder.iterdir())
    return ran.stdout


@pytest.mark.parametrize("last", ["absent", "bad.json", "report.json --out no/such/page.html"])
def test_compare_tells_what_is_wrong_before_it_loads_anything(last: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report_json({})))
    (tmp_path / "bad.json").write_text("{")
    code = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); from recsys.commands.cli import main; "
    code += f"sys.exit(main({['compare', 'report.json', *last.split()]!r}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2 and ran.stderr.startswith("error: ") and len(ran.stderr.splitlines()) == 1, ran.stderr


def test_the_configuration_is_printed_without_torch(tmp_path: Path) -> None:
    shown = without(HEAVY, ["run", "seed=3", "--cfg", "job", "experiment=demo"], tmp_path)
    assert "seed: 3" in shown and "name: demo" in shown


def test_help_of_every_command_needs_nothing_that_takes_long_to_import(tmp_path: Path) -> None:
    """Nor does a wrong argument: one process asks all of them, and any of these imports fails in it."""
    long = [*HEAVY, "hydra", "omegaconf", "numpy", "pydantic", "rich", "fastapi", "uvicorn"]
    commands = [name.split() for name in command_tree()]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({long!r}))
from recsys.commands.cli import main
for command in {commands!r}:
    assert main([*command, "--help"]) == 0, command
    assert command == ["run"] or main([*command, "--no-such-option"]) == 2, command
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert all(f"usage: recsys{' ' * bool(c)}{' '.join(c)}" in ran.stdout for c in commands)
    assert len(ran.stderr.splitlines()) == len(commands) - 1


def test_every_stage_that_is_known_can_be_called() -> None:
    from importlib import import_module

    from pipelines.stages import MODEL_STAGES, STAGES
    from recsys.versions import constant

    for name, stage in STAGES.items():
        module, function = stage.call.split(".")
        assert callable(getattr(import_module(f"pipelines.{module}"), function)), name
        assert {*stage.needs, *MODEL_STAGES} <= set(STAGES)
        assert all(constant(f) > 0 for f in stage.formats), "a name that is none raises"


def test_a_step_is_left_out_with_a_tilde(monkeypatch, tmp_path: Path) -> None:
    """`~compression` runs without one."""
    import pipelines.run
    from recsys.commands.cli import main

    seen = []
    monkeypatch.setattr(pipelines.run, "execute", lambda config, folder, *_: seen.append(config) or folder)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "~compression", "~quantization"]) == 0
    assert seen[0].compression is None and seen[0].quantization is None


def test_a_run_and_its_model_have_the_name_of_the_data(monkeypatch, tmp_path: Path) -> None:
    """Were all of them called alike, two tables would share one registered model."""
    import pipelines.run
    from recsys.commands.cli import main

    seen = []
    monkeypatch.setattr(pipelines.run, "execute", lambda config, folder, *_: seen.append((config, folder)) or folder)
    monkeypatch.chdir(tmp_path)
    for arguments, name in ((["data=ml100k"], "ml100k"), (["experiment=demo"], "demo"), (["name=mine"], "mine")):
        assert main(["run", *arguments]) == 0
        config, folder = seen[-1]
        assert config.name == config.tracking.register == name and folder.name.endswith(f"-{name}-0")


def test_what_the_tables_take_is_compared_with_the_memory_there_is(monkeypatch) -> None:
    from types import SimpleNamespace

    from pipelines import check
    from recsys.data.preparation.fields import field_configs
    from recsys.errors import ConfigError

    fields = field_configs({"x": {"encoding": "hash", "buckets": 1000}, "y": {"table": "x"}, "z": {}})
    needed = 2 * 1000 * 8 * 4
    for there, embedding, fits in (
        (needed, {"dim": 8}, True),
        (needed - 1, {"dim": 8}, False),
        (needed - 1, {"dim": 8, "rows": 999}, True),
        (needed - 1, {"dim": 8, "rows": 500, "num_tables": 2}, False),
    ):
        monkeypatch.setattr(check.psutil, "virtual_memory", lambda there=there: SimpleNamespace(total=there))
        if fits:
            check._fits(embedding, fields)
        else:
            with pytest.raises(ConfigError, match="the tables have 1,000 rows of 8 numbers"):
                check._fits(embedding, fields)
