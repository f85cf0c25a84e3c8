"""Stage select: which fields earn their keep."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import recsys
from pipelines.stage import Result, Stage, write_json
from recsys.config.factory import make, make_dataclass
from recsys.data.shards import Shards
from recsys.data.split import Split
from recsys.errors import ConfigError
from recsys.events import Together
from recsys.files import write_text
from recsys.frame.ctr import CTR
from recsys.results import NUMBER, read_made, relative
from recsys.selection.probes import Probed, discovery_rate, kept_with_probes, probe_sources, without_probes
from recsys.selection.reports.redundancy import clusters
from recsys.selection.reports.report import doubt, health, make_report, with_probes
from recsys.selection.reports.report_page import write_csv, write_html
from recsys.selection.reports.savings import savings
from recsys.selection.scores import FieldScores, check_policy, decide, without_repeats
from recsys.selection.search import Search, search_fields
from recsys.selection.shuffle import shuffled_cost
from recsys.terminal import console
from recsys.training import checkpoint
from recsys.training.auto import facts, resolve
from recsys.training.config import TrainConfig
from recsys.training.fit import best_look, fit
from recsys.training.loop import seed_everything

__all__ = ["run", "write_report"]

_TOLD = ("torch", "torchrec", "fbgemm-gpu", "numpy")  # torchrec asks for fbgemm-gpu on every machine
_OVERRIDE = """# @package _global_
# Trains on the fields that selection by {method} kept: select.apply=THIS FILE, or copy it to experiment/NAME.yaml
# of the folder that you are in and add experiment=NAME.
"""


def _search(stage: Stage, search: Search) -> tuple[FieldScores, dict[str, float] | None]:
    """Scores of the model's fields; with probes, of a model trained beside them, and what the probes say."""
    select, count = make(stage.config["selection"], "selection"), stage.config["select"]["probes"]
    if count == 0:
        return search_fields(select, search), None
    sources = probe_sources(search.model.schema, count, search.seed)
    train, valid = (Probed(split, sources, search.seed) for split in (search.train, search.valid))
    seed_everything(search.seed)
    model = search.build(train.schema)
    reporter = Together(stage.reporter, metrics=False)
    history = fit(model, train, valid, search.how, search.seed, reporter=reporter)
    among_probes = replace(search, model=model, train=train, valid=valid, steps=int(best_look(history)["step"]))
    scores = search_fields(select, among_probes)
    top_k = stage.config["select"]["top_k"]
    if top_k is None and scores.keep is None:
        top_k = stage.config["select"]["no_cut"]
    return without_probes(scores), discovery_rate(kept_with_probes(scores, top_k), count)


def run(stage: Stage) -> Result:
    """Score every field of the model of stage train on validation rows, and decide."""
    model, spec = checkpoint.load(stage.earlier("train"))
    train, valid = (Shards(stage.data, split, model.schema) for split in ("train", "valid"))
    top_k, protect, no_cut = (stage.config["select"][k] for k in ("top_k", "protect", "no_cut"))
    check_policy(model.schema.names, top_k, protect)
    check_policy(model.schema.names, no_cut, protect)
    drops_repeats = _drops_repeats(stage)
    how = make_dataclass(TrainConfig, resolve(stage.config, facts(train))["train"], "train")
    looks = [{"step": NUMBER, "valid_logloss": NUMBER}]
    history = read_made(stage.earlier("train"), "history.json", "the looks of a training", looks)
    search = Search(
        model=model,
        train=train,
        valid=valid,
        build=lambda schema: checkpoint.build(schema, spec),
        how=how,
        seed=stage.config["seed"],
        steps=int(best_look(history)["step"]),
    )
    found_health = health(model, train, valid)
    scores, probes = _search(stage, search)
    for note in scores.about.get("warnings", []):
        console().print(f"look at: {note}", soft_wrap=True)
    found_health = with_probes(found_health, probes)
    verdicts = decide(scores, top_k, protect, doubt(found_health), no_cut)
    repeats = clusters(valid, scores.ranking)
    if drops_repeats and not doubt(found_health):
        verdicts = without_repeats(verdicts, [g["fields"] for g in repeats["found"]])
    kept = [v.field for v in verdicts if v.verdict != "drop"]
    kept = [n for n in model.schema.names if n in kept]
    measured = {
        "health": found_health,
        "probes": probes,
        "savings": savings(model, search.build, kept, valid, how.precision),
        "shuffled": _shuffled(model, valid, kept, stage.config["seed"]),
        "clusters": repeats,
    }
    report = make_report(model, scores, verdicts, measured, _provenance(stage, spec, train, valid))
    artifacts = write_report(stage.folder, report, kept)
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
    return Result(metrics, artifacts=artifacts)


def _shuffled(model: CTR, valid: Split, kept: list[str], seed: int) -> dict[str, float] | None:
    """What the model as it stands loses where all that is dropped is shuffled; None where nothing is."""
    dropped = [n for n in model.schema.names if n not in kept]
    return shuffled_cost(model, valid, {"dropped": dropped}, seed)["dropped"] if dropped else None


def _drops_repeats(stage: Stage) -> bool:
    asked = stage.config["select"]["repeats"]
    if asked not in ("keep", "drop"):
        raise ConfigError(f"select.repeats: expected keep or drop, got {asked!r}: choose one of them")
    return asked == "drop"


def _provenance(stage: Stage, spec: dict[str, Any], train: Split, valid: Split) -> dict[str, Any]:
    """Where a report comes from: what `recsys compare` lays side by side. The checkpoint is as seen from `runs`."""
    config = stage.config
    return {
        "data": stage.data.name,
        "split": {"shape": config["data"]["split"], "train_rows": len(train), "valid_rows": len(valid)},
        "model": spec,
        "checkpoint": relative(stage.earlier("train"), Path(config["runs"])),
        "policy": {k: config["select"][k] for k in ("top_k", "no_cut", "protect", "repeats")},
        "selection": config["selection"],
        "train": config["train"],
        "seed": config["seed"],
        "versions": {"recsys": recsys.__version__, **{n: version(n) for n in _TOLD}},
    }


def write_report(folder: Path, report: dict[str, Any], kept: list[str]) -> list[Path]:
    """The report as JSON, CSV and a page, and what applies it: for stage retrain, and for later runs."""
    write_json(folder / "report.json", report)
    write_csv(report, folder / "report.csv")
    write_html(report, folder / "report.html")
    write_json(folder / "selection.json", {"keep": kept})
    override = OmegaConf.to_yaml({"select": {"apply": kept}})
    write_text(folder / "kept.yaml", _OVERRIDE.format(method=report["method"]) + override)
    return [folder / n for n in ("report.json", "report.csv", "report.html", "selection.json", "kept.yaml")]
