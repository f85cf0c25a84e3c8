"""What `recsys doctor` found."""

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Args:
        name: What was checked.
        value: What was found.
        ok: Whether it is as it should be.
        mend: The one command that mends it; empty if `ok`.
        blocks: Whether training cannot run with this problem; if it can, a feature is missing.
    """

    name: str
    value: str
    ok: bool = True
    mend: str = ""
    blocks: bool = True
