"""A table in a file: its form and its state."""

import importlib
import inspect
from typing import TypedDict, cast

from torch import Tensor

from recsys.config.factory import allowed
from recsys.config.options import packaged_targets
from recsys.errors import ConfigError, DataError
from recsys.tables.contract import TableForm

__all__ = ["SavedTable", "restored", "saved"]


class SavedTable(TypedDict):
    """A table in a file: the importable name of its form's class, and the state of the table."""

    form: str
    state: dict[str, Tensor | int]


def _form(name: str) -> type[TableForm]:
    """The class of a form by its importable name.

    A file may come from anybody, so that it may name only a class in a module of recsys.tables or of a
    packaged option, or one of a trusted package.

    Raises:
        ConfigError: If it names anything else.
    """
    module, _, class_name = name.rpartition(".")
    homes = {t.rpartition(".")[0] for t in packaged_targets()}
    if module not in homes and module.rpartition(".")[0] != "recsys.tables" and not allowed(name):
        raise ConfigError(
            f"a table's form: expected a class of recsys or of a trusted package, got {name!r}: "
            "add trusted=[PACKAGE] if it is your own code"
        )
    try:
        form = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"a table's form: expected an importable class, cannot import {name!r}: install what defines it"
        ) from error
    lacking = [n for n in ("read", "dense", "scorer", "state", "from_state") if not hasattr(form, n)]
    of_another = not inspect.isclass(form) or f"{form.__module__}.{form.__qualname__}" != name
    if of_another or lacking or form is TableForm:
        raise ConfigError(f"a table's form: expected a class that keeps TableForm, got {name!r}: compress again")
    return cast(type[TableForm], form)


def saved(table: TableForm) -> SavedTable:
    """The table in the form for a file.

    Raises:
        ConfigError: If `restored` would refuse the name of its class.
    """
    name = f"{type(table).__module__}.{type(table).__qualname__}"
    _form(name)
    return {"form": name, "state": dict(table.state())}


def restored(table: SavedTable) -> TableForm:
    """Undo `saved`.

    Raises:
        ConfigError: If its form is not a class that a file may name.
        DataError: If it is not an output of `saved`, or its state does not fit the form.
    """
    match table:
        case {"form": str(name), "state": dict(state)}:
            form = _form(name)
        case _:
            raise DataError("a saved table: expected the name of a form and its state: make the model again")
    try:
        whole = form.from_state(state)
        _ = whole.rows, whole.dim, whole.nbytes  # some forms take any state, and fail only here
    except Exception as error:  # a user's form may raise anything
        raise DataError(f"a saved table: expected a state of {name}, got another: make the model again") from error
    return whole
