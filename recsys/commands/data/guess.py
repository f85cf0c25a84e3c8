"""`recsys data guess`: looks at a table and writes a data configuration that a person can read and edit."""

import re
from argparse import Namespace
from collections.abc import Sized
from pathlib import Path

from rich.table import Table
from rich.text import Text

from recsys.config.options import CONF
from recsys.data.inspection.decide import Given, Guessed, guess
from recsys.data.inspection.documented import entry, write_yaml
from recsys.errors import ConfigError, printable
from recsys.files import followed, write_text
from recsys.terminal import console

__all__ = ["main"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")  # what `data=NAME` can name
_CELL = 200  # most characters of a name in the table


def _counted(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _show(guessed: Guessed, out: Path) -> None:
    screen = console(width=120)
    fields, dropped = _counted(guessed.config["fields"], "field"), _counted(guessed.config["dropped"], "column")
    table = Table(title=f"{out}: {fields}, {dropped} dropped")
    for column in ("column", "values", "missing", "AUC alone", "read as"):
        table.add_column(column, justify="right" if column in ("values", "missing", "AUC alone") else "left")
    for name, p in guessed.profiles.items():
        if name in guessed.config["fields"]:
            read = entry(guessed.config["fields"][name])
        elif name in guessed.config["dropped"]:
            read = Text(printable(f"dropped: {guessed.config['dropped'][name]}", _CELL), "yellow")
        else:
            roles = [role for role in ("label", "time", "weight") if name == guessed.config[role]]
            read = next(iter(roles), "label" if name in (guessed.config["labels"] or ()) else "split")
        auc = f"{guessed.aucs[name]:.3f}" if name in guessed.aucs else ""
        table.add_row(printable(name, _CELL), f"{p.distinct:,}", f"{p.missing:.1%}", auc, read)
    screen.print(table)
    for name, caution in guessed.cautions.items():
        screen.print(Text("look at", "yellow"), f"{printable(name, _CELL)}: {caution}", soft_wrap=True)
    weight, several = guessed.config["weight"], guessed.config["labels"]
    for key in ("labels" if several else "label", "time", *(["weight"] if weight else []), "split"):
        screen.print(f"{key}: {entry(guessed.config[key])}  ({guessed.comments[key]})", soft_wrap=True)
    run = f"recsys run data={out.stem}{' head=several' if several else ''}"
    steps = (f"recsys data report {out}", f"recsys data baseline {out.stem}", run)
    screen.print("next: " + "\n      ".join(steps), soft_wrap=True)


def _write(text: str, out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already: give another --out or --name, or --force to replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(followed(out), text)


def _paths(given: Namespace) -> str | list[str] | dict[str, str | list[str]]:
    parts: dict[str, str | list[str]] = {p: v for p in ("train", "valid", "test") if (v := getattr(given, p))}
    if bool(parts) == bool(given.files):
        raise ConfigError("expected either FILE… or --train and --test: give one of them")
    if parts and not {"train", "test"} <= set(parts):
        raise ConfigError(f"expected --train and --test together, got --{' --'.join(parts)}: give both")
    if parts and given.split:
        raise ConfigError("--split: the files are the split already: leave it out")
    return parts or (given.files if len(given.files) > 1 else given.files[0])


def main(given: Namespace) -> int:
    """`recsys data guess`: write the configuration, print what was decided, and its path as the last line."""
    path = _paths(given)
    if given.rows < 100:
        raise ConfigError(f"--rows: expected at least 100, got {given.rows}")
    first = given.train or given.files[0]
    name = given.name or (given.out.stem if given.out else Path(first.rstrip("/")).name.split(".")[0].replace("*", ""))
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name: expected letters, digits, _ and -, got {name!r}: give --name")
    out = given.out or Path("data") / f"{name}.yaml"
    if (CONF / "data" / f"{out.stem}.yaml").exists():
        raise ConfigError(f"{out.stem} is the name of a packaged option: give another --name")
    if out.exists() and not given.force:
        raise ConfigError(f"{out} is there already: give another --out or --name, or --force to replace it")
    guessed = guess(Given(path, given.label, given.time, given.group, given.split, name, given.rows))
    _write(write_yaml(guessed.config, guessed.comments), out, given.force)
    _show(guessed, out)
    print(out, flush=True)
    return 0
