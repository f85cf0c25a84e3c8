import itertools
import math
from typing import Any

import numpy as np
import pytest

from recsys.config.factory import make_dataclass
from recsys.embeddings.plan import check_dim
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.training.auto import Facts, facts, recipe, resolve
from recsys.training.config import TrainConfig

ROWS = (2, 30, 398, 5_000, 80_000, 730_000, 45_000_000, 4_000_000_000)
SHARES = (1e-4, 0.01, 0.25, 0.5, 0.97)
WIDEST = ((), (3,), (2, 60), (2_000, 9), (400_000, 7), (10**9,))


def every() -> list[Facts]:
    return [Facts(n, max(1, int(n * p)), c, 3) for n, p, c in itertools.product(ROWS, SHARES, WIDEST)]


def config(**model: Any) -> dict[str, Any]:
    auto = dict.fromkeys(recipe(every()[0])["train"], "auto")
    target = model.pop("_target_", "recsys.models.dcn.DCN")
    return {
        "train": {**auto, "precision": "auto", "decay": "none", "table_l2": 0.0},
        "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": "auto"},
        "model": {"_target_": target, "dropout": "auto", **model},
        "optimizer": {"_target_": "recsys.training.optimizers.adamw.adamw"},
        "table_optimizer": {"_target_": "recsys.embeddings.optimizers.rowwise_adagrad.rowwise_adagrad"},
    }


def test_every_setting_is_one_that_training_takes() -> None:
    for about in every():
        made = recipe(about)
        train = make_dataclass(TrainConfig, made["train"], "train")
        check_dim("embedding.dim", int(made["embedding"]["dim"]))
        assert 4 <= made["embedding"]["dim"] <= 32, about
        assert 0 <= made["model"]["dropout"] < 1, about
        assert 32 <= train.batch_size <= 8192 and math.log2(train.batch_size).is_integer(), about
        assert train.patience > train.evals_per_epoch, f"one odd epoch ends it: {about}"
        steps = max(1, about.rows // train.batch_size)
        assert train.evals_per_epoch <= steps, about
        assert train.fresh_tables or train.max_epochs == 100 or train.max_epochs * steps >= 4000, about


@pytest.mark.parametrize("widest", WIDEST)
def test_more_rows_mean_larger_batches_wider_tables_and_less_decay(widest: tuple[int, ...]) -> None:
    made = [recipe(Facts(n, n // 4 + 1, widest, 3)) for n in ROWS]
    for group, key, sign in (
        ("train", "batch_size", 1),
        ("train", "lr", 1),
        ("train", "table_lr", 1),
        ("train", "weight_decay", -1),
        ("embedding", "dim", 1),
        ("model", "dropout", 1),
    ):
        values = [sign * m[group][key] for m in made]
        assert values == sorted(values), f"{group}.{key}: {values}"
        assert values[0] < values[-1]


def test_more_ids_mean_more_dropout_of_what_is_looked_up() -> None:
    values = [recipe(Facts(80_000, 20_000, w, 3))["train"]["embedding_dropout"] for w in WIDEST]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0.2, 0.5)


def test_the_rarer_label_counts_whichever_it_is() -> None:
    assert recipe(Facts(10_000, 300, (9,), 1)) == recipe(Facts(10_000, 9_700, (9,), 1))


def test_fresh_tables_only_where_an_epoch_is_long_and_ids_are_rare() -> None:
    assert recipe(Facts(730_000, 160_000, (21_000,), 4))["train"]["fresh_tables"]
    assert not recipe(Facts(730_000, 160_000, (500,), 4))["train"]["fresh_tables"]
    assert not recipe(Facts(5_000, 1_000, (2_000,), 4))["train"]["fresh_tables"]


def test_facts_are_those_of_the_training_rows(train, schema: Schema) -> None:
    about = facts(train)
    assert (about.rows, about.positives) == (len(train), int(np.asarray(train.label_B).sum()))
    assert about.cardinalities == tuple(schema[n].cardinality for n in ("user", "item", "user_x_city", "age", "tags"))
    assert about.numbers == 1 + 4, "a price, and a score in three pieces"


def test_only_auto_is_replaced_and_a_given_value_stands() -> None:
    given, about = config(), Facts(5_000, 1_300, (60,), 3)
    given["train"] |= {"lr": 0.5, "batch_size": 77}
    made, chosen = resolve(given, about), recipe(about)
    assert (made["train"]["lr"], made["train"]["batch_size"]) == (0.5, 77)
    others = set(chosen["train"]) - {"lr", "batch_size"}
    assert {k: made["train"][k] for k in others} == {k: chosen["train"][k] for k in others}
    assert made["train"]["precision"] == "auto", "its auto is the processor's"
    assert made["embedding"]["dim"] == chosen["embedding"]["dim"]
    assert made["model"]["dropout"] == chosen["model"]["dropout"]
    assert given["train"]["patience"] == "auto", "the configuration itself is left alone"


def test_a_model_without_dropout_is_not_given_one() -> None:
    about = Facts(5_000, 1_300, (60,), 3)
    assert resolve(config(_target_="recsys.models.fm.FM"), about)["model"] == {"_target_": "recsys.models.fm.FM"}
    assert "dropout" in resolve(config(_target_="recsys.models.wukong.Wukong"), about)["model"]


@pytest.mark.parametrize(("group", "key"), [("train", "decay"), ("embedding", "init"), ("model", "layers")])
def test_auto_where_there_is_no_rule_is_refused(group: str, key: str) -> None:
    given = config()
    given[group][key] = "auto"
    with pytest.raises(ConfigError, match=rf"{group}\.{key}: .*give a value") as caught:
        resolve(given, Facts(5_000, 1_300, (60,), 3))
    assert "\n" not in str(caught.value)


def test_the_rate_of_tables_is_not_guessed_for_an_optimiser_that_the_recipe_does_not_know() -> None:
    given, about = config(), Facts(5_000, 1_300, (60,), 3)
    given["table_optimizer"] = {"_target_": "recsys.embeddings.optimizers.sgd.sgd"}
    with pytest.raises(ConfigError, match=r"train\.table_lr: auto is for .*give a value"):
        resolve(given, about)
    given["train"]["table_lr"] = 10.0
    assert resolve(given, about)["train"]["table_lr"] == 10.0
    given["table_optimizer"] = {"_target_": "recsys.embeddings.optimizers.adagrad.adagrad"}
    given["train"]["table_lr"] = "auto"
    assert resolve(given, about)["train"]["table_lr"] == recipe(about)["train"]["table_lr"]
