"""`edgeloop config` against all five processes of the model service, with a user's code in them."""

import os
from pathlib import Path

import numpy as np
import pytest

from feature_store.lake_registry import DeviceRecord, DeviceRegistry
from model_service.address import read_address
from model_service.identity.authority import init_pki
from model_service.trust import ceremony
from tests.edge_producer.config_cloud import PLAN, SPEC
from tests.feature_store.fleets import SECOND, land, telemetry
from tests.feature_store.lakes import T0
from tests.infra.cli import Edgeloop
from tests.simulators.config_plug_ins import install_plug_ins
from tests.simulators.rollout_deployment import GROUP, RolloutDeployment, quick_profile
from tests.waiting import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def rows(deployment, names, level):
    n = 40
    columns = {
        "device_id": [names[i % len(names)] for i in range(n)],
        "event_time": [T0 + i * SECOND for i in range(n)],
        "seq": np.arange(n),
        "vibration_rms": np.full(n, level, np.float32),
    }
    land(deployment.lake, telemetry=telemetry(**columns))


def test_a_person_lists_shows_and_builds_configurations(tmp_path, monkeypatch):
    site = tmp_path / "site"
    install_plug_ins(site, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(site), str(Path(__file__).parents[2]))))
    deployment, edgeloop = RolloutDeployment(tmp_path), Edgeloop(tmp_path)
    ceremony.init(deployment.settings, [PLAN], {})
    init_pki(deployment.settings)
    deployment.lake.ensure_fixed_tables()
    spec = SPEC.model_copy(update={"trainer": "green", "gates": ("green_gate",), "every_s": 1e6})
    deployment.use(quick_profile().model_copy(update={"configs": (spec,)}))
    names = deployment.join(4)
    records = [DeviceRecord(n, "machine", "hall", GROUP, "sim", key_id=n, public_key="") for n in names]
    DeviceRegistry(deployment.lake).register(records)
    rows(deployment, names, 20.0)
    running = [deployment.start(name) for name in ("trainer", "gate", "engine", "guard", "serve")]

    def published():
        return [c for c in edgeloop.json("config", "list", PLAN)["configs"] if c["state"] == "published"]

    try:
        wait_until(lambda: read_address(deployment.settings) is not None, 60, "the deployment to listen")
        wait_until(lambda: len(published()) == 1, 90, "the first configuration")
        [first] = published()
        assert (first["group"], first["profile"], first["unit"]) == (GROUP, "machine", "site")
        shown = edgeloop.json("config", "show", first["version"])
        assert shown["parameters"]["green_s"] == [20.0, 30.0]
        assert "5 to 60" in edgeloop("config", "show", first["version"]).stdout
        passed = {v["gate"]: v["passed"] for v in edgeloop.json("model", "gates", first["version"])}
        assert passed == dict.fromkeys(("schema", "valid_from", "rebuild", "green_gate"), True)
        assert edgeloop.json("rollout", "status")["kind"] == "config"
        rows(deployment, names, 70.0)
        assert edgeloop.json("config", "build", PLAN) == {"family": PLAN, "groups": [GROUP]}

        def says():
            [attempt] = edgeloop.json("config", "list")["attempts"]
            return attempt["says"]

        wait_until(lambda: "lies outside 5 to 60" in says() or "made" in says(), 60, "the second attempt")
        unknown = edgeloop("config", "build", "timetable")
        assert unknown.returncode == 1
        assert "no profile here has configurations 'timetable'" in unknown.stderr
    finally:
        for process in running:
            process.terminate()
        codes = [process.wait(30) for process in running]
        deployment.registry.close()
    assert codes == [0] * 5
