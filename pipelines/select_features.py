"""Stage select: which fields earn their keep."""

from typing import cast

from pipelines.stage import Result, Stage, write_json
from recsys import checkpoint
from recsys.data.shards import Shards
from recsys.factory import make, make_dataclass
from recsys.models.ctr import CTR
from recsys.recipe import facts, resolve
from recsys.selection.probes import Probed, discovery_rate, kept_with_probes, probe_sources, without_probes
from recsys.selection.recipe import Recipe
from recsys.selection.report import doubt, health, make_report, write_html
from recsys.selection.scores import FieldScores, check_policy, decide
from recsys.train import TrainConfig, fit, seed_everything

__all__ = ["run"]


def _search(
    stage: Stage, model: CTR, train: Shards, valid: Shards, recipe: Recipe
) -> tuple[FieldScores, dict[str, float] | None]:
    """Scores of the model's fields; with probes, of a model trained beside them, and what the probes say."""
    select, count = make(stage.config["selection"], "selection"), stage.config["select"]["probes"]
    seed = stage.config["seed"]
    if count == 0:
        return select(model, train, valid, recipe, seed), None
    sources = probe_sources(model.schema, count, seed)
    probed_train, probed_valid = (cast(Shards, Probed(s, sources, seed)) for s in (train, valid))
    seed_everything(seed)
    probed = recipe.build(probed_train.schema)
    fit(probed, probed_train, probed_valid, recipe.how, seed)
    scores = select(probed, probed_train, probed_valid, recipe, seed)
    return without_probes(scores), discovery_rate(kept_with_probes(scores, stage.config["select"]["top_k"]), count)


def run(stage: Stage) -> Result:
    """Score every field of the model of stage train on validation rows, and decide."""
    model, spec = checkpoint.load(stage.earlier("train"))
    train, valid = (Shards(stage.data, split, model.schema) for split in ("train", "valid"))
    top_k, protect = stage.config["select"]["top_k"], stage.config["select"]["protect"]
    check_policy(model.schema.names, top_k, protect)
    how = make_dataclass(TrainConfig, resolve(stage.config, facts(train))["train"], "train")
    recipe = Recipe(lambda schema: checkpoint.build(schema, spec), how)
    found_health = health(model, train, valid)
    scores, probes = _search(stage, model, train, valid, recipe)
    verdicts = decide(scores, top_k, protect, doubt(found_health))
    provenance = {"data": stage.data.name, "model": spec, "seed": stage.config["seed"]}
    report = make_report(model, scores, verdicts, found_health, provenance, probes)
    write_json(stage.folder / "report.json", report)
    write_html(report, stage.folder / "report.html")
    kept = [n for n in model.schema.names if report["fields"][n]["verdict"] != "drop"]
    write_json(stage.folder / "selection.json", {"keep": kept})
    metrics = {
        "fields_kept": float(len(kept)),
        "fields_dropped": float(len(model.schema.fields) - len(kept)),
        "seconds_search": scores.about["seconds"],
        "train_auc": found_health["train_auc"],
        "valid_auc": found_health["valid_auc"],
        "bytes_saved": float(report["savings"]["table_bytes"]),
    }
    if probes:
        metrics |= {k: probes[k] for k in ("probes_kept", "false_discovery_rate")}
    if "price" in scores.about:
        metrics["price"] = scores.about["price"]
    names = ("report.json", "report.html", "selection.json")
    return Result(metrics, artifacts=[stage.folder / n for n in names])
