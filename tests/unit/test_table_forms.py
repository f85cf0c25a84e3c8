"""Forms of tables: what a saved one may name, single reads, and methods that take only some forms."""

import importlib
from dataclasses import dataclass, replace

import pytest
import torch

import recsys.tables
from recsys.compression.fewest_bits import fewest_bits
from recsys.compression.rounding import rounded, rounding
from recsys.config import factory
from recsys.errors import ConfigError, DataError
from recsys.tables.contract import FormState
from recsys.tables.forms import Table, id_map
from recsys.tables.saved import restored, saved


@dataclass(frozen=True)
class Constant:
    """A user's form: every row is the same."""

    row_D: torch.Tensor
    rows: int

    dim, nbytes, kind, small = 4, 16, None, ("row_D",)

    def read(self, row: torch.Tensor) -> torch.Tensor:
        return self.row_D.expand(*row.shape, -1)

    def dense(self) -> torch.Tensor:
        return self.read(torch.arange(self.rows))

    def describe(self) -> dict[str, int | str]:
        return {"form": "constant"}

    def state(self) -> FormState:
        return vars(self)

    @classmethod
    def from_state(cls, state):
        return cls(**state)

    @staticmethod
    def scorer(tables):
        raise NotImplementedError


@pytest.mark.parametrize("rank", [3, 8])
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_a_row_read_alone_is_that_of_the_dense_table(rank: int, bits: int, shared: bool) -> None:
    r = torch.Generator().manual_seed(0)
    kept_V = torch.rand(101, generator=r) < 0.4
    table = Table(torch.randn(1 + int(kept_V.sum()) if shared else 101, rank, generator=r))
    if shared:
        table = replace(table, words=id_map(kept_V), ids=101)
    if rank < 8:
        table = replace(table, basis=torch.randn(rank, 8, generator=r))
    table = rounded(table, bits, torch.ones(len(table.codes)))
    row = torch.randint(0, 101, (7, 5), generator=r)
    torch.testing.assert_close(table.read(row), table.dense()[row])
    again = restored(saved(table))
    assert isinstance(again, Table)
    assert torch.equal(again.dense(), table.dense())


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.dict", "recsys.tables.forms.nn.Linear", "recsys.tables.forms.nn", "recsys.files.whole",
     "recsys.tables.contract.TableForm", "recsys.compression.svd.svd", "recsys.compression.svd.Mapping", "Table"],
)  # fmt: skip
def test_a_saved_table_may_not_name_other_code(name: str) -> None:
    with pytest.raises(ConfigError, match="a table's form: expected"):
        restored({"form": name, "state": {}})


@pytest.mark.parametrize(
    ("form", "state"),
    [(5, {}), (None, {}), ("recsys.tables.forms.Table", 5), ("recsys.tables.forms.Table", {"absent": 1}),
     ("recsys.tables.forms.Table", {"weight": 5})],
)  # fmt: skip
def test_a_damaged_saved_table_is_one_line(form, state) -> None:
    with pytest.raises(DataError, match="a saved table: expected"):
        restored({"form": form, "state": state})


def test_a_form_in_a_file_of_its_own_among_the_tables_is_saved_and_read(tmp_path, monkeypatch) -> None:
    (tmp_path / "half.py").write_text("from recsys.tables.forms import Table\n\nclass Half(Table):\n    pass\n")
    monkeypatch.setattr(recsys.tables, "__path__", [*recsys.tables.__path__, str(tmp_path)])
    half = importlib.import_module("recsys.tables.half").Half(torch.randn(9, 4))
    assert type(restored(saved(half))) is type(half)


def test_a_form_of_the_users_own_is_saved_and_read_if_its_package_is_trusted(tmp_path, monkeypatch) -> None:
    (tmp_path / "shop_forms.py").write_text("from recsys.tables.forms import Table\n\nclass Mine(Table):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(factory, "_trusted", set())
    mine = importlib.import_module("shop_forms").Mine(torch.randn(9, 4))
    with pytest.raises(ConfigError, match=r"got 'shop_forms.Mine': add trusted=\[PACKAGE\]"):
        saved(mine)
    factory.trust(["shop_forms"])
    again = restored(saved(mine))
    assert type(again) is type(mine)
    assert torch.equal(again.dense(), mine.dense())
    with pytest.raises(ConfigError, match="expected a class that keeps TableForm"):
        restored({"form": "shop_forms.Table", "state": {}})


@pytest.mark.parametrize("method", [lambda *a: rounding(*a, 8), lambda *a: fewest_bits(*a, 0.2)])
def test_rounding_refuses_a_form_that_holds_no_numbers(method) -> None:
    tables = {"plain": Table(torch.randn(9, 4)), "mine": Constant(torch.zeros(4), 9)}
    with pytest.raises(ConfigError, match="got 'mine', which is a Constant: leave the group out, ~quantization"):
        method(tables, {n: torch.ones(9) for n in tables}, {})
