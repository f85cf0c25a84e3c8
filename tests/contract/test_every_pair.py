"""Every model over every embedding runs through the whole pipeline, found by itself; each option once if fast."""

from itertools import product
from pathlib import Path

import pytest

from pipelines.config import RunConfig
from pipelines.run import execute
from recsys.config.options import CONF
from tests.configs import composed
from tests.pipeline.small import SMALL

MODELS, EMBEDDINGS = (sorted(p.stem for p in (CONF / g).glob("*.yaml")) for g in ("model", "embedding"))


_MOST = max(len(MODELS), len(EMBEDDINGS))
ONCE = {(MODELS[i % len(MODELS)], EMBEDDINGS[i % len(EMBEDDINGS)]) for i in range(_MOST)}  # each option, in few pairs


@pytest.mark.parametrize(
    ("model", "embedding", "whole"),
    [(*p, False) for p in sorted(ONCE)]
    + [pytest.param(*p, True, marks=pytest.mark.slow) for p in product(MODELS, EMBEDDINGS)],
)
def test_model_over_embedding_runs_from_table_to_metrics(
    place: Path, model: str, embedding: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Selection is left out of the fast suite."""
    monkeypatch.chdir(place)
    stages = "train,select,retrain,compress,evaluate" if whole else "train,compress,evaluate"
    overrides = [*SMALL, f"model={model}", f"embedding={embedding}", "train.max_epochs=1", f"stages=[{stages}]"]
    config = RunConfig.from_json(composed(*overrides))
    folder = place / "runs" / f"{model}-{embedding}-{whole}"
    folder.mkdir(parents=True)
    assert execute(config, folder) == folder / "result.json"
    assert (folder / "evaluate" / "metrics.json").exists()
