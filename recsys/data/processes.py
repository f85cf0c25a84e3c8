"""Whether this process is one of several that torchrun or a launcher started; no torch is imported."""

import os

__all__ = ["LAUNCHED", "is_rank", "world_size"]

LAUNCHED = "RECSYS_LAUNCHED"
"""Environment variable that the command of a launcher sets, since a run of one process may have been launched too."""


def world_size() -> int:
    """The count of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_rank() -> bool:
    """Whether this process runs as one rank of a run: a launcher started it, or torchrun beside others."""
    return LAUNCHED in os.environ or world_size() > 1
