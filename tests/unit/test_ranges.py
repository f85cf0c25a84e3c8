"""Every setting of a packaged option has a range: a slip of the finger is told before a run starts."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recsys.config.factory import check, make, make_dataclass
from recsys.config.options import CONF
from recsys.errors import ConfigError
from recsys.training.config import TrainConfig

GROUPS = ("model", "embedding", "sequence", "head", "selection", "compression", "quantization")
ABSURD = (-1, 10**30, math.nan, math.inf, "many", [], True)
SWITCHES = ("adaptive",)


def settings() -> Iterator[tuple[Path, str]]:
    for path in (p for g in GROUPS for p in sorted((CONF / g).glob("*.yaml"))):
        yield from ((path, str(k)) for k in OmegaConf.load(path) if str(k)[0] != "_")


@pytest.mark.parametrize(
    ("path", "key"), [pytest.param(p, k, id=f"{p.parent.name}/{p.stem}.{k}") for p, k in settings()]
)
def test_a_setting_refuses_what_is_absurd(path: Path, key: str) -> None:
    option: Any = OmegaConf.to_container(OmegaConf.load(path))
    group = path.parent.name
    check(option, group)
    make(option, group)
    lists = isinstance(option[key], list | dict) or key in ("y_hidden", "groups", "weights")
    for wrong in ABSURD if key not in SWITCHES else ("many", 7, []):
        if lists and wrong == []:
            continue
        for look in (check, make):
            with pytest.raises(ConfigError, match=rf"^{group}\.{key}"):
                look({**option, key: wrong}, group)


@pytest.mark.parametrize("key", list(vars(TrainConfig())))
def test_so_does_training(key: str) -> None:
    for wrong in ABSURD if key not in ("fresh_tables", "linear") else ("many", 7, []):
        with pytest.raises(ConfigError, match=rf"^train\.{key}"):
            make_dataclass(TrainConfig, {key: wrong}, "train")
