"""No row that a table can hold makes a view fail, or a sum wrong."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.duck import LARGEST_TOTAL
from feature_store.lake_registry import ProfileRegistry
from feature_store.sql import views
from schemas.row_schemas import FIRST_YEAR
from schemas.tables import FIXED_TABLES, RETIRED_BOOTS
from tests.feature_store.fleets import PROFILE, TELEMETRY, books, land, machine_lake, quarantined, telemetry
from tests.feature_store.lakes import T0

N = 12
INT = {8: 2**7 - 1, 32: 2**31 - 1, 64: 2**63 - 1}
FLOATS = [
    1.7e308,
    -1.7e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    5e-324,
    0.0,
    1.0,
    1e200,
    -1e200,
    0.5,
    1,
]
NAMES = {
    "device_id": ["a", "b"], "producer": ["a", "b"], "feature": ["score"], "lane": ["live"],
    "model_version": ["machine-1.0123abcd", "machine-2.0123abcd", "x", ""], "topic": ["telemetry.v1"],
    "subject": ["run", "machine-1.0123abcd"], "step": ["run_building"], "run_id": ["run"],
    "detail": ['{"cut": "no number"}', '{"cut": 1e300}', "no json at all: never written, so not here"][:2],
}  # fmt: skip
NOT_OF_TABLES = {
    "model_comparisons",
    "damaged_files",
    "job_progress",
    "missing_channels",
    "release_outcomes",
}
"""Views of windows that were counted, of damage, of users' jobs, of bits that the lowest number lacks, and of
one kind of event."""
INSTANTS = [datetime(FIRST_YEAR, 1, 1, tzinfo=UTC), T0, datetime(2199, 12, 31, 23, 59, tzinfo=UTC)]


def extreme(name: str, kind: pa.DataType, low: bool) -> list:
    """Values of one column; the keys of groups and joins are the same in all tables."""
    if pa.types.is_list(kind):
        return [extreme(name, kind.value_type, low)] * N
    if pa.types.is_integer(kind):
        limit = INT[kind.bit_width]
        chosen = [-limit - 1 if low else limit]
    elif pa.types.is_timestamp(kind):
        chosen = [T0] if name in ("known_at", "period_start") else INSTANTS
    elif pa.types.is_boolean(kind):
        chosen = [False, True, True]
    elif pa.types.is_floating(kind):
        chosen = FLOATS
    elif pa.types.is_binary(kind):
        chosen = [b"\x00" * 9]
    else:
        chosen = NAMES.get(name, ["", "x" * 256, "'\";--\x1b"])
    return [chosen[i % len(chosen)] for i in range(N)]


@pytest.fixture(scope="module", params=["lowest", "highest"])
def lake_root(request, tmp_path_factory):
    """A lake whose every table holds the most extreme values of its columns, several times."""
    root = tmp_path_factory.mktemp("lake")
    lake = machine_lake(root)
    ProfileRegistry(lake).register(PROFILE)
    for spec in [*FIXED_TABLES, TELEMETRY]:
        columns = {
            f.name: pa.array(extreme(f.name, f.type, request.param == "lowest"), f.type) for f in spec.schema
        }
        if spec.name == RETIRED_BOOTS.name:  # of no device whose rows are here: those would be left out
            columns["device_id"] = pa.array(["nobody"] * N)
        for _ in range(3):
            land(lake, **{spec.name: pa.table(columns, schema=spec.schema)})
    return root


def test_every_view_answers_whatever_its_tables_hold(lake_root):
    with connect(lake_root, comments=False) as con:
        for view in views(con):
            rows = con.execute(f'SELECT * FROM "{view}"').fetchall()
            assert rows or view in NOT_OF_TABLES, view


def test_sums_can_be_added_up_further(lake_root):
    with connect(lake_root, comments=False) as con:
        con.execute(
            "SELECT sum(sensed + acked + filtered + evicted + refused + pending + landed + quarantined), "
            "sum(windows) FROM data_quality, model_versions"
        ).fetchall()


def test_a_sum_beyond_all_bounds_is_shown_as_the_bound(tmp_path):
    lake = machine_lake(tmp_path)
    land(lake, books=books(device_id=["a"] * 3, stratum=["x", "y", "z"], sensed=[2**62] * 3, acked=[1, 2, 3]))
    with connect(tmp_path, comments=False) as con:
        assert con.execute("SELECT sensed, acked FROM data_quality").fetchall() == [(LARGEST_TOTAL, 6)]


def test_rows_that_nobody_signed_hide_no_lost_ones(tmp_path):
    lake = machine_lake(tmp_path)
    refused = {"topic": ["telemetry.v1"] * 3, "producer": ["a"] * 3, "n_rows": [65_536, 7, 65_536]}
    land(
        lake,
        books=books(device_id=["a"], sensed=[1000], acked=[1000]),
        telemetry=telemetry(device_id=["a"] * 5),
        quarantine=quarantined(**refused, verified=[False, True, None]),
    )
    with connect(tmp_path, comments=False) as con:
        assert con.execute("SELECT acked, landed, quarantined FROM data_quality").fetchall() == [(1000, 5, 7)]


def test_a_cut_from_before_a_column_was_added_still_answers(tmp_path):
    lake = machine_lake(tmp_path)
    land(lake, quarantine=quarantined(producer=["a"], topic=["telemetry.v1"], n_rows=[1]).drop(["verified"]))
    with connect(tmp_path, comments=False) as con:
        assert con.execute("SELECT quarantined, quarantined_messages FROM data_quality").fetchall() == [
            (0, 1)
        ]
