"""The run of a schedule: its template, or for daily training, the days after those of its last good run."""

import json
import shlex
from dataclasses import replace
from datetime import datetime

from pipelines.config import RunConfig
from pipelines.earlier import settings
from recsys.errors import ConfigError
from recsys.files import Json
from recsys.results import config_digest
from recsys.service.queue.records import NewRun, Schedule

__all__ = ["of_schedule"]


def of_schedule(schedule: Schedule, due: datetime, last_good: str | None) -> NewRun:
    """The run to submit at a time.

    With stage `daily`, it goes on from the last run that finished: `from_run` and `daily.after` name it, and the stages
    before `daily` are taken over. Any other run is the template again.

    Args:
        schedule: The schedule.
        due: When it was due.
        last_good: Id of its last run that finished; None without one.

    Raises:
        ConfigError: If the template is of another version of recsys, whose configurations have other keys.
    """
    template = schedule.template
    try:
        RunConfig.from_json(template.config)
    except ConfigError as error:
        command = shlex.join(
            ["recsys", "submit", *template.overrides, "--every", schedule.every, "--name", schedule.id]
        )
        raise ConfigError(
            f"its configuration was composed by another version of recsys ({error}): "
            f"recsys schedules remove {schedule.id}, then: {command}; it goes on from its last run"
        ) from error
    stages: list[str] = template.config.get("stages", [])
    if last_good is None or "daily" not in stages or template.config.get("daily") is None:
        return template
    later = stages[stages.index("daily") :]
    daily: Json = {**template.config["daily"], "after": last_good}
    config: Json = {**template.config, "stages": later, "from_run": last_good, "daily": daily}
    digest = config_digest(json.loads(json.dumps(settings(RunConfig.from_json(config)))))
    typed = [f"stages=[{','.join(later)}]", f"from_run={last_good}", f"daily.after={last_good}"]
    return replace(template, config=config, digest=digest, overrides=[*template.overrides, *typed])
