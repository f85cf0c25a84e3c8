import json
from dataclasses import FrozenInstanceError

import pytest

from pipelines.config import RunConfig
from recsys.errors import ConfigError
from tests.configs import composed, run_config


@pytest.mark.parametrize("overrides", [[], ["experiment=selection_benchmark"]])
def test_a_configuration_is_what_hydra_composes_there_and_back(overrides: list[str]) -> None:
    values = composed(*overrides)
    config = RunConfig.from_json(values)
    assert json.loads(json.dumps(config.to_json())) == {"heal": None, **values}
    assert RunConfig.from_json(config.to_json()) == config
    with pytest.raises(FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]  # that is what is tried


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": "3"}, "seed: input should be a valid integer, got '3': give such a value"),
        ({"select": 3}, "select: expected top_k, no_cut, protect, repeats, apply, probes, got 3: set one of them"),
        ({"export": {"golden": "none"}}, "export: no value for past: leave it as it is, or set it"),
        ({"export": {"golden": "none", "past": 1, "x": 1}}, "export: unknown x: expected some of golden, past"),
        ({"model": None}, "model: expected an option of the group, got None: name one"),
        ({"selection": 3}, "selection: expected an option of the group, got 3: name one"),
        ({"benchmark": {"seeds": [0, -1]}}, "benchmark.seeds.1: input should be greater than or equal to 0, got -1"),
        ({"tracking": {"uri": ["http://u:secret@x"], "experiment": "a", "register": "b"}}, "tracking.uri: expected"),
    ],
)
def test_what_cannot_be_is_named(changed: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_json({**run_config().to_json(), **changed})
    assert str(caught.value).startswith(message) and "secret" not in str(caught.value)


def test_what_may_be_left_out_is_none() -> None:
    values = run_config().to_json()
    del values["compression"]
    assert RunConfig.from_json({**values, "sequence": False}).to_json() == {
        **values, "compression": None, "sequence": None,
    }  # fmt: skip
