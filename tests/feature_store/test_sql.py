"""Queries: one cut, typed even when empty, and nothing an analyst can break."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import feature_store
from feature_store import connect, duck
from feature_store.catalog import CATALOG, refresh_catalog, write_catalog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.sql import LakeSettings, query, run, touched_tables, views
from schemas.errors import QueryError
from schemas.tables import FIXED_TABLES, TELEMETRY_COMMON
from schemas.view_specs import DERIVED_VIEWS, sql_type
from tests.feature_store.fleets import machine_lake
from tests.feature_store.lakes import LEFT, SPAWN, commit, two_tables
from tests.waiting import wait_until

LONG = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}


def described(con, view):
    return {name: kind for name, kind, *_ in con.execute(f"DESCRIBE {view}").fetchall()}


def test_the_room_exports_what_it_says():
    assert feature_store.__all__ == ["connect"]
    assert callable(feature_store.connect)


def test_every_view_is_typed_and_empty_before_the_first_row(lake_root):
    machine_lake(lake_root)
    with connect(lake_root) as con:
        assert {v.name for v in DERIVED_VIEWS} | {t.name for t in FIXED_TABLES} < set(views(con))
        for view in views(con):
            expected = 1 if view == "cut" else 0
            assert con.execute(f"SELECT count(*) FROM {view}").fetchone() == (expected,)
        for spec in FIXED_TABLES:
            assert list(described(con, spec.name)) == [*spec.schema.names, "day"]


def test_a_folder_without_any_table_still_answers(lake_root):
    lake_root.mkdir()
    assert run(lake_root, "SELECT count(*) AS n FROM telemetry", fmt="csv") == "n\r\n0\r\n"


@pytest.mark.parametrize("view", DERIVED_VIEWS, ids=lambda v: v.name)
def test_derived_views_have_the_columns_they_document(lake_root, view):
    machine_lake(lake_root)
    with connect(lake_root) as con:
        expected = {c.name: LONG.get(c.kind, c.kind) for c in view.columns}
        assert described(con, view.name) == expected
        assert list(described(con, view.name)) == list(expected)


def test_the_union_view_has_the_shared_columns(lake_root):
    machine_lake(lake_root)
    expected = {f.name: LONG.get(sql_type(f.type), sql_type(f.type)) for f in TELEMETRY_COMMON}
    with connect(lake_root) as con:
        assert described(con, "telemetry") == {**expected, "day": "DATE"}


def test_a_table_younger_than_the_cut_is_empty_in_it(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 0, [1])
    machine_lake(lake_root)
    with connect(lake_root, cut=1) as con:
        assert con.execute("SELECT count(*) FROM telemetry_machine").fetchone() == (0,)
        assert con.execute(f"SELECT k, day::VARCHAR FROM {LEFT.name}").fetchall() == [(1, "2026-01-01")]


def test_a_connection_keeps_its_cut_while_others_write(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 0, [1])
    with connect(lake_root) as con:
        commit(lake, cuts, "a", 1, [2])
        assert con.execute(f"SELECT k FROM {LEFT.name}").fetchall() == [(1,)]
    assert query(lake_root, f"SELECT count(*) AS n FROM {LEFT.name}").to_pylist() == [{"n": 2}]


def test_times_are_utc_whatever_the_machine_thinks(lake_root, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    lake = two_tables(lake_root)
    commit(lake, CutStore(lake), "a", 0, [1])
    shown = run(lake_root, f"SELECT known_at, known_at::VARCHAR AS text FROM {LEFT.name}", fmt="json")
    assert json.loads(shown) == [{"known_at": "2026-01-01T12:00:00+00:00", "text": "2026-01-01 12:00:00+00"}]


FORBIDDEN = [
    "COPY (SELECT 1) TO '{tmp}/stolen.csv'",
    "COPY (SELECT 1) TO '{lake}/left_rows/day=2026-01-01/forged.parquet' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/forged.csv'",
    "ATTACH '{tmp}/other.duckdb'",
    "INSTALL httpfs",
    "SET lock_configuration = false",
    "SET enable_external_access = true",
    "SELECT * FROM read_text('{tmp}/secret.txt')",
    "SELECT * FROM read_text('{lake}/_cuts/000000000001.json')",
    "SELECT * FROM glob('{tmp}/*')",
    "EXPORT DATABASE '{tmp}/dump'",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
@pytest.mark.parametrize("through_run", [True, False], ids=["run", "connection"])
def test_an_analyst_reaches_nothing_but_the_cut(lake_root, tmp_path, sql, through_run):
    lake = two_tables(lake_root)
    commit(lake, CutStore(lake), "a", 0, [1])
    (tmp_path / "secret.txt").write_text("secret")
    before = sorted(tmp_path.rglob("*"))
    statement = sql.format(tmp=tmp_path, lake=lake_root)
    with connect(lake_root) as con, pytest.raises(Exception, match=r".") as caught:
        run(lake_root, statement) if through_run else con.execute(statement).fetchall()
    assert "secret" not in str(caught.value).replace("secret.txt", "")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unlocked_connection_can_export(lake_root, tmp_path):
    lake = two_tables(lake_root)
    commit(lake, CutStore(lake), "a", 0, [1])
    with connect(lake_root, locked=False) as con:
        con.execute(f"COPY (SELECT k FROM {LEFT.name}) TO '{tmp_path}/mine.csv'").fetchall()
    assert (tmp_path / "mine.csv").read_text().split() == ["k", "1"]


@pytest.mark.parametrize(
    "sql", ["DROP VIEW fleet", "CREATE TABLE t (i INT)", "INSERT INTO labels VALUES (1)"]
)
def test_run_takes_reading_statements_only(lake_root, sql):
    machine_lake(lake_root)
    with pytest.raises(QueryError, match="read only"):
        run(lake_root, sql)


@pytest.mark.parametrize("sql", ["", "SELECT 1; SELECT 2"])
def test_run_takes_one_statement(lake_root, sql):
    machine_lake(lake_root)
    with pytest.raises(QueryError, match="one statement at a time"):
        run(lake_root, sql)


@pytest.mark.parametrize(
    ("sql", "touched"),
    [
        ("SELECT * FROM left_rows", {"left_rows"}),
        ('WITH x AS (SELECT 1) SELECT * FROM x, "Left_Rows"', {"left_rows"}),
        ("SELECT count(*) FROM telemetry", {"telemetry", "telemetry_machine"}),
        ("SELECT 1", set()),
    ],
)
def test_a_statement_touches_the_tables_behind_its_views(lake_root, sql, touched):
    two_tables(lake_root)
    machine_lake(lake_root)
    lake = Lake.open(lake_root)
    commit(lake, CutStore(lake), "a", 0, [1])
    with connect(lake_root) as con:
        assert touched_tables(con, sql) == touched
        assert {"books", "quarantine", "telemetry_machine"} < touched_tables(con, "FROM data_quality")
        assert "left_rows" in touched_tables(con, "SELECT * FROM query_table('left' || '_rows')")


def test_a_query_names_the_rows_that_it_lacks_and_other_queries_do_not(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(3):
        commit(lake, cuts, "a", n, [n])
    lost = next((lake_root / LEFT.name).glob("day=*/a.000000000001.*"))
    lost.unlink()
    warnings = []
    assert (
        run(lake_root, "SELECT k FROM left_rows ORDER BY k", fmt="csv", warn=warnings.append)
        == "k\r\n0\r\n2\r\n"
    )
    assert [w.startswith("left_rows: 1 rows are left out") and lost.name in w for w in warnings] == [True]
    assert len(run(lake_root, "SELECT k FROM right_rows", fmt="csv", warn=warnings.append).split()) == 4
    assert len(warnings) == 1
    refresh_catalog(lake)
    with plain_client(lake_root) as con:
        assert con.execute("SELECT k FROM left_rows ORDER BY k").fetchall() == [(0,), (2,)]
        assert con.execute("SELECT table_name, rows FROM damaged_files").fetchall() == [("left_rows", 1)]


def test_a_file_that_duckdb_cannot_read_is_found_and_left_out(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(3):
        commit(lake, cuts, "a", n, [n])
    for n in (0, 2):  # the first file is read when views are made, the others when they are queried
        path = next((lake_root / LEFT.name).glob(f"day=*/a.{n:012d}.*"))
        data = path.read_bytes()
        path.write_bytes(data[:4] + b"\xff" * (len(data) - 12) + data[-8:])
    warnings = []
    assert query(lake_root, "SELECT k FROM left_rows", None, warnings.append).to_pylist() == [{"k": 1}]
    assert "2 rows are left out, for 2 files" in warnings[0]


def test_an_error_says_what_duckdb_says_and_which_views_there_are(lake_root):
    machine_lake(lake_root)
    with pytest.raises(QueryError, match=r"(?s)telemetri does not exist.*views: .*telemetry_machine"):
        run(lake_root, "FROM telemetri")


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "DESCRIBE fleet",
        "SHOW TABLES",
        "SUMMARIZE cut",
        "FROM range(3)",
    ],
)
def test_reading_statements_of_every_kind_are_answered(lake_root, sql):
    machine_lake(lake_root)
    assert run(lake_root, sql)


VALUES = """
SELECT 1 AS n, 2.5 AS x, 'nan'::DOUBLE AS nan, NULL AS nil, sum(3) AS s, 'a,"b' AS t, [1, 2] AS l,
    '\\xFF'::BLOB AS b
"""


def test_formats_carry_the_same_values(lake_root):
    machine_lake(lake_root)
    assert json.loads(run(lake_root, VALUES, fmt="json")) == [
        {"n": 1, "x": 2.5, "nan": None, "nil": None, "s": 3, "t": 'a,"b', "l": [1, 2], "b": "ff"}
    ]
    header, row = run(lake_root, VALUES, fmt="csv").split("\r\n")[:2]
    assert header == "n,x,nan,nil,s,t,l,b"
    assert row == '1,2.5,,,3,"a,""b","[1, 2]",ff'


def test_the_table_aligns_numbers_right_and_text_left(lake_root):
    machine_lake(lake_root)
    shown = run(lake_root, "SELECT * FROM (VALUES (5, 'a'), (1234, 'bcd')) t(n, word)")
    assert shown.split("\n") == ["   n  word", "----  ----", "   5  a", "1234  bcd"]


def test_a_missing_lake_is_named(tmp_path):
    with pytest.raises(QueryError, match="no lake at"):
        connect(tmp_path / "nowhere")


def test_a_notebook_finds_the_lake_by_the_stacks_variables(lake_root, monkeypatch):
    machine_lake(lake_root)
    monkeypatch.setenv("EDGELOOP_STATE_DIR", str(lake_root.parent))
    with connect() as con:
        assert con.execute("SELECT id FROM cut").fetchone() == (0,)
    monkeypatch.delenv("EDGELOOP_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/somewhere")
    assert LakeSettings().lake_root == Path("/var/somewhere/edgeloop/lake")


PLAIN_CLIENT = """
import duckdb, sys
counts = []
while len(set(counts)) < 4:
    with duckdb.connect(sys.argv[1], read_only=True) as con:
        counts.append(con.execute("SELECT count(*) FROM left_rows").fetchone()[0])
assert counts == sorted(counts), counts
"""


def write_and_refresh(root, stop):
    lake = Lake.open(root)
    cuts = CutStore(lake)
    n = 1
    while not stop.is_set():
        commit(lake, cuts, "a", n, [n])
        refresh_catalog(lake)
        n += 1


def plain_client(lake_root, path=None):
    con = duckdb.connect(str(path or lake_root / CATALOG), read_only=True)
    con.execute(f"SET file_search_path = '{lake_root}'")
    return con


def two_rows(lake_root):
    lake = two_tables(lake_root)
    for n in range(2):
        commit(lake, CutStore(lake), "a", n, [n])
    return lake


def test_a_catalog_moves_with_its_lake_and_says_how_it_is_opened(lake_root, tmp_path):
    refresh_catalog(two_rows(lake_root))
    elsewhere = tmp_path / "mounted"
    lake_root.rename(elsewhere)
    with plain_client(elsewhere) as con:
        assert con.execute("SELECT count(*) FROM left_rows").fetchone() == (2,)
    with duckdb.connect(str(elsewhere / CATALOG), read_only=True) as con:
        with pytest.raises(duckdb.IOException, match="No files found"):
            con.execute("SELECT count(*) FROM left_rows")
        said = con.execute("SELECT string_agg(says) FROM how_to_open").fetchone()[0]
        assert "SET file_search_path" in said


def test_a_catalog_for_a_mount_works_from_anywhere(lake_root, tmp_path):
    path = write_catalog(two_rows(lake_root), tmp_path / "views.duckdb")
    with duckdb.connect(str(path), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM left_rows").fetchone() == (2,)


def test_duckdb_from_1_0_on_can_open_the_catalog(lake_root):
    machine_lake(lake_root)
    head = refresh_catalog(Lake(lake_root)).read_bytes()[:20]
    assert (head[8:12], int.from_bytes(head[12:20], "little")) == (b"DUCK", 64)  # storage of 0.9 to 1.1


def test_every_column_says_in_sql_what_it_means(lake_root):
    machine_lake(lake_root)
    with connect(lake_root) as con:
        silent = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
        views = {"cut", "job_progress", "how_to_open"}
        assert [row for row in con.execute(silent).fetchall() if row[0] not in views] == []
        unit = "SELECT comment FROM duckdb_columns() WHERE column_name = 'vibration_rms'"
        assert "[" in con.execute(unit).fetchone()[0]
    assert "[" in run(lake_root, unit, fmt="csv")


def test_macros_weight_by_the_probability_of_sending_and_put_reasons_into_words(lake_root):
    machine_lake(lake_root)
    rows = "(VALUES (1.0, 0.5), (4.0, 1.0), (NULL, 0.25)) AS rows(value, q)"
    asked = "weighted_avg(value, q), weighted_count(q), weighted_share(value > 2, q)"
    with connect(lake_root) as con:
        assert con.execute(f"SELECT {asked} FROM {rows}").fetchone() == (2.0, 7.0, pytest.approx(1 / 3))
        asked = "reason_names(9), has_reason(9, 'deadband'), has_reason(9, 'burst')"
        assert con.execute(f"SELECT {asked}").fetchone() == ("sample, deadband", True, False)
        with pytest.raises(duckdb.Error, match="no such reason: whim"):
            con.execute("SELECT has_reason(9, 'whim')")


def test_a_plain_duckdb_process_reads_the_catalog_while_it_is_refreshed(lake_root):
    lake = two_tables(lake_root)
    commit(lake, CutStore(lake), "a", 0, [0])
    refresh_catalog(lake)
    stop = SPAWN.Event()
    writer = SPAWN.Process(target=write_and_refresh, args=(lake_root, stop))
    writer.start()
    client = subprocess.Popen([sys.executable, "-c", PLAIN_CLIENT, CATALOG], cwd=lake_root)
    wait_until(lambda: client.poll() is not None, 60, "the client to have read four cuts")
    stop.set()
    writer.join()
    assert (client.returncode, writer.exitcode) == (0, 0)
    assert [p.name for p in lake_root.iterdir() if p.is_file()] == [CATALOG]


def test_a_refresh_leaves_the_catalog_that_a_client_has_open_as_it_was(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 0, [0])
    path = refresh_catalog(lake)
    before = path.read_bytes()
    with path.open("rb") as opened:
        commit(lake, cuts, "a", 1, [1])
        refresh_catalog(lake)
        assert opened.read() == before
    assert path.read_bytes() != before


LARGE = "SELECT count(*) FROM (SELECT DISTINCT i, repeat('x', 50) AS x FROM range(1500000) t(i))"


def small_memory():
    """A locked connection with too little memory for ``LARGE``."""
    return duck.build(["SET memory_limit = '60MB'", "SET threads = 1"])


def test_a_query_larger_than_memory_spills_into_a_folder_of_its_owner_alone():
    folders = set()
    for _ in range(2):
        con = small_memory()
        duck.lock(con, [])
        [(folder,)] = con.execute("SELECT current_setting('temp_directory')").fetchall()
        assert stat.S_IMODE(Path(folder).parent.stat().st_mode) == 0o700
        assert con.execute(LARGE).fetchone() == (1500000,)
        folders.add(folder)
    assert len(folders) == 2  # two databases never share their spill files
    con = small_memory()
    con.execute("SET temp_directory = ''")
    with pytest.raises(duckdb.OutOfMemoryException):
        con.execute(LARGE)
