"""Stage merge: combines the models of finished runs into one, whose logit is the mean of theirs."""

from pipelines.members import members
from pipelines.stage import Result, Stage
from recsys.errors import ConfigError
from recsys.terminal import console
from recsys.training import merged

__all__ = ["run"]


def run(stage: Stage) -> Result:
    """Copy the newest model of each run that `merge.runs` names, and print the size of all of them together.

    Raises:
        ConfigError: If the table has changed since they were trained.
    """
    chosen = members(stage.config)
    if chosen.data != stage.data.name:
        raise ConfigError(
            f"merge.runs: the runs are of {chosen.data}, and the table as it is now gives {stage.data.name}: train "
            "them on it anew"
        )
    note = merged.save(stage.folder, chosen.models)
    model, _ = merged.load(stage.folder)
    sizes = [merged.load(stage.folder / m.folder)[0].nbytes()[1] for m in merged.members(stage.folder)]
    tables, whole = model.nbytes()
    size = f"merged {len(sizes)} models: {whole / 1e6:.2f} MB, {whole / max(sizes):.1f} times the largest of them"
    console().print(f"{size}; stage evaluate measures the time a row", soft_wrap=True)
    metrics = {"members": len(sizes), "bytes": whole, "table_bytes": tables, "times_largest": whole / max(sizes)}
    return Result(metrics, artifacts=[note])
