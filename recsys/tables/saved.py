"""A table in a file: which form it has, and its state."""

import importlib
import inspect
from typing import TypedDict, cast

from torch import Tensor

from recsys.config.factory import allowed
from recsys.config.options import packaged_targets
from recsys.errors import ConfigError
from recsys.tables.contract import TableForm

__all__ = ["SavedTable", "restored", "saved"]


class SavedTable(TypedDict):
    """A table in a file: the importable name of its form's class, and the state of the table."""

    form: str
    state: dict[str, Tensor | int]


def _form(name: str) -> type[TableForm]:
    """The class of a form by its importable name.

    A file may come from elsewhere, so it may name only what `recsys` itself or a trusted package defines:
    a class in recsys.tables.forms or in the module of a packaged option, or one of a trusted package.

    Raises:
        ConfigError: If it names anything else.
    """
    module, _, class_name = name.rpartition(".")
    homes = {t.rpartition(".")[0] for t in packaged_targets()} | {"recsys.tables.forms"}
    if module not in homes and not allowed(name):
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
    if not inspect.isclass(form) or f"{form.__module__}.{form.__qualname__}" != name or lacking:
        raise ConfigError(f"a table's form: expected a class that keeps TableForm, got {name!r}: compress again")
    return cast(type[TableForm], form)


def saved(table: TableForm) -> SavedTable:
    """What a file holds of a table.

    Raises:
        ConfigError: If `restored` would refuse the name of its class.
    """
    name = f"{type(table).__module__}.{type(table).__qualname__}"
    _form(name)
    return {"form": name, "state": dict(table.state())}


def restored(table: SavedTable) -> TableForm:
    """The table that `saved` took apart.

    Raises:
        ConfigError: If its form is not a class that a file may name.
    """
    return _form(table["form"]).from_state(table["state"])
