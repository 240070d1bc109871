"""Laws of `edgeloop model fit`: what a person gets from a file of measurements, and what never decides."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_producer.inference import load_predictor
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.fitting.fitted_profile import fitted_text
from infra.fitting.history_spans import HistorySpan, parse_excluded, read_fault_spans
from infra.settings import load_settings
from model_service.detectors.bank_store import known_bank, newest_bank, stored_bank
from model_service.models.fault_bank import GENERIC, BankFile
from schemas.errors import SourceError
from schemas.profile_file import builtin_profiles, load_profile
from tests.infra.cli import EdgeloopHere

START = datetime(2026, 3, 1, tzinfo=UTC)
ROWS, FAULT = 900, range(800, 830)


@pytest.fixture
def edgeloop(tmp_path: Path) -> EdgeloopHere:
    return EdgeloopHere(tmp_path / "state")


def write_history(path: Path, fault: range = FAULT) -> Path:
    """A pump at one row in ten seconds; pressure and flow go together, but for the fault."""
    rng = np.random.default_rng(5)
    load = rng.normal(0, 1, ROWS)
    pressure, flow = 5 + load + 0.1 * rng.normal(size=ROWS), 20 + 2 * load + 0.2 * rng.normal(size=ROWS)
    pressure[fault.start : fault.stop] += 12
    lines = [
        f"{(START + timedelta(seconds=10 * i)).isoformat()},{p:.4f},{f:.4f}"
        for i, (p, f) in enumerate(zip(pressure, flow, strict=True))
    ]
    path.write_text("\n".join(["time,pressure,flow", *lines]) + "\n")
    return path


def at(row: int) -> str:
    return (START + timedelta(seconds=10 * row)).isoformat()


def fitted(edgeloop: EdgeloopHere, folder: Path, *more: str) -> dict[str, object]:
    """Facts of a fit of the pump's history."""
    history, profile = write_history(folder / "pump.csv"), folder / "pump.toml"
    if not profile.exists():
        edgeloop("profile", "init", str(history), "-o", str(profile), "--force")
    done = edgeloop(
        "model", "fit", str(profile), "--from", str(history), "-o", str(folder / "out"), "--json", *more
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_history_becomes_a_model_that_a_device_runs(edgeloop, tmp_path):
    facts = fitted(edgeloop, tmp_path)
    profile = load_profile(Path(facts["profile"]))
    predictor = load_predictor(profile, tmp_path / "out" / "bundles")  # runs its golden vectors
    assert predictor.version == facts["version"]
    assert profile.model.family == "pump"
    assert profile.decision.rules[0].enter == facts["enter"]
    usual, apart = np.float32([[5, 20]]), np.float32([[8, 14]])
    assert predictor.score("p", usual)[1] < facts["leave"] < facts["enter"] <= predictor.score("p", apart)[1]


def test_the_test_part_decides_nothing(edgeloop, tmp_path):
    """The last part of the history may be anything: the same model comes out, and says so of it."""
    facts = fitted(edgeloop, tmp_path)
    path = tmp_path / "pump.csv"
    first = (tmp_path / "out/bundles/pump/model.onnx").read_bytes()
    lines = path.read_text().splitlines()
    lines[700:] = [f"{line.split(',')[0]},9.5,3.25" for line in lines[700:]]
    path.write_text("\n".join(lines) + "\n")
    done = edgeloop(
        "model", "fit", str(tmp_path / "pump.toml"), "--from", str(path), "-o", str(tmp_path / "other"),
        "--json", "--force",
    )  # fmt: skip
    again = json.loads(done.stdout)
    assert (tmp_path / "other/bundles/pump/model.onnx").read_bytes() == first
    assert (again["enter"], again["tried"]) == (facts["enter"], facts["tried"])
    assert again["test"] != facts["test"]


def test_a_labelled_fault_is_told_apart_from_a_false_alarm(edgeloop, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text(
        f"span_start,span_end,label\n{at(FAULT.start)},{at(FAULT.stop - 1)},valve\n{at(1)},{at(9)},ok\n"
    )
    without = fitted(edgeloop, tmp_path)
    known = fitted(edgeloop, tmp_path, "--labels", str(labels))
    assert without["test"]["false_alarms"] == known["test"]["false_alarms"] + 1
    assert known["test"]["labelled_recall"] > 0.9
    assert [a["labelled"] for a in known["alarms"] if a["time"] >= at(FAULT.start)][:1] == [True]


def test_an_excluded_span_neither_trains_nor_counts(edgeloop, tmp_path):
    facts = fitted(edgeloop, tmp_path, "--exclude", f"{at(FAULT.start)}..{at(FAULT.stop - 1)}")
    whole = fitted(edgeloop, tmp_path)
    assert whole["test"]["healthy_windows"] == 0.3 * ROWS
    assert facts["test"]["healthy_windows"] == 0.3 * (ROWS - len(FAULT))  # the parts are of what counts
    assert facts["test"]["false_alarms"] == whole["test"]["false_alarms"] - 1


def test_a_smaller_budget_gives_a_higher_threshold(edgeloop, tmp_path):
    many, few = (fitted(edgeloop, tmp_path, "--alarms-per-device-day", b) for b in ("24", "0.1"))
    assert few["enter"] > many["enter"]
    assert few["alarms_per_device_day"] == 0.1


def test_the_report_is_one_page_that_needs_nothing_else(edgeloop, tmp_path):
    facts = fitted(edgeloop, tmp_path)
    page = Path(facts["report"]).read_text()
    picture = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    assert len(picture.findall("circle")) == len(facts["alarms"])
    assert len(picture.findall("polyline")) == 1
    for wanted in ("What was tried", "mahalanobis", "pca", "On the test part", "Alarms in this history"):
        assert wanted in page
    assert "http" not in page
    bank = BankFile.model_validate_json(Path(facts["fault_bank"]).read_bytes())
    assert (bank.origin, bank.profile) == (GENERIC, "pump")


def test_the_same_history_gives_the_same_bytes(edgeloop, tmp_path):
    first = fitted(edgeloop, tmp_path)["version"]
    assert fitted(edgeloop, tmp_path)["version"] == first


def test_labels_that_meet_no_window_are_refused(edgeloop, tmp_path):
    history = write_history(tmp_path / "pump.csv")
    edgeloop("profile", "init", str(history), "-o", str(tmp_path / "pump.toml"), "--force")
    labels = tmp_path / "labels.csv"
    labels.write_text("span_start,span_end\n2020-01-01,2020-01-02\n")
    done = edgeloop(
        "model", "fit", str(tmp_path / "pump.toml"), "--from", str(history), "--labels", str(labels)
    )
    assert done.returncode == 1
    assert "none of its 1 spans lies in the history" in done.stderr


def test_spans_are_in_the_zone_of_the_recording_unless_they_say_another():
    berlin = ZoneInfo("Europe/Berlin")
    said, other = parse_excluded(["2026-03-01..2026-03-02T12:00", "2026-03-01T00:00Z..2026-03-02"], berlin)
    assert (said.end_us - said.start_us) / 3.6e9 == 36
    assert said.start_us + 3_600_000_000 == other.start_us


@pytest.mark.parametrize("text", ["2026-03-01", "2026-03-02..2026-03-01", "yesterday..today"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(ValueError, match=r"exclude|ISO"):
        parse_excluded([text], ZoneInfo("UTC"))


def test_a_labels_line_that_is_no_span_is_named(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("start,end\n2026-03-01,2026-03-02\nsoon,later\n")
    with pytest.raises(SourceError, match="line 3"):
        read_fault_spans(path, ZoneInfo("UTC"))


def test_a_span_takes_the_windows_that_it_touches_of_its_device_alone():
    span = HistorySpan(100, 200, "a")
    ends = np.array([90, 100, 150, 209, 210, 211])
    assert span.overlaps("a", ends, 10.0).tolist() == [False, True, True, True, True, False]
    assert not span.overlaps("b", ends, 10.0).any()


@pytest.mark.parametrize("name", sorted(builtin_profiles()))
def test_a_fitted_profile_differs_in_model_and_thresholds_alone(name):
    text = builtin_profiles()[name].read_text()
    _, after = fitted_text(text, "other", 0.7, 0.6, 2.0)
    before = load_profile(builtin_profiles()[name])
    assert after.model.family == "other"
    assert [(r.enter, r.leave) for r in after.decision.score_rules[:1]] == (
        [(0.7, 0.6)] if before.decision.score_rules else []
    )
    assert after.training.alarms_per_device_day == 2.0
    kept = {"model", "decision", "training"}
    assert after.model_dump(exclude=kept) == before.model_dump(exclude=kept)
    assert all(r.enter >= 0.7 for r in after.decision.score_rules)
    assert [r for r in after.decision.rules if r.output != "score"] == [
        r for r in before.decision.rules if r.output != "score"
    ]


def test_labelled_spans_become_the_banks_known_faults(edgeloop, tmp_path):
    fitted(edgeloop, tmp_path)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"span_start,span_end,label\n{at(FAULT.start)},{at(FAULT.stop - 1)},valve\n")
    profile, history = str(tmp_path / "pump.toml"), str(tmp_path / "pump.csv")
    made = edgeloop.json("fault-bank", "build", profile, "--from", history, "--labels", str(labels))
    assert made["windows"] == {"valve": len(FAULT)}
    root = tmp_path / "state" / "models"
    assert known_bank(root, "pump") == made["digest"]
    bank = stored_bank(root, made["digest"])
    pressure, flow = bank.effect("valve", 1.0)
    assert pressure == pytest.approx(12, abs=1)  # what the fault adds, and nothing on the other channel
    assert abs(flow) < 2
    assert newest_bank(root, "pump") == ""


def test_a_profile_that_only_the_stack_knows_is_fitted_by_its_name(edgeloop, tmp_path):
    history, path = write_history(tmp_path / "pump.csv"), tmp_path / "pump.toml"
    edgeloop("profile", "init", str(history), "-o", str(path), "--force")
    lake = Lake.open(load_settings({}, state_dir=tmp_path / "state").lake_root)
    lake.ensure_fixed_tables()
    ProfileRegistry(lake).register(load_profile(path))
    path.unlink()
    found = edgeloop.json("model", "fit", "pump", "--from", str(history), "-o", str(tmp_path / "out"))
    assert found["version"].startswith("pump-1.")
    assert found["profile"] is None


def test_an_imported_model_is_tried_on_a_history_and_a_device_runs_it(edgeloop, tmp_path):
    history, profile, file = tmp_path / "pump.csv", tmp_path / "pump.toml", tmp_path / "given.onnx"
    write_history(history)
    edgeloop("profile", "init", str(history), "-o", str(profile), "--force")
    features = load_profile(profile).feature_names
    file.write_bytes(size_of_features(features))
    done = edgeloop(
        "model", "import", str(file), "--profile", str(profile), "--from", str(history),
        "-o", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["reads"], facts["waits_for_a_person"]) == ("features", True)
    after = load_profile(Path(facts["profile_file"]))
    assert (after.model.family, after.decision.rules[0].enter) == ("pump", facts["enter"])
    predictor = load_predictor(after, tmp_path / "out" / "bundles")
    assert predictor.version == facts["version"]
    assert predictor.score("p", np.float32([[5, 20]]))[1] < facts["enter"]
    refused = edgeloop("model", "import", str(profile), "--profile", str(profile))
    assert "not an ONNX model" in refused.stderr


def test_the_lake_has_to_be_there_before_a_model_is_fitted_to_it(edgeloop, tmp_path):
    history, profile = write_history(tmp_path / "pump.csv"), tmp_path / "pump.toml"
    edgeloop("profile", "init", str(history), "-o", str(profile), "--force")
    done = edgeloop("model", "fit", str(profile), "--from", "lake")
    assert done.returncode == 1
    assert "there is no lake here yet" in done.stderr


def size_of_features(names: tuple[str, ...]) -> bytes:
    """A graph of somebody else's: how large the features are, between 0 and 1."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Abs", ["m"], ["a"]),
        helper.make_node("Mul", ["a", "less"], ["n"]),
        helper.make_node("Exp", ["n"], ["e"]),
        helper.make_node("Sub", ["one", "e"], ["score"]),
    ]
    shapes = [None, len(names)], [None]
    given, found = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xs", shapes, strict=True)
    )
    found.name = "score"
    constants = [numpy_helper.from_array(np.float32(v), n) for v, n in ((1.0, "one"), (-0.02, "less"))]
    graph = helper.make_graph(nodes, "given", [given], [found], constants)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, ir_version=8, opset_imports=[opset]).SerializeToString()
