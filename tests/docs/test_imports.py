"""A scoring machine has numpy and xxhash, and one runtime: what it loads imports nothing else at the top."""

import subprocess
import sys

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


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
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
