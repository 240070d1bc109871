"""Laws of context in the lake: people see it, and no estimate and no training set is changed by it."""

from dataclasses import astuple

import numpy as np
import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.estimates import estimate_mean, estimate_total
from feature_store.file_repair import put_back
from feature_store.lake import Lake, TableCommit
from feature_store.point_in_time import training_rows
from schemas.row_schemas import CONTEXT, RULES, Reason, telemetry_rows_of_wire_1
from schemas.tables import LANDED_TELEMETRY, PROVENANCE, TableSpec, telemetry_table
from tests.feature_store.fleets import PERIOD_S, PROFILE, books
from tests.feature_store.lakes import T0
from tests.feature_store.training_lakes import SECOND, fleet_lake, put, rows, selection

N = 600
DEVICE = "a"


def sensed():
    """Windows of one device: which a rule, the sample and a trigger selected."""
    rng = np.random.default_rng(3)
    rule = rng.random(N) < 0.05
    sample = ~rule & (rng.random(N) < 0.3)
    before = np.convolve(rule, np.ones(4))[3:][:N] > 0
    return rule, sample, before & ~rule & ~sample


def statements(rule, sample, context, **of_context) -> pa.Table:
    """Books of every period by stratum; ``context`` is all False: as if no such stratum existed."""
    found = []
    for start in range(0, N, int(PERIOD_S)):
        at = slice(start, start + int(PERIOD_S))
        lines = {
            "rule": (rule[at].sum(), rule[at].sum()),
            "sample": ((~rule & ~context)[at].sum(), sample[at].sum()),
            "context": (context[at].sum(), context[at].sum()),
        }
        found += [(start, name, int(n), int(sent)) for name, (n, sent) in lines.items() if n]
    starts, strata, counts, acked = zip(*found, strict=True)
    pending = [of_context.get("pending", 0) * (s == "context") for s in strata]
    return books(
        device_id=[DEVICE] * len(found), boot_id=[1] * len(found), model_version=["machine-0"] * len(found),
        period_start=[T0 + s * SECOND for s in starts], stratum=strata, sensed=counts, acked=acked,
        filtered=[n - s for n, s in zip(counts, acked, strict=True)], pending=pending,
        gap=[bool(of_context.get("gap")) and s == "context" for s in strata], known_at=[T0] * len(found),
    )  # fmt: skip


def landed(which, reason: int, q: float | None) -> pa.Table:
    at = np.flatnonzero(which)
    values = {f: (np.sin(at) + 5).astype("float32") for f in PROFILE.feature_names}
    return rows(DEVICE, at, reasons=[reason] * len(at), inclusion_probability=[q] * len(at), **values)


@pytest.fixture(scope="module")
def lakes(tmp_path_factory):
    """The same windows twice: without context, and with it, of which some waits and some was given up."""
    rule, sample, context = sensed()
    made = []
    for name, of in (("without", np.zeros(N, dtype=bool)), ("with", context)):
        root = tmp_path_factory.mktemp(name)
        lake = fleet_lake(root, [DEVICE])
        put(lake, books=statements(rule, sample, of, pending=2, gap=True))
        put(lake, telemetry=landed(rule, int(Reason.THRESHOLD), 1.0))
        put(lake, telemetry=landed(sample, int(Reason.SAMPLE), 0.3))
        if of.any():
            put(lake, telemetry=landed(of, CONTEXT, None))
        made.append(root)
    assert context.sum() > 50
    return made, int(context.sum())


@pytest.mark.parametrize("where", ["true", f"period_start < '{T0 + 100 * SECOND}'", "stratum = 'sample'"])
def test_no_estimate_is_changed_by_context(lakes, where):
    (without, given), _ = lakes
    found = []
    for root in (without, given):
        with connect(root, comments=False) as con:
            asked = (con, "telemetry_machine", "vibration_rms", where)
            found.append((estimate_total(*asked), estimate_mean(*asked)))
    for plain, mixed in zip(*found, strict=True):
        assert astuple(mixed) == pytest.approx(astuple(plain), rel=1e-12)
        assert plain.n_rows > 0
        assert not plain.flagged


def test_no_training_set_is_changed_by_context_and_it_is_counted_as_left_out(lakes):
    (without, given), n = lakes
    with connect(without, comments=False) as one, connect(given, comments=False) as other:
        plain, mixed = training_rows(one, selection()), training_rows(other, selection())
    assert plain.rows.num_rows > 100
    assert mixed.rows.equals(plain.rows)
    assert mixed.effective_rows == plain.effective_rows
    assert mixed.excluded == {**plain.excluded, "context": n}
    assert mixed.facts == {**plain.facts, "considered": plain.facts["considered"] + n}


def test_people_see_context_and_weighted_macros_pass_over_it(lakes):
    (without, given), n = lakes
    with connect(given, comments=False) as con, connect(without, comments=False) as plain:
        shown = con.execute(
            "SELECT count(*), any_value(reason_names(reasons)), bool_and(has_reason(reasons, 'context'))"
            " FROM telemetry WHERE inclusion_probability IS NULL"
        ).fetchall()
        assert shown == [(n, "context", True)]
        [(acked, there, context)] = con.execute("SELECT acked, landed, context FROM data_quality").fetchall()
        assert (acked, context) == (there, n)
        asked = (
            "SELECT weighted_count(inclusion_probability), weighted_avg(score, inclusion_probability),"
            " weighted_share(score > 0, inclusion_probability) FROM telemetry"
        )
        assert con.execute(asked).fetchone() == pytest.approx(plain.execute(asked).fetchone())


def wire_1_table() -> pa.Schema:
    return pa.schema([*telemetry_rows_of_wire_1(PROFILE), *LANDED_TELEMETRY, *PROVENANCE])


def test_a_table_of_wire_1_takes_context_once_this_release_has_opened_it(lake_root):
    """Release 0.2.0 made the column NOT NULL; other engines go by what the Delta log says."""
    lake, spec = Lake.open(lake_root), telemetry_table(PROFILE)
    lake.ensure_table(TableSpec(spec.name, spec.doc, wire_1_table()))
    row = landed(np.arange(N) == 1, CONTEXT, None)
    with pytest.raises(ValueError, match="inclusion_probability"):
        lake.stage(spec.name, row, "t", 0)
    other = Lake.open(lake_root)
    other.snapshot(spec.name)
    lake.ensure_table(spec)
    version = lake.log(spec.name).version()
    lake.ensure_table(spec)
    other.log(spec.name).make_nullable("inclusion_probability")  # whoever comes second, too
    assert lake.log(spec.name).version() == version, "once is enough"
    assert [each.stage(spec.name, row, "t", 0)[0].rows for each in (lake, other)] == [1, 1]


def test_a_file_from_before_the_column_could_be_null_is_put_back_byte_for_byte(lake_root):
    lake, spec = Lake.open(lake_root), telemetry_table(PROFILE)
    lake.ensure_table(TableSpec(spec.name, spec.doc, wire_1_table()))
    sampled = landed(np.arange(N) % 50 == 0, int(Reason.SAMPLE), 0.3)
    [file] = lake.stage(spec.name, sampled, "t", 0)
    lake.apply(spec.name, [TableCommit("t", 0, (file,))])
    lake.ensure_table(spec)
    path = lake_root / spec.name / file.path
    before = path.read_bytes()
    path.write_bytes(b"")
    assert put_back(lake, spec.name, file.path, sampled)
    assert path.read_bytes() == before
    mixed = landed(np.arange(N) % 50 == 1, CONTEXT, None)
    assert not put_back(lake, spec.name, file.path, mixed), "other rows are other bytes"


def test_bits_of_rules_and_context_are_apart():
    assert not CONTEXT & (RULES | Reason.SAMPLE | Reason.REPEATED)
    assert CONTEXT < 1 << 16, "channels begin there"
