"""A fleet runs for a day, in simulated time, without any cloud process; then everything promised arrives.

Nothing listens at the broker's address while it runs. The devices decide every window, carry their actions
out, and keep within their spool's cap; what the filter kept, every summary and every statement on the books
lands when there is a broker again.
"""

from __future__ import annotations

import socket
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_producer.sources.scenario import Injection, Scenario, truth
from edge_producer.verticals.machine.rotating_machine import RotatingMachine
from feature_store import connect
from infra.audit import AuditScope, take_books
from infra.process.ports import LOOPBACK
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from schemas.profile_file import builtin_profiles, load_profile
from tests.simulators.canonical import write_canonical
from tests.simulators.cloud import Cloud
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka]

DAY_S, HOP_S = 86400, 30
WINDOWS = DAY_S // HOP_S
DEVICES = ("north-1", "north-2", "north-3")
CAP = 8 * 1024**2
FAULTS = (
    Injection(kind="bearing_wear", start_s=6 * 3600, duration_s=1800, devices=DEVICES[:1]),
    Injection(kind="imbalance", start_s=18 * 3600, duration_s=1800, devices=DEVICES[2:]),
)


@pytest.fixture
def cloud(broker, namespace, tmp_path):
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as running:
        yield running


@pytest.fixture
def nobody():
    """Address of a port that is taken, so that nobody comes to listen there."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        yield f"{LOOPBACK}:{held.getsockname()[1]}"


def slow_machine(folder: Path) -> Path:
    """The channels and rules of `machine` at one sample a second, judged by the model of any profile."""
    text = builtin_profiles()["machine"].read_text(encoding="utf-8")
    for old, new in (
        ('name = "machine"\ndescription', 'name = "slow_machine"\ndescription'),
        ('[model]\nname = "machine"', '[model]\nname = "robust"'),
        ("rate_hz = 512.0", "rate_hz = 1.0"),
        ("min = -200.0\nmax = 200.0", "min = -200.0\nmax = 200.0\nusual_min = -5.0\nusual_max = 5.0"),
        ("window_samples = 512\nhop_samples = 512", f"window_samples = {HOP_S}\nhop_samples = {HOP_S}"),
        ("period_s = 60.0", "period_s = 300.0"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / "slow_machine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def record(folder: Path, scenario: Scenario) -> Path:
    """A day of each device's samples, as recordings: simulated sensors would begin at this instant."""
    target = folder / "recordings"
    for device in DEVICES:
        machine = RotatingMachine(scenario.seed, device, 1.0, scenario.of(device))
        columns = dict(zip(machine.channels, machine.block(0, DAY_S).T, strict=True))
        write_canonical(target, device, scenario.start, 1.0, columns)
    return target


def fleet(folder: Path, servers: str, namespace: str, **options: str) -> EdgeProcess:
    """Three devices, in one process; each action that comes into force adds a line to `acted`."""
    actions = folder / "actions.toml"
    append = f'["/bin/sh", "-c", "echo $EDGELOOP_DEVICE_ID $EDGELOOP_ACTION >> {folder / "acted"}"]'
    actions.write_text("[actions]\n" + "".join(f"{name} = {append}\n" for name in ("inspect", "stop")))
    given = {
        "actions_file": str(actions), "spool_max_bytes": str(CAP),
        **options,
    }  # fmt: skip
    profile = str(folder / "slow_machine.toml")
    return EdgeProcess(EdgeSpec("north", profile, DEVICES, servers, namespace, options=given), folder, folder)


def spool_bytes(process: EdgeProcess) -> int:
    found = [p.stat().st_size for p in process.folder.glob("spool.db*") if p.exists()]
    return sum(found)


def test_a_day_without_the_cloud_is_decided_kept_and_delivered(cloud, nobody, namespace, tmp_path):
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=DAY_S + 60)
    scenario = Scenario(seed=11, start=start, devices=DEVICES, injections=FAULTS)
    profile = load_profile(slow_machine(tmp_path))
    day = {"source": "replay", "recording": str(record(tmp_path, scenario)), "pace": "flat_out"}
    away = fleet(tmp_path, nobody, namespace, drain_timeout_s="1", **day)
    away.start()
    sizes = [0]
    wait_until(
        lambda: sizes.append(spool_bytes(away)) or away.child.exit_code is not None, 120, "the day's end"
    )
    assert away.child.exit_code == 1  # it could send nothing, and says so
    assert 0 < max(sizes) <= CAP

    counters = away.status()["counters"]
    assert counters["windows"] == WINDOWS * len(DEVICES)
    assert counters["windows_unscored"] == profile.model.warmup_windows * len(DEVICES)
    assert counters.get("windows_degraded", 0) == 0
    acted = Counter((tmp_path / "acted").read_text().split("\n"))
    assert {"north-1 stop", "north-3 stop"} <= set(acted)
    done = away.status()["actions"]
    assert done["done"] == done["started"] > 0
    assert not done.get("failed")
    assert not done.get("timed_out")

    assert_all_arrives(cloud, namespace, tmp_path, profile, scenario)


def assert_all_arrives(cloud, namespace, folder, profile, scenario):
    back = fleet(folder, cloud.servers, namespace, duration_s="0.001")
    back.register(cloud.lake, profile)
    cloud.start()
    back.start()
    assert back.child.wait(90)
    assert back.child.exit_code == 0
    scope = AuditScope.of([back.spool], datetime(2020, 1, 1, tzinfo=UTC))

    def books():
        return take_books(scope, cloud.servers, cloud.namespace, cloud.lake.root)

    wait_until(lambda: books().lake.distinct == books().spool.acked > 0, 60, "every row to be queryable")
    taken = books()
    assert taken.violations() == []
    assert (taken.spool.pending, taken.spool.evicted, taken.spool.refused) == (0, 0, 0)
    assert taken.spool.sensed >= WINDOWS * len(DEVICES)
    with connect(cloud.lake.root, comments=False) as con:
        n = "SELECT device_id, sum(n) FROM summaries WHERE feature = 'temperature_mean' GROUP BY 1"
        assert all(windows >= WINDOWS for _, windows in con.execute(n).fetchall())
        alarmed = con.execute("SELECT device_id, event_time FROM alarms WHERE action = 'stop'").fetchall()
    for span in truth(scenario):
        assert any(d == span.device_id and span.start <= at <= span.end for d, at in alarmed), span
