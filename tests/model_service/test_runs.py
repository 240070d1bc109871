"""Laws of training runs and candidates: documents of 0.2.0 stay readable, and states follow one another."""

from __future__ import annotations

import ast
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text, update

from feature_store.point_in_time import Regime, RowSelection
from model_service.registry import candidates, registry_tables
from model_service.registry.candidates import CandidateState, candidate_of
from model_service.registry.database import Registry
from model_service.training import run_store
from model_service.training import training_run as machine
from model_service.training.lineage import selection_of, stored_selection
from model_service.training.run_states import OPEN, RunState
from model_service.training.training_run import (
    TRAINER,
    DriftFinding,
    RunReason,
    StoredSelection,
    TrainingPlan,
    TrainingRun,
)
from schemas.errors import RegistryError
from tests.model_service.regimes import CHAMPION, MACHINE

ROOT = Path(__file__).parents[2]
WRITTEN = [
    json.loads(line)
    for line in Path(__file__).with_name("run_documents_0_2_0.jsonl").read_text().splitlines()
]
"""What 0.2.0 wrote into column ``cause``, character by character, and the state of the run."""
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
FINDING = DriftFinding(
    kind="regime", retrain=True, text="all moved", evidence={"devices": 12.0}, moved=("a",)
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    opened = Registry.open(f"sqlite:///{folder / 'registry.db'}", folder)
    yield opened
    opened.close()


@pytest.fixture
def connection(registry):
    """A transaction that is rolled back."""
    with registry.engine.connect() as connection:
        yield connection
        connection.rollback()


def a_run(state=RunState.EXAMINING, run_id="r", **fields) -> TrainingRun:
    return TrainingRun(run_id, "machine", "machine", state, RunReason.DRIFT, TRAINER, NOW, NOW, **fields)


def a_candidate(state=CandidateState.TRAINED, version=CHAMPION.manifest.version):
    made = candidate_of(
        CHAMPION.manifest, run_id="r", champion="machine-0.00000000", sha256="0" * 64, length=3, now=1.5
    )
    return replace(made, state=state, version=version)


def store_raw(connection, run: TrainingRun, cause: str | None) -> None:
    """The run as an older release wrote it: ``cause`` is the column's text."""
    run_store.insert(connection, run)
    connection.execute(
        text("UPDATE runs SET cause = :cause WHERE run_id = :r"), {"cause": cause, "r": run.run_id}
    )


def cause_text(connection, run_id: str) -> str | None:
    return connection.execute(text("SELECT cause FROM runs WHERE run_id = :r"), {"r": run_id}).scalar_one()


# documents


@pytest.mark.parametrize("written", WRITTEN, ids=lambda w: f"{w['state']}-{len(w['cause'])}")
def test_every_document_of_0_2_0_loads_and_is_written_again_byte_for_byte(connection, written):
    store_raw(connection, a_run(RunState(written["state"])), written["cause"])
    read = run_store.get(connection, "r")
    document = json.loads(written["cause"]) or {}
    assert json.dumps(read.cause_json()) == written["cause"]
    assert read.is_retry == ("need" in document)
    assert (read.finding is not None, read.plan is not None) == ("kind" in document, "wanted" in document)
    if read.finding is not None:
        assert (read.finding.kind, list(read.finding.moved)) == (document["kind"], document["moved"])
    if read.plan is not None:
        wanted = selection_of(MACHINE, read.plan.selection)
        assert stored_selection(wanted).model_dump(mode="json") == document["wanted"]
        assert (read.plan.champion, read.plan.model_kind) == ("machine-0.2ccd0bc5", "anomaly")
        assert list(read.plan.moved) == document["moved"]


def test_a_run_that_0_2_0_left_without_any_document_loads(connection):
    store_raw(connection, a_run(), None)
    read = run_store.get(connection, "r")
    assert (read.need, read.finding, read.plan, read.cause_json()) == (None, None, None, None)


def test_missing_keys_have_defaults_and_unknown_ones_are_passed_over(connection):
    asked = json.loads(WRITTEN[-2]["cause"])["wanted"]
    store_raw(connection, a_run(), json.dumps({"kind": "regime", "wanted": asked, "novel": 1}))
    read = run_store.get(connection, "r")
    assert (read.finding, read.plan.moved, read.plan.champion) == (DriftFinding(kind="regime"), (), "")


def test_a_step_that_leaves_the_document_alone_does_not_rewrite_it(connection):
    written = json.dumps({"kind": "regime", "novel": 1})
    store_raw(connection, a_run(), written)
    read = run_store.get(connection, "r")
    assert run_store.save(connection, read, read.to(RunState.WAITING, detail="ask"), LATER)
    assert cause_text(connection, "r") == written
    assert (run_store.get(connection, "r").state, run_store.get(connection, "r").detail) == (
        RunState.WAITING,
        "ask",
    )


def test_a_document_that_no_release_wrote_is_refused_with_the_runs_name(connection):
    store_raw(connection, a_run(), json.dumps({"wanted": {"event_from": "yesterday"}}))
    with pytest.raises(RegistryError, match="run r cannot be read"):
        run_store.get(connection, "r")


UNREADABLE = [
    {"kind": None},
    {"kind": "x", "moved": None},
    {"kind": "x", "evidence": {"a": None}},
    {"wanted": {}},
]


@pytest.mark.parametrize("number", range(len(UNREADABLE)))
def test_a_run_that_cannot_be_read_is_left_out_of_lists_and_named_in_the_log_once(connection, caplog, number):
    odd = f"odd-{number}"
    store_raw(connection, replace(a_run(), run_id=odd), json.dumps(UNREADABLE[number]))
    run_store.insert(connection, replace(a_run(), run_id="whole"))
    for _ in range(2):
        assert [run.run_id for run in run_store.every_run(connection)] == ["whole"]
        assert list(run_store.by_id(connection, {odd, "whole"})) == ["whole"]
    assert len([r for r in caplog.records if f"run {odd} cannot be read" in r.getMessage()]) == 1


def test_a_state_that_no_release_wrote_is_refused_with_the_runs_name(connection):
    run_store.insert(connection, a_run())
    connection.execute(update(registry_tables.runs).values(state="paused"))
    assert run_store.every_run(connection) == []
    with pytest.raises(RegistryError, match="run r cannot be read: 'paused'"):
        run_store.get(connection, "r")


instants = st.datetimes(timezones=st.just(UTC))
numbers = st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3)
names = st.lists(st.text(max_size=5), max_size=3).map(tuple)
regimes = st.none() | st.builds(Regime, instants, numbers, numbers, st.floats(0, 9))
selections = st.builds(
    RowSelection, st.just(MACHINE), instants, instants, instants, st.booleans(), names, names, regimes
)


@given(selections)
def test_a_selection_comes_back_from_its_text_as_it_was(wanted):
    raw = json.loads(json.dumps(stored_selection(wanted).model_dump(mode="json")))
    assert selection_of(MACHINE, StoredSelection.model_validate(raw)) == wanted


@given(
    st.none() | st.floats(1, 1e6),
    st.none() | st.builds(DriftFinding, evidence=numbers, moved=names, faulty=names),
    st.none() | st.builds(TrainingPlan, wanted=selections.map(stored_selection), verdicts=names),
)
def test_a_run_comes_back_from_its_row_as_it_was(need, finding, plan):
    if finding is not None and plan is not None:
        finding = finding.model_copy(update={"moved": plan.moved})  # one key of the document, the plan's
    run = a_run(
        need=need, finding=finding, plan=plan, onset=NOW, cut=3, pin="p", version="v", verdicts=("x",)
    )
    assert TrainingRun.of(json.loads(json.dumps(run.row()))) == run


# states


@pytest.mark.parametrize(
    ("before", "after"), [p for p in product(RunState, RunState) if p[1] not in machine.FOLLOWS[p[0]]]
)
def test_a_state_that_does_not_follow_is_refused(before, after):
    with pytest.raises(ValueError, match=f"{after} does not follow {before}"):
        a_run(before).to(after)


def test_what_has_ended_stays_and_what_is_open_may_fail():
    ended = {s for s in RunState if not machine.FOLLOWS[s]}
    assert ended == {RunState.TRAINED, RunState.DISMISSED, RunState.FAILED, RunState.CANCELLED}
    assert all(RunState.FAILED in machine.FOLLOWS[s] for s in OPEN)
    assert set(machine.FOLLOWS) == set(RunState)


def test_whatever_has_not_ended_can_be_cancelled():
    assert {s for s in RunState if RunState.CANCELLED in machine.FOLLOWS[s]} == {
        s for s in RunState if machine.FOLLOWS[s]
    }


def test_every_state_of_a_run_can_be_reached():
    seen = {RunState.REQUESTED, RunState.EXAMINING, RunState.COLLECTING}
    for _ in RunState:
        seen |= {after for before in seen for after in machine.FOLLOWS[before]}
    assert seen == set(RunState)


def test_a_run_that_moved_on_since_it_was_read_is_not_changed(connection):
    run_store.insert(connection, a_run())
    before = run_store.get(connection, "r")
    assert run_store.save(connection, before, before.to(RunState.COLLECTING, finding=FINDING), LATER)
    assert not run_store.save(connection, before, before.to(RunState.WAITING, detail="late"), LATER)
    after = run_store.get(connection, "r")
    assert (after.state, after.finding, after.detail) == (RunState.COLLECTING, FINDING, "")
    assert (after.created_at, after.updated_at) == (NOW, LATER)


def test_more_verdicts_are_no_step_and_come_once(connection):
    run_store.insert(connection, a_run(verdicts=("a", "b")))
    before = run_store.get(connection, "r")
    assert run_store.save(connection, before, before.with_verdicts(("b", "c")), before.updated_at)
    after = run_store.get(connection, "r")
    assert (after.verdicts, after.state, after.updated_at) == (("a", "b", "c"), before.state, NOW)


# candidates


def test_a_candidate_is_what_its_bundle_says(connection):
    candidates.insert(connection, a_candidate(), CHAMPION.manifest)
    version = CHAMPION.manifest.version
    assert candidates.get(connection, version) == a_candidate()
    assert (a_candidate().family, a_candidate().major, a_candidate().kind) == ("machine", 0, "anomaly")
    assert candidates.manifest_of(connection, version) == CHAMPION.manifest.model_dump(mode="json")
    assert (candidates.get(connection, "other"), candidates.manifest_of(connection, "other")) == (None, {})


@pytest.mark.parametrize(("before", "after"), list(product(CandidateState, CandidateState)))
def test_a_candidate_has_one_way_from_state_to_state(connection, before, after):
    candidates.insert(connection, a_candidate(before), CHAMPION.manifest)
    if after in candidates.FOLLOWS[before]:
        assert candidates.advance(connection, a_candidate(before), after, 2.5, "why")
        expected = replace(a_candidate(after), updated_at=2.5, detail="why")
    else:
        with pytest.raises(ValueError, match=f"{after} does not follow {before}"):
            candidates.advance(connection, a_candidate(before), after, 2.5, "why")
        expected = a_candidate(before)
    assert candidates.get(connection, CHAMPION.manifest.version) == expected


def test_of_two_processes_that_advance_a_candidate_one_wins(registry):
    """Each with its own connection, as processes have: both read it signed, one publishes it."""
    versions = [f"machine-{n}.00000000" for n in range(1, 9)]
    together = Barrier(2)
    with registry.transaction() as connection:
        for version in versions:
            candidates.insert(connection, a_candidate(CandidateState.SIGNED, version), CHAMPION.manifest)

    def publish(number: int) -> list[bool]:
        own, won = Registry(registry.url), []
        for version in versions:
            with own.reading() as connection:
                read = candidates.get(connection, version)
            together.wait(60)
            with own.transaction() as connection:
                won.append(candidates.advance(connection, read, CandidateState.PUBLISHED, 2.0 + number))
        own.close()
        return won

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(publish, range(2))
    assert [a + b for a, b in zip(first, second, strict=True)] == [1] * len(versions)


# one place


def test_rows_of_runs_and_candidates_are_touched_by_their_stores_alone():
    stores = {"model_service/registry/candidates.py", "model_service/training/run_store.py"}
    owned = {"runs", "candidates"}
    for path in (p for room in ("model_service", "infra") for p in (ROOT / room).rglob("*.py")):
        name, nodes = path.relative_to(ROOT).as_posix(), list(ast.walk(ast.parse(path.read_text())))
        imported = {(n.module, a.name) for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
        assert not imported & {(registry_tables.__name__, table) for table in owned}, name
        # ``registry_tables.runs`` and ``registry_tables.candidates``, whichever way the module was imported
        used = {
            n.attr
            for n in nodes
            if isinstance(n, ast.Attribute)
            and isinstance(n.value, ast.Name)
            and n.value.id == registry_tables.__name__.rpartition(".")[2]
        }
        assert bool(used & owned) == (name in stores), name
