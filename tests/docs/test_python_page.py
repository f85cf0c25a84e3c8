"""The public names, and the page about them: its example runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recsys

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()
PUBLIC = [
    "Bundle", "CTR", "DCN", "FM", "MLP", "RecsysError", "Schema", "Shards", "TrainConfig", "Wukong", "evaluate", "fit",
    "hashed", "logits", "per_field", "prepare", "scan", "unified",
]  # fmt: skip


def test_the_public_names_are_these():
    assert recsys.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(recsys, name).__name__ == name
    with pytest.raises(AttributeError, match="no public name 'nothing'"):
        recsys.nothing  # noqa: B018


def test_type_checkers_are_told_the_same():
    assert (ROOT / "recsys" / "py.typed").exists()
    stub = (ROOT / "recsys" / "__init__.pyi").read_text()
    assert sorted(re.findall(r"^from ([\w.]+) import (\w+) as \2$", stub, re.M)) == sorted(
        (home, name) for name, home in recsys._HOME.items()
    )


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, recsys; print([m for m in ('torch', 'numpy', 'pandas', 'mlflow', 'hydra') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_the_pages_example_trains_a_model_that_knows_something(tmp_path, monkeypatch, capsys):
    r = np.random.default_rng(0)
    item, city = r.integers(0, 40, 24_000), r.integers(0, 5, 24_000)
    clicked = r.random(24_000) < 1 / (1 + np.exp(1.5 - r.normal(size=40)[item] * 2))
    at = pd.date_range("2025-01-01", periods=24_000, freq="min")
    frame = pd.DataFrame(
        {"item": item, "city": city, "price": r.normal(size=24_000), "at": at, "click": clicked.astype(int)}
    )
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    scope: dict[str, object] = {}
    exec(example, scope)
    figures = eval(capsys.readouterr().out)
    assert figures["auc"] > 0.7, figures
