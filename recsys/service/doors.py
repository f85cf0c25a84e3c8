"""Opens the door of a server, or of the database of this machine."""

import os
from pathlib import Path

from recsys.service.door import Door

__all__ = ["open_door"]


def open_door(runs: Path) -> Door:
    """The server that RECSYS_URL names, else the database: RECSYS_DATABASE, or service.db in the folder of runs.

    Raises:
        ConfigError: If the database cannot be used.
    """
    if url := os.environ.get("RECSYS_URL"):
        from recsys.service.remote import HttpDoor

        return HttpDoor(url, os.environ.get("RECSYS_TOKEN"))
    from recsys.service.local import LocalDoor

    return LocalDoor.open(runs)
