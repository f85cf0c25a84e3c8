"""A mistake on the command line: told at once, in one line, before anything runs or is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["torch", "torchrec", "fbgemm_gpu", "sklearn", "scipy", "mlflow", "pandas", "polars", "pyarrow", "plotly"]
WRONG = {
    "model.absent=3": "model.absent: no such key: expected some of dropout, hidden, layers",
    "absent=3": "absent: no such key: expected some of calibrate",
    "+absent=3": "unknown absent",
    "+select.absent=3": "select: unknown absent",
    "+data.absent=3": "data: unknown absent",
    "+train.absent=3": "train: unknown absent",
    "+model.depth=3": "model: unknown depth",
    "+model.widths=[3]": "model: unknown widths",
    "+selection.depth=3": "selection: unknown depth",
    "+data.source.depth=3": "data.source: unknown depth",
    "model=absent": "model: no option 'absent': expected one of dcn, fm, mlp, wukong",
    "experiment=absent": "experiment: no option 'absent': expected one of demo",
    "stages=[fly]": "unknown ['fly']",
    "stages=[]": "stages: expected a list",
    "stages=train": "stages: expected a list",
    "stages=[compress]": "stage compress needs train",
    "stages=[train,retrain]": "stage retrain needs select",
    "from_run=absent": "no finished run 'absent'",
    "train.lr=fast": "train.lr",
    "train.lr=-1": "train.lr must be a number above 0",
    "train.patience=0": "train.patience",
    "train.precision=fp8": "expected auto, fp32 or bf16",
    "train.decay=auto": "train.decay",
    "model.layers=many": "model.layers",
    "model.layers=auto": "model.layers",
    "model.dropout=2": "model.dropout: input should be less than 1",
    "model.hidden=[-1]": "model.hidden.0",
    "embedding.dim=6": "multiple of 4",
    "embedding.dim=0": "embedding.dim",
    "selection.steps=many": "selection.steps",
    "compression.rank=x": "compression.rank",
    "model=3": "Config group override must be a string",
    "select=3": "select: expected",
    "compression._target_=os.system": "compression._target_",
    "data.label=???": "no value for data.label",
    "data.label=null": "data.label",
    "+data.fields.item.colour=red": "colour",
    "+device=cuda": "CPU only",
    "device=cuda": "CPU only",
    "train.device=cuda": "CPU only",
    "+train.device=cpu": "CPU only",
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
}
_CHILD = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys({heavy!r}))  # to import one of them is an error
from recsys.cli import main
for line in {wrong!r}:
    said, printed = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            code = main(["run", *({{"stages=[a b": ["stages=[a b"]}}.get(line) or line.split())])
    except BaseException as error:
        code = repr(error)
    print(json.dumps([line, code, said.getvalue(), printed.getvalue()]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Command line → exit code, standard error and standard output, of one process that cannot import torch."""
    folder = tmp_path_factory.mktemp("wrong")
    child = _CHILD.format(heavy=HEAVY, wrong=list(WRONG))
    ran = subprocess.run([sys.executable, "-c", child], cwd=folder, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    assert not list(folder.iterdir()), "something was left behind"
    return {line: rest for line, *rest in map(json.loads, ran.stdout.splitlines())}


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_one_line_and_exit_code_2_before_torch_is_imported(told: dict[str, list], line: str) -> None:
    code, said, printed = told[line]
    assert code == 2, said
    assert WRONG[line] in said
    assert said.startswith("error: ") and len(said.strip().splitlines()) == 1
    assert "HYDRA_FULL_ERROR" not in said and printed == ""


def without(packages: list[str], arguments: list[str], folder: Path) -> str:
    """What a command prints in a process that cannot import some packages."""
    code = f"import sys; sys.modules.update(dict.fromkeys({packages!r})); from recsys.cli import main; "
    code += f"sys.exit(main({arguments!r}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert not list(folder.iterdir())
    return ran.stdout


def test_the_configuration_is_printed_without_torch(tmp_path: Path) -> None:
    shown = without(HEAVY, ["run", "seed=3", "--cfg", "job", "experiment=demo"], tmp_path)
    assert "seed: 3" in shown and "name: demo" in shown


@pytest.mark.parametrize("command", [[], ["run"], ["data"], ["bench"]])
def test_help_needs_neither_torch_nor_hydra(command: list[str], tmp_path: Path) -> None:
    assert "recsys" in without([*HEAVY, "hydra", "omegaconf", "numpy", "pydantic"], [*command, "--help"], tmp_path)


def test_the_stages_that_are_known_are_those_that_run() -> None:
    from pipelines.check import NEEDS
    from pipelines.run import STAGES

    assert list(NEEDS) == list(STAGES)
