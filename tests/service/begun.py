"""A run that `recsys run` began, as its folder shows it while it trains or after its process was killed."""

import json
from pathlib import Path

from pipelines.frozen import freeze
from recsys.results import Process, Run, utc_now, write_run

LEFT = ("stages", "tracking", "runs", "launcher", "distributed")  # settings that run.json does not hold


def begun_by_run(*overrides: str) -> Path:
    """Write its folder in the current one's `runs`; it runs while the lock there is held, else it was killed."""
    (f,) = freeze(overrides)
    settings = {key: value for key, value in f.config.items() if key not in LEFT}
    folder = Path(f.runs) / f.id
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(f.overrides))
    run = Run("0" * 32, settings, f.digest, f.overrides, Process.this(), utc_now(), utc_now(), stage="train")
    write_run(folder, run)
    return folder
