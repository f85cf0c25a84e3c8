"""What the page of one run shows."""

from typing import Any

from recsys.service.compare import flat
from recsys.service.curves import Curves
from recsys.service.http.files import home_of, read_log
from recsys.service.http.settings import Settings
from recsys.service.pages.parts.charts import PARTS, charts
from recsys.service.pages.parts.defaults import PLACES, Defaults, options_in
from recsys.service.pages.parts.rows import Row
from recsys.service.pages.parts.stages import results
from recsys.service.typed import command, overrides

__all__ = ["one_run"]

_TAIL = 16_384  # bytes of the log that are shown at first
_POINTS = 400  # of a curve that is drawn without script


def one_run(settings: Settings, row: Row, after: int, curves: Curves, defaults: Defaults) -> dict[str, Any]:
    """The values of the template `run`.

    Args:
        settings: With the folder of runs, and MLflow's address.
        row: The run, with its configuration.
        after: Id of the newest event.
        curves: Reads its curves.
        defaults: What experiments say without overrides.
    """
    run = row.run
    home = home_of(run, settings)
    log, folder = read_log(home, run.id, -_TAIL), results(home, run)
    return {
        "row": row, "run": run, "after": after, "results": folder,
        "kinds": PARTS, "charts": charts(curves.of(home, run.id, _POINTS)),
        "log": log.body.decode("utf-8", "replace"), "log_next": log.next, "log_cut": log.start > 0,
        "changes": defaults.changes(run.new.overrides, run.new.config),
        "options": options_in(run.new.overrides),
        "config": [(key, value) for key, value in flat(run.new.config).items() if key not in PLACES],
        "command": command(run.new), "submit": overrides(run.new),
        "mlflow_run": f"{settings.mlflow}/#/runs/{folder.mlflow}" if settings.mlflow and folder.mlflow else None,
    }  # fmt: skip
