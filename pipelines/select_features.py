"""Stage select: scores a model's fields and decides which to keep."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from omegaconf import OmegaConf

import recsys
from pipelines.stage import Result, Stage, write_json
from recsys.config.factory import make, make_dataclass
from recsys.data.inspection.drift import drift
from recsys.data.inspection.field_stats import LARGE
from recsys.data.shards import Shards
from recsys.events import Reporters
from recsys.features.schema import Schema
from recsys.files import write_text
from recsys.frame.ctr import CTR
from recsys.results import read_made, relative
from recsys.selection.figures import ProbeFindings, ShuffledCost
from recsys.selection.probes import Probed, discovery_rate, kept_with_probes, probe_sources, without_probes
from recsys.selection.reports.build import Measured, make_report
from recsys.selection.reports.health import health, reason_for_doubt, with_probes
from recsys.selection.reports.redundancy import clusters
from recsys.selection.reports.report import Provenance, Report
from recsys.selection.reports.report_page import write_csv, write_html
from recsys.selection.reports.savings import savings
from recsys.selection.scores import FieldScores, check_policy, decide, without_repeats
from recsys.selection.search import Search, search_fields
from recsys.selection.shuffle import shuffled_cost
from recsys.terminal import console
from recsys.training import checkpoint
from recsys.training.auto import facts, resolve
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.fit import best_look, fit
from recsys.training.loop import seed_everything

__all__ = ["run", "write_report"]

_PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "numpy")  # torchrec asks for fbgemm-gpu on every machine
_OVERRIDE = """# @package _global_
# Trains on the fields that selection by {method} kept: select.apply=THIS FILE, or copy it to experiment/NAME.yaml
# of the folder that you are in and add experiment=NAME.
"""


def _search(stage: Stage, search: Search) -> tuple[FieldScores, ProbeFindings | None]:
    """Scores of the model's fields; with probes, of a network trained with them too, and the false discovery rate."""
    select, count = make(stage.config.selection or {}, "selection"), stage.config.select.probes
    if count == 0:
        return search_fields(select, search), None
    sources = probe_sources(search.model.schema, count, search.seed)
    train, valid = (Probed(split, sources, search.seed) for split in (search.train, search.valid))
    seed_everything(search.seed)
    model = search.build(train.schema)
    history = fit(model, train, valid, search.how, search.seed, device=search.device, reporter=search.reporter)
    among_probes = replace(search, model=model, train=train, valid=valid, steps=int(best_look(history)["step"]))
    scores = search_fields(select, among_probes)
    top_k = stage.config.select.top_k
    if top_k is None and scores.keep is None:
        top_k = stage.config.select.no_cut
    return without_probes(scores), discovery_rate(kept_with_probes(scores, top_k), count)


def _given(stage: Stage) -> tuple[Search, checkpoint.Spec]:
    """The selector's input, and the specification of the model."""
    device = Device.choose(stage.config.device, stage.config.train["precision"])
    model, spec = checkpoint.load(stage.earlier("train"), device)
    train, valid = (Shards(stage.data, split, model.schema) for split in ("train", "valid"))
    how = make_dataclass(TrainConfig, resolve(stage.config.to_json(), facts(train))["train"], "train")
    history = read_made(stage.earlier("train"), "history.json", "the looks of a training", list[dict[str, float]])
    built: checkpoint.Spec = {**spec}
    if stage.config.select.probes:
        built["linear"] = False  # a regression that was not fitted knows nothing of the probes
    search = Search(
        model=model,
        train=train,
        valid=valid,
        build=lambda schema: checkpoint.build(schema, built, device),
        how=how,
        seed=stage.config.seed,
        steps=int(min(history, key=_own_loss)["step"]),
        device=device,
        reporter=Reporters(stage.reporter, metrics=False),
    )
    return search, spec


def _own_loss(look: dict[str, float]) -> float:
    """Of the network alone: beside a regression that is far ahead, the mean may be best before the network learned."""
    return look.get("network_logloss", look["valid_logloss"])


def run(stage: Stage) -> Result:
    """Score every field of the model of stage train on validation rows, and decide."""
    search, spec = _given(stage)
    model, valid, names = search.model, search.valid, search.model.schema.names
    policy = stage.config.select
    check_policy(names, policy.top_k, policy.protect)
    check_policy(names, policy.no_cut, policy.protect)
    of_model = health(model, search.train, valid, device=search.device)
    scores, probes = _search(stage, search)
    scores.notes.warnings.extend(_one_label(model.schema))
    for warning in scores.notes.warnings:
        console().print(f"look at: {warning}", soft_wrap=True)
    of_model = with_probes(of_model, probes)
    verdicts = decide(scores, policy.top_k, policy.protect, reason_for_doubt(of_model), policy.no_cut)
    repeats = clusters(valid, scores.ranking, reporter=search.reporter)
    if policy.repeats == "drop" and not reason_for_doubt(of_model):
        verdicts = without_repeats(verdicts, [group.fields for group in repeats.found])
    keeps = {v.field for v in verdicts if v.verdict != "drop"}
    kept = [n for n in names if n in keeps]
    valid_rows = Shards(stage.data, "valid", model.schema)

    def smaller(schema: Schema) -> CTR:
        return checkpoint.build(schema, spec, search.device)

    measured = Measured(
        health=of_model,
        probes=probes,
        savings=savings(model, smaller, kept, valid_rows, search.how.optimizer, search.device),
        shuffled=_shuffled(search, kept),
        clusters=repeats,
    )
    _note_drift(stage, scores, kept)
    report = make_report(model, scores, verdicts, measured, _provenance(stage, spec, search))
    return Result(_metrics(report), artifacts=write_report(stage.folder, report, kept))


def _note_drift(stage: Stage, scores: FieldScores, kept: list[str]) -> None:
    """Note how far each field drifts between the splits, and warn of kept fields that drift far."""
    seen = drift(stage.data)
    for name, psi in seen.fields.items():
        if name in scores.details:
            scores.details[name] = {**scores.details[name], "drift": psi}
    if large := seen.large(kept):
        named = ", ".join(f"{n} ({v:.2f})" for n, v in large.items())
        warning = f"kept fields drift from training to validation or test (PSI above {LARGE}): {named}"
        scores.notes.warnings.append(f"{warning}: what they are worth may not last")
        console().print(f"look at: {scores.notes.warnings[-1]}", soft_wrap=True)


def _metrics(report: Report) -> dict[str, float]:
    metrics = {
        "fields_kept": float(len(report.kept)),
        "fields_dropped": float(len(report.fields) - len(report.kept)),
        "seconds_search": report.search.seconds,
        "train_auc": report.health.train_auc,
        "valid_auc": report.health.valid_auc,
        "bytes_saved": float(report.savings.figures["table_bytes"]),
    }
    if report.probes:
        metrics["probes_kept"] = report.probes.probes_kept
        metrics["false_discovery_rate"] = report.probes.false_discovery_rate
    return metrics if report.search.price is None else metrics | {"price": report.search.price}


def _one_label(schema: Schema) -> list[str]:
    """Which label selection is about, if there are others."""
    others = ", ".join(schema.other_labels)
    return [f"fields are judged by what {schema.label} loses, not {others}"] if others else []


def _shuffled(search: Search, kept: list[str]) -> ShuffledCost | None:
    """What the model loses if all that is dropped is shuffled; None if nothing is dropped."""
    dropped = [n for n in search.model.schema.names if n not in kept]
    if not dropped:
        return None
    costs = shuffled_cost(search.model, search.valid, {"dropped": dropped}, search.seed, device=search.device)
    return costs["dropped"]


def _provenance(stage: Stage, spec: checkpoint.Spec, search: Search) -> Provenance:
    """Where a report comes from, for `recsys compare`."""
    config = stage.config
    return Provenance(
        data=stage.data.name,
        split={
            "shape": config.data["split"], "train_rows": len(search.train), "valid_rows": len(search.valid),
        },
        model=dict(spec),
        checkpoint=relative(stage.earlier("train"), Path(config.runs)),
        policy={k: getattr(config.select, k) for k in ("top_k", "no_cut", "protect", "repeats")},
        selection=dict(config.selection or {}),
        train=dict(config.train),
        seed=config.seed,
        versions={"recsys": recsys.__version__, **{n: version(n) for n in _PACKAGES}},
    )  # fmt: skip


def write_report(folder: Path, report: Report, kept: list[str]) -> list[Path]:
    """Write the report as JSON, CSV and a page; also selection.json for stage retrain and kept.yaml for later runs."""
    write_json(folder / "report.json", report.to_json())
    write_csv(report, folder / "report.csv")
    write_html(report, folder / "report.html")
    write_json(folder / "selection.json", {"keep": kept})
    override = OmegaConf.to_yaml({"select": {"apply": kept}})
    write_text(folder / "kept.yaml", _OVERRIDE.format(method=report.method) + override)
    return [folder / n for n in ("report.json", "report.csv", "report.html", "selection.json", "kept.yaml")]
