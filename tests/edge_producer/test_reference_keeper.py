"""Laws of what a device learnt: restarts, swaps and rollbacks keep it; a new model or a person thaws it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_producer.bundle import BUNDLES, open_bundle
from edge_producer.device import Device, Host
from edge_producer.inference import OnnxPredictor, load_predictor
from edge_producer.metering import Meters
from edge_producer.model_switch import ActiveModels, ModelSwitch
from edge_producer.reference_keeper import KEPT_VERSIONS, ReferenceKeeper
from edge_producer.relearn_requests import RelearnRequests
from schemas.profile import Profile
from tests.edge_producer.spool_rig import SpoolRig, window


def bearing(**channel) -> Profile:
    return Profile.model_validate(
        {
            "name": "bearing",
            "channels": [
                {"name": "temp", "unit": "degC", "min": 0, "max": 1000, "usual_max": 100, **channel}
            ],
            "sampling": {"rate_hz": 1.0, "window_samples": 1, "hop_samples": 1},
            "features": {"set": "bearing", "compute": [{"channel": "temp", "kinds": ["last"]}]},
            "model": {"name": "robust", "reference_windows": 32, "warmup_windows": 16},
            "decision": {"rules": [{"action": "inspect", "enter": 0.6, "leave": 0.45}]},
        }
    )


PROFILE = bearing()


def robust(version: str = "") -> OnnxPredictor:
    """The shipped model, or the same graph under another version."""
    if not version:
        return load_predictor(PROFILE)
    bundle = open_bundle(BUNDLES / "robust")
    manifest = bundle.manifest.model_copy(update={"version": version})
    return OnnxPredictor(type(bundle)(manifest, bundle.model, bundle.golden), PROFILE)


class Learner(SpoolRig):
    """A device with the generic model on a switch; ``boot`` starts it anew from what it exported."""

    def __init__(self, folder):
        super().__init__(folder, PROFILE)
        self.model = robust()
        self.boot(None)

    def boot(self, state: str | None, *, profile: Profile = PROFILE) -> None:
        self.switch = ModelSwitch(ActiveModels(self.model))
        host = Host(lambda o: self.actions.append((o.device_id, o.action)), Meters(profile), lambda: self.now)
        self.device = Device(self.identities["d-1"], profile, self.switch, host, state)
        self.devices = {"d-1": self.device}

    def restart(self, **how) -> None:
        state = self.device.take_update().state
        self.model = robust(self.model.version)
        self.boot(state, **how)

    def calm(self, n: int, level: float = 20.0) -> None:
        self.sense(np.random.default_rng(n).normal(level, 1.0, n))

    def score(self, value: float) -> float | None:
        """Of a window that the device does not see."""
        model = self.switch.models.active
        known = model.export_reference("d-1")
        score = model.score("d-1", window(value, 0).samples)[1]
        if known is None:
            model.relearn("d-1")
        else:
            model.restore_reference("d-1", known)
        return score

    @property
    def center(self) -> float:
        return float(self.switch.models.active.reference("d-1").center[0])


@pytest.fixture
def rig(tmp_path):
    with_rig = Learner(tmp_path)
    yield with_rig
    with_rig.close()


def test_a_restart_finds_the_reference_and_scores_its_first_window(rig):
    rig.calm(64)
    assert rig.device.frozen == (1, 1)
    center = rig.center
    rig.restart()
    assert rig.device.frozen == (1, 1)
    assert rig.center == center
    assert rig.score(120.0) > 0.9
    assert rig.score(20.0) < 0.5


def test_a_restart_in_the_middle_of_a_fault_does_not_learn_it(rig):
    """Before, each start warmed up anew: what was there was usual."""
    rig.calm(64)
    rig.sense([120.0] * 5)
    rig.restart()
    rig.sense([120.0] * 200)
    assert rig.score(120.0) > 0.9
    assert rig.device.take_update().decision == "inspect"


def test_a_new_version_judges_by_what_was_known_and_learns_anew(rig):
    rig.calm(64)
    rig.switch.models = ActiveModels(robust("robust-1.00000001"))
    rig.sense([20.0])
    assert rig.device.frozen == (0, 1)
    assert rig.score(120.0) > 0.9
    rig.calm(64, level=23.0)
    assert rig.device.frozen == (1, 1)
    assert abs(rig.center - 23.0) < 1


def test_a_rollback_finds_the_reference_of_before_also_after_a_restart(rig):
    rig.calm(64)
    first, center = rig.model, rig.center
    rig.model = robust("robust-1.00000001")
    rig.switch.models = ActiveModels(rig.model, shadow=None)
    rig.calm(96, level=23.0)
    assert abs(rig.center - 23.0) < 1
    rig.switch.models = ActiveModels(first)
    rig.sense([20.0])
    assert rig.center == pytest.approx(center, abs=0.1)
    rig.switch.models = ActiveModels(rig.model)
    rig.sense([23.0])
    rig.restart()
    rig.switch.models = ActiveModels(robust())
    rig.sense([20.0])
    assert rig.center == pytest.approx(center, abs=0.1)
    assert rig.device.frozen == (1, 1)


def test_a_person_has_it_learnt_anew_and_a_restart_does_not_bring_the_old_one_back(rig):
    rig.calm(64)
    rig.restart()
    rig.device.relearn()
    rig.restart()
    assert rig.score(20.0) is None, "nothing of before is left"
    rig.sense([90.0])
    assert rig.score(90.0) is None, "it warms up"
    rig.restart()
    rig.calm(64, level=90.0)
    assert abs(rig.center - 90.0) < 1


def test_a_reference_of_other_features_or_units_is_not_taken_up(rig):
    rig.calm(64)
    other = bearing(unit="degF")
    rig.restart(profile=other)
    assert rig.device.frozen == (0, 1)


def test_a_damaged_reference_is_learnt_anew_and_loses_nothing_else(rig):
    rig.calm(64)
    rig.sense([120.0] * 3)
    state = json.loads(rig.device.take_update().state)
    [version] = state["references"]["by_version"]
    state["references"]["by_version"][version]["spread"] = "?"
    rig.model = robust()
    rig.boot(json.dumps(state))
    assert rig.device.frozen == (0, 1)
    assert not rig.device.state_lost
    assert rig.device.take_update().decision == "inspect"


def test_the_state_of_0_2_0_has_no_reference_and_is_read(rig):
    rig.calm(64)
    state = json.loads(rig.device.take_update().state)
    del state["references"]
    rig.model = robust()
    rig.boot(json.dumps(state))
    assert not rig.device.state_lost


def test_no_more_versions_are_kept_than_a_device_can_return_to():
    keeper = ReferenceKeeper("d", PROFILE, None)
    for number in range(KEPT_VERSIONS + 3):
        model = robust(f"robust-{number}.00000000")
        model.score("d", window(20.0, 0).samples)
        kept = keeper.export(model)["by_version"]
    assert list(kept) == [f"robust-{n}.00000000" for n in (3, 4, 5)]


def test_a_request_is_carried_out_once_and_again_after_a_crash_before_it_was_committed(tmp_path):
    asking, running = (RelearnRequests(tmp_path, ["d-1", "d-2"]) for _ in range(2))
    assert running.take() == []
    asking.ask("d-1")
    assert running.take() == ["d-1"]
    assert RelearnRequests(tmp_path, ["d-1", "d-2"]).take() == ["d-1"], "a crash here repeats it"
    assert running.take() == []
    assert RelearnRequests(tmp_path, ["d-1", "d-2"]).take() == []
    asking.ask("d-1")
    assert running.take() == ["d-1"]
    with pytest.raises(ValueError, match="d-3"):
        asking.ask("d-3")
