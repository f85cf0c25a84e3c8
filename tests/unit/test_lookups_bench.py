import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[2] / "benchmarks" / "lookups.py"


def test_the_limit_of_lookups_is_one_line_whose_figures_agree(capsys) -> None:
    spec = spec_from_file_location("lookups", PLACE)
    lookups = module_from_spec(spec)
    spec.loader.exec_module(lookups)
    lookups.main(["--device", "cpu", "--rows", "1000", "--dim", "8", "--ids", "64", "--repeats", "3"])
    (line,) = capsys.readouterr().out.splitlines()
    seen = json.loads(line)
    assert (seen["rows"], seen["dim"], seen["ids"]) == (1000, 8, 64)
    assert seen["gather_bytes_per_second"] == pytest.approx(seen["gather_ids_per_second"] * (2 * 8 * 4 + 8))
    share = seen["fbgemm_bytes_per_second"] / seen["gather_bytes_per_second"]
    assert seen["fbgemm_share_of_gather"] == pytest.approx(share) and seen["copy_bytes_per_second"] > 0
