"""Bodies of requests, checked; what is not named here is refused."""

from typing import Annotated

from annotated_types import Ge, Le, Len
from pydantic import AfterValidator, BaseModel, ConfigDict, Strict

from recsys.service.door import Submission
from recsys.service.queue.records import Needs

__all__ = ["Asked", "Resumed"]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable text")
    return text


_Count = Annotated[int, Strict()]
_Word = Annotated[str, Len(1, 200), AfterValidator(_printable)]
_Id = Annotated[str, Len(1, 500), AfterValidator(_printable)]


class _Needs(BaseModel):
    """What a run takes of a machine: cores, bytes, GPUs."""

    model_config = ConfigDict(extra="forbid")
    cores: Annotated[_Count, Ge(1), Le(4096)] = 1
    memory: Annotated[_Count, Ge(0), Le(1 << 50)] = Needs.memory
    gpus: Annotated[_Count, Ge(0), Le(1024)] = 0


class Asked(BaseModel):
    """A submission, as of `recsys submit`.

    `overrides` are Hydra's, without + and ~; with `multirun`, several values of a key are a sweep.
    """

    model_config = ConfigDict(extra="forbid")
    overrides: Annotated[list[str], Len(0, 1000)]
    multirun: bool = False
    name: _Word | None = None
    priority: Annotated[_Count, Ge(-1_000_000), Le(1_000_000)] = 0
    after: Annotated[list[_Id], Len(0, 1000)] = []
    client_key: _Word | None = None
    needs: _Needs = _Needs()
    every: _Word | None = None

    def submission(self) -> Submission:
        """The same, for the queue."""
        values = self.model_dump(exclude={"needs"})
        return Submission(**values, needs=Needs(**self.needs.model_dump()))


class Resumed(BaseModel):
    """How to resume: `dead` if a person has seen that the processes of a run in state `unknown` are gone."""

    model_config = ConfigDict(extra="forbid")
    dead: bool = False
