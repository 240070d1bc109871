"""Laws of what packages add: feature kinds, gates, outputs of a trainer or an import; docs/extending.md.

The way of a first model (`FirstModelRig`), with packages that are built and installed for the test.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edge_producer.bundle import BUNDLES, Bundle, check_fit, open_bundle
from edge_producer.inference import OnnxPredictor
from model_service.detectors.imported_bundle import check_import
from model_service.detectors.imported_score import ImportedScore
from model_service.detectors.kinds import KINDS
from model_service.detectors.user_trainer import detector_kinds
from model_service.gates.gate_inputs import GateInputs, read_inputs
from model_service.gates.user_gates import judge_also
from model_service.gates.user_gates import lacking as gates_lacking
from model_service.gates.verdict_store import pending_candidates
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import learnt_bundle
from model_service.models.feature_kind import lacking as kinds_lacking
from model_service.models.features import logged_features, profile_features
from model_service.registry.bundle_store import read_artifact
from model_service.registry.registry_tables import candidates, gate_verdicts
from schemas.calendar_features import golden_ends
from schemas.errors import BundleError, DatasetError
from schemas.instants import from_us
from schemas.manifest import TrainingFacts
from schemas.profile import Profile
from tests.edge_producer.output_models import pump_profile
from tests.model_service.given_graphs import file_of
from tests.model_service.test_detectors import windows
from tests.model_service.test_first_model_line import OWN, FirstModelRig

ROOT = Path(__file__).parents[2]
EXAMPLE, PAGE = ROOT / "examples" / "pump_extensions", ROOT / "docs" / "extending.md"
BOTH = {"channels": ["pressure", "flow"], "kinds": ["imbalance"]}


def pump(**changed: dict) -> Profile:
    """The pump with a kind of a package, a calendar and a gate, as the page has it."""
    given = OWN.model_dump(mode="json", exclude={"features": {"compute"}})
    compute = [{"channel": c, "kinds": ["mean", "std"]} for c in ("pressure", "flow")]
    features = {"compute": [*compute, BOTH], "also": ["imbalance"], "calendar": ["hour_sin", "weekend"]}
    given["features"] |= features | {"time_zone": "America/Chicago"}
    given["gates"]["also"] = ["quiet"]
    for section, values in changed.items():
        given[section] |= values
    return Profile.model_validate(given)


TRAINS = "[edgeloop.trainers]\nqueue = pump_extensions:QueueTrainer\n"


@contextmanager
def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, edit: tuple = (), more: str = "", points: str = TRAINS
):
    """The example's wheel, built and installed; parts of its module replaced, or more of it appended.

    Entry points are added with what is appended.
    """
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    module = folder / "site" / "pump_extensions.py"
    if edit:
        old, new = edit
        assert old in module.read_text()
        module.write_text(module.read_text().replace(old, new))
    if more:
        module.write_text(module.read_text() + more)
        [listed] = (folder / "site").glob("*.dist-info/entry_points.txt")
        listed.write_text(f"{listed.read_text()}\n{points}")
    sys.modules.pop("pump_extensions", None)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder / "site"))
        yield
    sys.modules.pop("pump_extensions", None)


def judged(rig: FirstModelRig) -> dict[str, dict]:
    run = rig.train()
    assert run["state"] == "trained", run["detail"]
    rig.gate.step()
    return {row["gate"]: row for row in rig.rows(gate_verdicts)}


def test_the_page_prints_the_example_as_it_is():
    page = PAGE.read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert code == (EXAMPLE / "pump_extensions.py").read_text()
    assert (EXAMPLE / "pyproject.toml").read_text() in page


def test_the_page_lists_every_group_of_entry_points_that_the_code_looks_for():
    rooms = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")
    code = "".join(p.read_text("utf-8") for room in rooms for p in (ROOT / room).rglob("*.py"))
    keys = {"edgeloop.digest", "edgeloop.inputs"}  # of commits of the lake
    wanted = set(re.findall(r'(?<!b)"(edgeloop\.[a-z_]+)"', code)) - keys
    assert set(re.findall(r"(?m)^\| `(edgeloop\.[a-z_]+)` \|", PAGE.read_text("utf-8"))) == wanted


def test_a_kind_of_a_package_is_learnt_judged_and_runs_on_a_device_without_the_package(tmp_path, monkeypatch):
    profile = pump()
    assert profile.feature_names[4:] == ("pressure_flow_imbalance", "calendar_hour_sin", "calendar_weekend")
    with installed(tmp_path, monkeypatch):
        rig = FirstModelRig(tmp_path, devices=2, profile=profile)
        verdicts = judged(rig)
        assert {g: v["detail"]["says"] for g, v in verdicts.items() if not v["passed"]} == {}
        assert verdicts["quiet"]["value"] <= 0.3
        assert rig.rows(candidates)[0]["state"] == "signed"
        made = read_artifact(rig.settings.artifacts, rig.rows(candidates)[0]["sha256"])
        given, at = windows(5, seed=3), golden_ends(5)
        wanted = profile_features(profile, given, at)
        rig.registry.close()
    assert made.manifest.bin_edges["pressure_flow_imbalance"] == pytest.approx(np.linspace(-0.9, 0.9, 10))
    with pytest.raises(DatasetError, match="not installed here"):
        profile_features(profile, given, at)
    predictor = OnnxPredictor(Bundle(made.manifest, made.model, made.golden), profile)
    numbers = [predictor.score("d", w, from_us(int(us)))[0] for w, us in zip(given, at, strict=True)]
    np.testing.assert_allclose(numbers, wanted, atol=1e-5)


def with_gates(*names: str) -> Profile:
    given = OWN.model_dump(mode="json")
    given["gates"]["also"] = names
    return Profile.model_validate(given)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> GateInputs:
    """What the gates read of a candidate that was trained on a landed history."""
    rig = FirstModelRig(tmp_path_factory.mktemp("rig"), profile=with_gates("quiet"))
    rig.train()
    with rig.registry.reading() as connection:
        [pending] = pending_candidates(connection)
    read = read_inputs(rig.settings, rig.registry, pending)
    rig.registry.close()
    return read


VERDICT = 'return GateVerdict("quiet", mean <= MOST, mean, MOST, detail={"says": says})'
REFUSING = [
    pytest.param(("mean = ", "raise LookupError('no night') #"), "LookupError: no night", id="raises"),
    pytest.param(("mean = ", "raise SystemExit(3) #"), "SystemExit: 3", id="exits"),
    pytest.param(("mean = ", "import os; os._exit(3) #"), "its process ended: exit code 3", id="ends"),
    pytest.param((VERDICT, "return says"), "it gave str, no GateVerdict", id="no-verdict"),
    pytest.param(("mean <= MOST", "1"), "it gave passed = 1", id="no-bool"),
    pytest.param(("mean, MOST,", "mean, np.inf,"), "it gave bound = inf", id="infinite"),
    pytest.param(('{"says": says}', '{"says": object()}'), "object is no value of JSON", id="no-json"),
]


@pytest.mark.parametrize(("edit", "why"), REFUSING)
def test_whatever_a_gate_does_but_give_a_verdict_is_a_refusal_with_its_reason(
    inputs, tmp_path, monkeypatch, edit, why
):
    with installed(tmp_path, monkeypatch, edit):
        [verdict] = judge_also(inputs, ())
    assert (verdict.gate, verdict.passed) == ("quiet", False)
    assert why in verdict.text


def test_a_gate_that_is_not_installed_refuses_and_no_package_may_take_the_name_of_ours(inputs):
    [missing], [taken] = judge_also(inputs, ()), judge_also(inputs, {"quiet"})
    assert "quiet is not installed here (there: none): install the package" in missing.text
    assert (taken.gate, taken.passed) == ("also_quiet", False)


def test_a_package_that_is_missing_is_named_with_what_to_install():
    profile = pump()
    [kind], [gate] = kinds_lacking(profile.feature_specs()), gates_lacking(profile.gates.also)
    for text, group in ((kind, "edgeloop.features"), (gate, "edgeloop.gates")):
        assert "is not installed here (there: " in text
        assert f"install the package that has it among its entry points {group}" in text
    with pytest.raises(DatasetError, match="the feature kind 'imbalance' is not installed here"):
        learnt(profile)


TURNED = ("(first - second) / np", "(second - first) / np")
WRONG_KINDS = [
    pytest.param(TURNED, BundleError, "one number in numpy", id="two-ways"),
    pytest.param(("valid = np.isfinite(windows)", "raise ValueError('no')"), DatasetError, "no", id="raises"),
    pytest.param(("return np.where(size", "return size[:1]  #"), DatasetError, "gives shape", id="shape"),
    pytest.param(("_channels = 2", "_channels = 3"), DatasetError, "takes 3 to 3 channels", id="channels"),
]


@pytest.mark.parametrize(("edit", "error", "why"), WRONG_KINDS)
def test_a_kind_that_breaks_its_promise_becomes_no_model(tmp_path, monkeypatch, edit, error, why):
    with installed(tmp_path, monkeypatch, edit), pytest.raises(error, match=f"imbalance.*{why}"):
        learnt(pump())


def learnt(profile: Profile) -> BundleFiles:
    """A bundle of the plainest detector."""
    features = profile_features(profile, windows(60), golden_ends(60))
    model = KINDS[0].fit(features, logged_features(profile), KINDS[0].settings[0])
    facts = TrainingFacts(script="tests", seed=0, devices=1, windows=60)
    return learnt_bundle(profile, "pump", model, [[features]], windows(8, seed=1), facts)


def test_the_generic_model_refuses_kinds_of_packages_and_says_what_to_do():
    with pytest.raises(BundleError, match=r"cannot compute imbalance: .*`edgeloop model fit`"):
        check_fit(open_bundle(BUNDLES / "robust").manifest, pump())


# Outputs of a trainer and of an import ----------------------------------------------------------------------

TRAINER = '''

import onnx
from onnx import helper


class QueueTrainer:
    """Distance: of the farthest feature. Queue: the flow's mean, squashed."""

    def fit(self, given):
        centre, spread = given.features.mean(axis=0), given.features.std(axis=0) + 1e-3
        flow = list(given.names).index("flow_mean")
        constants = {"centre": centre, "spread": spread, "at": np.array([flow])}
        nodes = [
            helper.make_node("Sub", ["x", "centre"], ["off"]),
            helper.make_node("Div", ["off", "spread"], ["z"]),
            helper.make_node("Abs", ["z"], ["far"]),
            helper.make_node("ReduceMax", ["far"], ["distance"], axes=[1], keepdims=1),
            helper.make_node("Gather", ["z", "at"], ["flow"], axis=1),
            helper.make_node("Sigmoid", ["flow"], ["score_queue"]),
        ]
        kinds = {name: np.int64 if name == "at" else np.float32 for name in constants}
        graph = helper.make_graph(
            nodes,
            "queue",
            [helper.make_tensor_value_info("x", 1, [None, len(centre)])],
            [helper.make_tensor_value_info(n, 1, [None, 1]) for n in ("distance", "score_queue")],
            [onnx.numpy_helper.from_array(v.astype(kinds[n]), n) for n, v in constants.items()],
        )
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
'''


def test_a_trainers_outputs_are_learnt_and_judged_and_a_gate_of_a_package_refuses_on_record(
    tmp_path, monkeypatch
):
    profile = pump(model={"outputs": ["queue"]}, training={"trainer": "queue"})
    with installed(tmp_path, monkeypatch, ("MOST = 0.3", "MOST = -1.0"), TRAINER):
        rig = FirstModelRig(tmp_path, devices=2, profile=profile)
        verdicts = judged(rig)
        assert [g for g, v in verdicts.items() if not v["passed"]] == ["quiet"]
        assert re.search("score .* on average; at most -1.0", verdicts["quiet"]["detail"]["says"])
        assert verdicts["outputs"]["detail"]["given"] == {"queue": 1.0}
        candidate = rig.rows(candidates)[0]
        assert (candidate["state"], "quiet: " in candidate["detail"]) == ("refused", True)
        made = read_artifact(rig.settings.artifacts, candidate["sha256"])
        rig.registry.close()
    predictor = OnnxPredictor(Bundle(made.manifest, made.model, made.golden), profile)
    low, high = (predictor.score("d", w[0], from_us(0))[0][-1] for w in (windows(1) - 1, windows(1) + 1))
    assert 0 < low < high < 1


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (("score_queue", "score_other"), "has no output score_queue of floats"),
        (("Sigmoid", "Abs"), "reach from"),
    ],
)
def test_a_trainer_that_breaks_the_rules_of_outputs_is_told_which(tmp_path, monkeypatch, edit, why):
    profile = pump(model={"outputs": ["queue"]}, training={"trainer": "queue"})
    with (
        installed(tmp_path, monkeypatch, more=TRAINER.replace(*edit)),
        detector_kinds(profile, 1) as [kind],
        pytest.raises(DatasetError, match=why),
    ):
        kind.fit(profile_features(profile, windows(60), golden_ends(60)), np.zeros(7, dtype=bool), {})


def test_detectors_of_ours_do_not_pretend_to_give_outputs():
    refused = pytest.raises(DatasetError, match="outputs queue, which detectors of ours do not give")
    with refused, detector_kinds(pump_profile(), 1):
        """It is refused before anything is fitted."""


def imported(outputs: tuple[str, ...] = ("score", "score_queue"), last: str = "Sigmoid") -> bytes:
    """Score and queue of a file from elsewhere: the squashed first and third feature."""
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["a"], axis=1),
        helper.make_node("Sigmoid", ["a"], ["score"]),
        helper.make_node("Gather", ["x", "third"], ["c"], axis=1),
        helper.make_node(last, ["c"], ["score_queue"]),
    ]
    constants = {"first": np.array([0]), "third": np.array([2])}
    return file_of(nodes, [None, 7], constants, outputs=outputs)


def test_an_imports_outputs_are_those_of_the_given_file():
    profile = pump_profile()
    score = ImportedScore(check_import(imported(), profile, ""), profile)
    rows = np.random.default_rng(0).normal(0, 1, (20, 7))
    rows[3, 5] = np.nan
    wanted = 1 / (1 + np.exp(-rows[:, [2]]))
    wanted[3] = np.nan
    np.testing.assert_allclose(score.further(rows), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (imported(("score",)), "it has no output score_queue of floats, which the profile names"),
        (imported(last="Identity"), "reach from"),
    ],
)
def test_an_import_without_the_profiles_outputs_is_refused_with_what_it_lacks(data, why):
    with pytest.raises(BundleError, match=why):
        check_import(data, pump_profile(), "")


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_calendar_that_never_changed_in_the_history_spoils_no_detector(kind):
    """An hour of one day: `weekend` is constant in it, and on Sunday it is another."""
    given = OWN.model_dump(mode="json")
    given["features"] |= {"calendar": ["hour_sin", "weekend"], "time_zone": "America/Chicago"}
    profile = Profile.model_validate(given)
    ends = golden_ends(1)[0] + 9_000_000 * np.arange(400)
    features = profile_features(profile, windows(400), ends)
    weekend = features.shape[1] - 1
    rows = np.hstack([features, features]) if kind.follows else features  # its recent levels behind
    detector = kind.fit(rows, logged_features(profile), kind.settings[0])
    assert np.isfinite(detector.score(rows)).all()
    later = rows.copy()
    later[:, weekend] = 1 - later[:, weekend]
    assert np.isfinite(detector.score(later)).all()
