"""`recsys bench`: the last line is JSON that holds what the documents quote."""

import json

import pytest

from recsys.commands.cli import main


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:validation has")
def test_what_selection_costs(capfd):
    sizes = ["--rows", "4000", "--epoch-rows", "20000", "--fields", "20", "40", "80", "--dimensions", "256"]
    assert main(["bench", "select", *sizes, "--repeats", "1"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["bench"] == "select" and found["wide_gates"] == 256
    ratios = ("leap_over_epoch", *(f"times_faster_than_permutation_r{r}_f{f}" for r in (1, 3) for f in (40, 80)))
    assert all(found[r] > 0 for r in (*ratios, "leap_f40_over_f20", "wide_peak_bytes"))
    assert all(600 < rows < 1000 for rows in found["permutation_rows"].values()), "the rows there are, not more"


@pytest.mark.slow
def test_what_preparation_costs(capfd, tmp_path):
    assert main(["bench", "data", "--rows", "20000", "--repeats", "1", "--folder", str(tmp_path)]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    rates = ("csv_rows_per_second", "parquet_rows_per_second", "loader_rows_per_second", "times_faster_than_pandas")
    assert all(found[r] > 0 for r in rates)
    assert found["bench"] == "data" and list(tmp_path.iterdir()) == []  # nothing is left behind


def test_an_unknown_benchmark_is_named(capfd):
    assert main(["bench", "speed"]) == 2
    assert (
        "invalid choice: 'speed' (choose from 'data', 'serve', 'select', 'tables', 'train', 'history')"
        in capfd.readouterr().err
    )
