"""Times outside 1900 to 2200 are refused alike in preparation and in a request, in one line."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.preparation.columns import instants
from recsys.data.preparation.prepare import prepare
from recsys.errors import DataError
from recsys.features.values import instant
from tests.conftest import CONFIG

SECONDS = 1_485_950_400  # 2017-02-01 12:00:00
FAR: list[tuple[Any, str]] = [
    (SECONDS * 1000, "milliseconds: send seconds"),
    (SECONDS * 10**6, "microseconds: send seconds"),
    (SECONDS * 10**9, "nanoseconds: send seconds"),
    (float(SECONDS) * 1000, "milliseconds"),
    (-2_208_988_801, "1900 to 2200.*-2208988801: send the year"),
    (7_258_118_400, "1900 to 2200.*7258118400: send the year"),
    (1e300, "1900 to 2200"),
    (-1e300, "1900 to 2200"),
    (2**63 - 1, "1900 to 2200"),
    ("1899-12-31 23:59:59", "1900 to 2200"),
    ("2200-01-01", "1900 to 2200"),
    ("0001-01-01T00:00:00+23:59", "a time like"),
    (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))), "a time like"),
    (float("inf"), "a time like"),
]


@pytest.mark.parametrize(("value", "says"), FAR)
def test_a_request_names_column_and_mend(value: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        instant(value, "at")
    assert str(caught.value).startswith("column 'at': ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(("value", "says"), [f for f in FAR if not isinstance(f[0], datetime)])
def test_preparation_names_row_and_column_too(value: Any, says: str) -> None:
    good = "2017-02-01" if isinstance(value, str) else type(value)(SECONDS)
    with pytest.raises(DataError, match=r"row 102: column 'at'") as caught:
        instants(pa.array([good, None, value, good]), "at", 100)
    assert "\n" not in str(caught.value)


def test_preparation_counts_rows_over_batches(table: pa.Table, tmp_path: Any) -> None:
    at = table["at"].to_numpy().copy()
    at[2990] *= 1000
    bad = table.set_column(table.schema.get_field_index("at"), "at", pa.array(at))
    with pytest.raises(DataError, match=r"row 2990: column 'at'.*milliseconds"):
        prepare(CONFIG, lambda: bad, tmp_path)


@given(st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31, 23, 59, 59)))
def test_all_times_from_1900_to_2200_are_taken_alike(when: datetime) -> None:
    whole = when.replace(microsecond=0)
    want = (whole - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    seconds = want // 10**6
    for value in (whole, whole.isoformat(), seconds, float(seconds), whole.replace(tzinfo=UTC)):
        assert instant(value, "at") == want
    for column in (pa.array([seconds]), pa.array([float(seconds)]), pa.array([whole], pa.timestamp("us"))):
        us_B, there_B = instants(column, "at")
        assert there_B.all()
        np.testing.assert_array_equal(us_B, [want])
