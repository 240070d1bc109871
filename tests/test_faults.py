"""A seeded slice of the fault campaign, and laws of its checker and its tally."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pytest

from tests.edge_producer.spool_rig import SpoolRig, bench_profile
from tests.faults import edge_faults, file_faults, line_faults, loop_faults, message_faults
from tests.faults.campaign import Result, Run, perform, plan
from tests.faults.checker import Finding
from tests.faults.evidence import KEY, VALUES, LakeEvidence, compare, read_devices, read_spool
from tests.faults.fault_kinds import KINDS
from tests.faults.tally import BEGIN, END, Line, merge_into, read_lines

MODULES = (edge_faults, file_faults, line_faults, loop_faults, message_faults)
SLICE = ("worker-killed",)
SEED = int(os.environ.get("SEED", "8"))


@pytest.mark.kafka
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_seeded_slice_of_the_campaign_violates_no_invariant(tmp_path):
    results = perform(plan(len(SLICE), SEED, SLICE), tmp_path, SEED, print)
    assert {r.run.kind.name for r in results} == set(SLICE)
    assert [note for r in results for note in r.finding.notes] == []


def test_there_are_kinds_of_every_layer_and_each_is_planned_before_any_comes_twice():
    assert len(KINDS) >= 45
    assert {k.layer for k in KINDS.values()} == {"edge", "line", "loop"}
    names = [run.kind.name for run in plan(2 * len(KINDS), seed=3)]
    assert sorted(names[: len(KINDS)]) == sorted(KINDS)
    assert names == [run.kind.name for run in plan(2 * len(KINDS), seed=3)]
    assert names != [run.kind.name for run in plan(2 * len(KINDS), seed=4)]


def rows(*numbers: int, score: float = 0.1) -> pa.Table:
    """Rows of one device as the log has them; row n lies at offset n."""
    values = {"event_time": 5, "score": score, "reasons": 1, "model_version": "machine-0"}
    identity = {"device_id": ["m-1"] * len(numbers), "boot_id": [7] * len(numbers), "seq": list(numbers)}
    columns = {c: [values[c]] * len(numbers) for c in VALUES}
    where = {"partition": [0] * len(numbers), "offset": list(numbers)}
    return pa.table({c: pa.array(v) for c, v in (identity | columns | where).items()})


def lake(
    *numbers: int, score: float = 0.1, refused: frozenset[tuple[int, int]] = frozenset()
) -> LakeEvidence:
    landed = rows(*numbers, score=score).drop_columns(["partition", "offset"])
    clock = pa.nulls(len(numbers), pa.int64())
    return LakeEvidence(landed.append_column("device_time", clock), (), set(refused))


@pytest.mark.parametrize(
    ("landed", "missing", "twice", "foreign", "differing"),
    [
        (lake(1, 2, 3), 0, 0, 0, 0),
        (lake(1, 3), 1, 0, 0, 0),
        (lake(1, 3, refused=frozenset({(0, 2)})), 0, 0, 0, 0),
        (lake(1, 2, 3, 3), 0, 1, 0, 0),
        (lake(1, 2, 3, 4), 0, 0, 1, 0),
        (lake(1, 2, 3, score=0.2), 0, 0, 0, 3),
        (lake(), 3, 0, 0, 0),
    ],
)
def test_the_checker_sees_rows_that_are_missing_doubled_foreign_or_changed(
    landed, missing, twice, foreign, differing
):
    found = compare(rows(1, 2, 3), landed)
    assert (found.missing, found.twice, found.foreign, found.differing) == (
        missing,
        twice,
        foreign,
        differing,
    )
    assert set(KEY) <= set(rows(1).column_names)


def test_a_finding_counts_by_kind_and_names_the_invariant():
    finding = Finding()
    assert finding.holds
    finding.violate(3, "twice", 2, "2 rows are queryable twice")
    assert (finding.twice, finding.holds, finding.notes) == (2, False, ["(3) 2 rows are queryable twice"])


def test_the_tally_of_two_campaigns_is_their_sum(tmp_path):
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    kind = KINDS["worker-killed"]
    for number, seconds in enumerate((4.0, 9.0)):
        result = Result(Run(number, kind, 1), 2, Finding(lost=number, recovered_s=seconds))
        merge_into(document, [result])
    text = document.read_text()
    assert read_lines(text) == {"worker-killed": Line(2, 4, 1, 0, 0, 0, 4.0, 9.0)}
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    document.write_text("no markers")
    with pytest.raises(ValueError, match="no place for the tally"):
        merge_into(document, [])


@pytest.mark.parametrize("pointer", [None, {"version": "machine-0.aa", "sha256": None}])
def test_a_device_that_never_left_the_factory_set_or_returned_to_it_is_on_it(tmp_path, pointer):
    folder = tmp_path / "updates" / "east-0"
    (folder / "slots").mkdir(parents=True)
    if pointer is not None:
        (folder / "current.json").write_text(json.dumps({"active": {"releases": {"machine": pointer}}}))
    [device] = read_devices(tmp_path)
    assert (device.version, device.whole) == ("", True)


def test_the_evidence_of_a_spool_names_those_whose_lines_it_took_over(tmp_path):
    rig = SpoolRig(tmp_path, bench_profile())
    with rig.spool.transaction():
        rig.spool.note_earlier("00112233445566aa")
    rig.close()
    assert read_spool(rig.path).earlier == {"00112233445566aa"}
