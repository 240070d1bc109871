"""Laws of a fit's labels and of `--from lake`: what landed trains again, and labels decide there, too."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.append import append
from feature_store.cut_store import CutStore
from infra.fitting.fault_labels import fault_labels, labelled_rows
from infra.fitting.fit_files import FitWishes
from infra.fitting.history_spans import HistorySpan
from infra.fitting.lake_rows import fit_lake
from model_service.detectors.lake_fit import made_up_windows
from model_service.models.features import compute
from model_service.registry.registry_tables import candidates, gate_verdicts
from schemas.instants import from_us
from schemas.tables import LABELS
from tests.model_service.test_detectors import PUMP, rows
from tests.model_service.test_first_model_line import OWN, WINDOWS, FirstModelRig

EARLY, LATE = range(100, 112), range(340, 352)
WISHES = FitWishes("pump", None, (), 1.0, "UTC")


def label_rows(rig: FirstModelRig, spans: list[HistorySpan], n: int) -> pa.Table:
    """The labels of a fit as the label job lands them."""
    given = [
        {**label.model_dump(exclude={"known_at"}), "labelled_at": label.known_at, "known_at": label.known_at}
        | {"_partition": 0, "_offset": n, "_row": at}
        for at, label in enumerate(fault_labels(("pump-0",), spans, rig.now))
    ]
    return pa.Table.from_pylist(given, schema=LABELS.schema)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    made = FirstModelRig(tmp_path_factory.mktemp("labelled"), faults=(EARLY, LATE))
    ends = made.fitted.judged.end_us
    spans = [HistorySpan(int(ends[s.start - 1]), int(ends[s.stop - 1]), "", "valve") for s in (EARLY, LATE)]
    assert labelled_rows(made.fitted.judged, spans).sum() == len(EARLY) + len(LATE)
    append(made.lake, CutStore(made.lake), "labels", lambda n: {LABELS.name: label_rows(made, spans, n)})
    yield made
    made.registry.close()


def test_labels_of_a_fit_choose_and_judge_in_the_loop(rig):
    assert rig.landed == WINDOWS
    run = rig.train()
    assert run["state"] == "trained", run["detail"]
    rig.gate.step()
    verdicts = {row["gate"]: row for row in rig.rows(gate_verdicts)}
    assert verdicts["generic_recall"]["detail"]["origin"] == "labels"
    assert verdicts["generic_recall"]["value"] > 0.9
    assert rig.rows(candidates)[-1]["state"] == "signed"
    with closing(connect(rig.lake.root, comments=False)) as connection:
        query = "SELECT part, count(*) FROM training_sets WHERE label = 'valve' GROUP BY part ORDER BY part"
        assert connection.execute(query).fetchall() == [("holdout", len(LATE)), ("train", len(EARLY))]


def test_a_model_is_fitted_to_rows_of_the_lake_at_a_pinned_cut_and_the_pin_is_let_go(rig, tmp_path):
    found = fit_lake(rig.lake.root, tmp_path, OWN, "", WISHES, lambda _: None)
    fitted = found.fitted
    assert fitted.choice.judged_by == "labels"
    assert len(fitted.judged.score) == pytest.approx(WINDOWS, abs=2)
    assert fitted.outcome.labelled_recall > 0.9
    assert fitted.bank.origin == "generic"
    assert found.profile.model.family == "pump"
    assert not [name for name in CutStore(rig.lake).pins() if name.startswith("fit-")]


def test_windows_made_up_from_rows_have_their_levels_and_spreads():
    given = rows(50)
    made = made_up_windows(PUMP, given, seed=1)
    again = compute(made, PUMP.feature_specs(), PUMP.channel_names)
    np.testing.assert_allclose(again, given, rtol=1e-6)


def test_a_label_of_one_device_holds_its_rows_alone():
    spans = [HistorySpan(0, 10, "a", "valve"), HistorySpan(5, 5, "", "leak")]
    made = fault_labels(("a", "b"), spans, from_us(20))
    assert [(m.device_id, m.label) for m in made] == [("a", "valve"), ("a", "leak"), ("b", "leak")]
    assert all(m.span_end - m.span_start >= timedelta(microseconds=1) for m in made)
