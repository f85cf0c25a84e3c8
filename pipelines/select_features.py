"""Stage select: which fields earn their keep."""

from pipelines.stage import Result, Stage, write_json
from recsys import checkpoint
from recsys.data.shards import Shards
from recsys.factory import make, make_dataclass
from recsys.selection.recipe import Recipe
from recsys.selection.report import doubt, health, make_report, write_html
from recsys.selection.scores import check_policy, decide
from recsys.train import TrainConfig

__all__ = ["run"]


def run(stage: Stage) -> Result:
    """Score every field of the model of stage train on validation rows, and decide."""
    model, spec = checkpoint.load(stage.earlier("train"))
    train, valid = (Shards(stage.data, split, model.schema) for split in ("train", "valid"))
    top_k, protect = stage.config["select"]["top_k"], stage.config["select"]["protect"]
    check_policy(model.schema.names, top_k, protect)
    select = make(stage.config["selection"], "selection")
    how = make_dataclass(TrainConfig, stage.config["train"], "train")
    recipe = Recipe(lambda schema: checkpoint.build(schema, spec), how)
    found_health = health(model, train, valid)
    scores = select(model, train, valid, recipe, stage.config["seed"])
    verdicts = decide(scores, top_k, protect, doubt(found_health))
    provenance = {"data": stage.data.name, "model": spec, "seed": stage.config["seed"]}
    report = make_report(model, scores, verdicts, found_health, provenance)
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
    if "price" in scores.about:
        metrics["price"] = scores.about["price"]
    names = ("report.json", "report.html", "selection.json")
    return Result(metrics, artifacts=[stage.folder / n for n in names])
