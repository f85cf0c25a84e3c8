"""A hundred overrides that cannot be, drawn from every setting and every wrong kind of value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import pipelines.submit  # noqa: F401  # its resolver
from recsys.config.options import CONF
from tests.pipeline.forks import Forks

pytestmark = pytest.mark.slow  # a hundred forks

EVER = ["${nothing}", "${oc.env:NO_SUCH_VARIABLE}", "${oc.decode:'{'}", "[", "'", "{a", "${", "???", "a=b=[", "${.}"]
NUMBER = ["abc", "nan", "inf", "-7", "[1]", "{a:1}", "true", f"1{'0' * 30}", "'5'", "''", "1e400", "-inf", "[]", "1j"]
SWITCH = ["abc", "7", "[true]", "{a:1}", "null", "''", "2.5"]
WORD = ["", "../x", "/etc/x", "'a/b'", "[a]", "{a:1}", "null", ".hidden", "3", "true", f"{'x' * 300}", "'a\\nb'"]
PLACE = ["''", "[a]", "{a:1}", "null", "/dev/null", "/proc/x", "3", "true"]
PARTS = ["abc", "3", "[a]", "true", "null"]
LIST = ["abc", "3", "{a:1}", "[3]", "[[a]]", "true", "[null]"]
WIDTHS = ["abc", "3", "{a:1}", "[a]", "[-1]", "[[1]]", "[0]", "[1.5]", "[1000000000]", "[true]"]
OPTION = ["absent", "3", "[a]", "{a:1}", "''", "../conf/model/dcn", "/etc/passwd", "dcn.yaml", "${name}"]
KINDS: dict[str, list[str]] = {
    "name": WORD, "tracking.experiment": WORD, "tracking.register": WORD, "data.name": WORD, "runs": PLACE,
    "tracking.uri": ["''", "3", "[a]", "{a:1}", "foo://x", "sqlite://", "sqlite:////no/such/x.db", "http:/x", "true"],
    "seed": NUMBER, "calibrate": SWITCH, "select": PARTS, "export": PARTS, "tracking": PARTS, "train": PARTS,
    "model": OPTION, "embedding": OPTION, "sequence": OPTION, "head": OPTION, "selection": OPTION,
    "compression": OPTION, "quantization": OPTION, "data": OPTION, "experiment": OPTION,
    "stages": [*LIST, "[]", "[train,train]", "null"],
    "trusted": LIST, "select.protect": LIST, "select.top_k": NUMBER, "select.no_cut": NUMBER, "select.probes": NUMBER,
    "select.repeats": [*SWITCH, "KEEP"], "select.apply": ["3", "{a:1}", "[3]", "true", "[]", "''"],
    "export.golden": [*SWITCH, "Rows"], "from_run": ["absent", "../x", "[a]", "{a:1}", "3", "/etc", "true"],
    "resume": ["absent", "../x", "/etc", "[a]", "''", "a/b"],
    "hydra.run.dir": ["/elsewhere", "runs", "runs/../x", "''"],
    "model.hidden": WIDTHS, "model._target_": ["os.system", "abc", "3", "null", "[a]", "recsys.commands.cli.main"],
    "data.source": PARTS[:-1], "data.fields": PARTS, "data.split": PARTS,
    "data.label": ["null", "3", "[a]", "{a:1}", "''"],
    "data.source._target_": ["os.system", "3", "recsys.tracking.os.system"],
}  # fmt: skip


def settings(group: str, option: str) -> Iterator[tuple[str, Any]]:
    """Keys and defaults of a packaged option that take one number."""
    loaded: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
    for key, value in loaded.items():
        if key[0] != "_" and not isinstance(value, str | bool | list | dict) and key not in ("groups", "adaptive"):
            yield key, value


def hostile() -> list[list[str]]:
    """Every setting with every value that it cannot have, as command lines."""
    found = [[f"{key}={value}"] for key, values in KINDS.items() for value in (*values, *EVER)]
    for group in ("model", "embedding", "sequence", "head", "selection", "compression", "quantization"):
        for path in sorted((CONF / group).glob("*.yaml")):
            for key, default in settings(group, path.stem):
                wrong = [*NUMBER, *EVER] + ([] if default is None else ["null"])
                found += [[f"{group}={path.stem}", f"{group}.{key}={value}"] for value in wrong]
    with initialize_config_dir(str(CONF), version_base=None):
        train = compose("config").train
    numbers = [k for k in train if k not in ("precision", "decay", "fresh_tables")]
    found += [[f"train.{k}={value}"] for k in numbers for value in (*NUMBER, *EVER, "null")]
    found += [[f"train.{k}={value}"] for k in ("precision", "decay", "fresh_tables") for value in (*SWITCH, *EVER)]
    return found


def draw(count: int) -> list[list[str]]:
    found = hostile()
    return [found[i] for i in sorted(np.random.default_rng(0).choice(len(found), count, replace=False).tolist())]


@pytest.mark.parametrize("line", draw(100), ids=" ".join)
def test_it_is_told_at_once_and_nothing_is_written(line: list[str], forks: Forks, tmp_path: Path) -> None:
    ended = forks.run(tmp_path, "run", *line)
    assert ended.code == 2, ended.said
    assert ended.said.startswith("error: ") and len(ended.said.splitlines()) == 1
    assert "Traceback" not in ended.said
    assert list(tmp_path.iterdir()) == []
    assert ended.seconds < 1.5
