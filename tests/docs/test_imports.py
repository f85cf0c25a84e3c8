"""A scoring machine has numpy and xxhash, and one runtime: what it loads imports nothing else at the top."""

import ast
import subprocess
import sys
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

HEAVY = ["torch", "torchrec", "fbgemm_gpu", "pandas", "polars", "pyarrow", "sklearn", "scipy", "mlflow", "hydra"]
HEAVY += ["omegaconf", "plotly", "psutil", "rich"]


def run_without(missing, code):
    """Run Python code in a process where importing any of `missing` fails."""
    block = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module",
    [
        "recsys",
        "recsys.features.derived",
        "recsys.features.schema",
        "recsys.features.encoders",
        "recsys.features.values",
        "recsys.features.past",
        "recsys.features.row_encoder",
        "recsys.serving.bundle",
        "recsys.serving.rows",
        "recsys.serving.server",
    ],
)
def test_what_scores_imports_no_training_stack(module):
    light = [] if module == "recsys.serving.server" else ["fastapi", "uvicorn"]
    ran = run_without([*HEAVY, *light, "onnxruntime"], f"import {module}")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["serve", "--help"]])
def test_the_command_line_starts_on_a_scoring_machine(arguments):
    code = f"import sys; from recsys.commands.cli import main; sys.argv = ['recsys', *{arguments!r}]; sys.exit(main())"
    ran = run_without(HEAVY, code)
    assert ran.returncode == 0, ran.stderr


def test_doctor_is_importable_without_torch_and_rich():
    ran = run_without(
        HEAVY, "from recsys.commands.doctor import examine; print([f.name for f in examine() if not f.ok])"
    )
    assert ran.returncode == 0, ran.stderr
    assert "triple" in ran.stdout and "memory" in ran.stdout


def test_the_configuration_is_printed_without_what_trains_or_tracks(tmp_path):
    code = "import sys; from recsys.commands.cli import main; sys.exit(main(['run', '--cfg', 'job']))"
    slow = ["torch", "torchrec", "fbgemm_gpu", "pandas", "polars", "sklearn", "scipy", "mlflow", "plotly"]
    ran = run_without(slow, f"import os; os.chdir({str(tmp_path)!r}); {code}")
    assert ran.returncode == 0 and "train:" in ran.stdout, ran.stderr


def at_its_top(module):
    """The names that a module imports when it is imported: not those inside functions, nor for type checkers."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return
    waiting = list(ast.parse(Path(spec.origin).read_text()).body)
    package = module if spec.submodule_search_locations else module.rpartition(".")[0]
    while waiting:
        match waiting.pop():
            case ast.Import(names=names):
                yield from (n.name for n in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = resolve_name("." * level + (name or ""), package)
                yield from (base, *(f"{base}.{n.name}" for n in names))
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.FunctionDef() | ast.AsyncFunctionDef():
                pass
            case node:
                waiting += [c for c in ast.iter_child_nodes(node) if isinstance(c, ast.stmt)]


def test_before_the_first_step_nothing_slow_is_imported_that_it_does_not_need():
    """Of what takes long to import, it needs torch, TorchRec and MLflow alone, which imports pandas and polars."""
    slow = {"sklearn", "scipy", "pandas", "plotly", "jinja2", "lightgbm", "onnx", "onnxruntime", "ray"}
    waiting = ["recsys.commands.cli", "recsys.commands.run", "pipelines.submit", "pipelines.run"]
    waiting += ["pipelines.prepare", "pipelines.train", "recsys.models.dcn", "recsys.embeddings.per_field"]
    why = dict.fromkeys(waiting, "the command")
    found = {}
    while waiting:
        module = waiting.pop()
        for name in at_its_top(module):
            if name.partition(".")[0] in slow:
                found[name.partition(".")[0]] = module
            elif name.startswith(("recsys.", "pipelines.")) and name not in why and is_ours(name):
                why[name] = module
                waiting.append(name)
    assert len(why) > 60 and "recsys.training.loop" in why, "the walk has not come far"
    assert not found, {name: [module, why[module]] for name, module in found.items()}


def is_ours(name):
    """Whether a name is a module of ours; a function or a class is none."""
    path = Path(__file__).parents[2].joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()
