"""What comes in: bodies of requests, in which nothing else may stand, and ids in addresses."""

from typing import Annotated, Any

from annotated_types import Len
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict
from starlette.convertors import Convertor, register_url_convertor

from recsys.errors import ConfigError
from recsys.service.door import Submission
from recsys.service.http.auth import Refusal
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import MOST_LETTERS, RANGES, Needs, QueuedRun, whole_number

__all__ = ["Asked", "Resumed", "get"]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable text, got control characters: leave them out")
    return text


def _within(name: str) -> tuple[AfterValidator, Any]:
    """The range of a number: one outside is refused in the words of the command."""
    least, most = RANGES[name]

    def check(value: int) -> int:
        if not least <= value <= most:
            raise ValueError(whole_number(name, value))
        return value

    return AfterValidator(check), Field(json_schema_extra={"minimum": least, "maximum": most})


_Count = Annotated[int, Strict()]
_Word = Annotated[str, Len(1, MOST_LETTERS), AfterValidator(_printable)]
_Id = Annotated[str, Len(1, 500), AfterValidator(_printable)]


class _Needs(BaseModel):
    """What a run takes of a machine: cores, bytes, GPUs."""

    model_config = ConfigDict(extra="forbid")
    cores: Annotated[_Count, *_within("cores")] = Needs.cores
    memory: Annotated[_Count, *_within("memory")] = Needs.memory
    gpus: Annotated[_Count, *_within("gpus")] = Needs.gpus


class Asked(BaseModel):
    """A submission, as of `recsys submit`.

    `overrides` are Hydra's, without + and ~; with `multirun`, several values of a key are a sweep.
    """

    model_config = ConfigDict(extra="forbid")
    overrides: Annotated[list[str], Len(0, 1000)]
    multirun: bool = False
    name: _Word | None = None
    priority: Annotated[_Count, *_within("priority")] = 0
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


class _RunId(Convertor[str]):
    """The id of a run in an address, as short as possible, since what follows it may hold slashes too."""

    regex = r"[^/]+?(?:/[^/]+?)*?"

    def convert(self, value: str) -> str:
        """The id."""
        return value

    def to_string(self, value: str) -> str:
        """The id."""
        return value


register_url_convertor("run", _RunId())


def get(queue: Queue, id: str) -> QueuedRun:
    """A row.

    Raises:
        Refusal: 404 if there is none.
    """
    try:
        return queue.get(id)
    except ConfigError as error:
        raise Refusal(404, str(error)) from error
