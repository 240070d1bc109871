"""Made ``tests/golden/0.2.0``: only meaningful on the commit of release 0.2.0, 27150989ff1b (see README.md).

    git checkout COMMIT; python -m tests.golden.make_0_2_0

Runs a small real stack in ``/tmp/edgeloop-0.2.0``: a neutral path, because Delta's first commit of each table
notes where the table was made. What is signed online lives for 15 minutes only, so that a test meets it
expired from the first day on, as it will in three years.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import confluent_kafka as ck

from edge_producer.sources.scenario import Injection, Scenario
from edge_producer.spool import read_books
from edge_producer.spool_file import reading
from feature_store.lake import Lake
from infra.fleet import EdgeProcess, EdgeSpec
from infra.kafka_admin import KafkaAdmin
from infra.lag import lags
from infra.model_processes import GROUP, PROBES
from infra.model_settings import model_settings
from infra.settings import StackSettings
from infra.stack import Stack
from schemas.envelope import decode_rows, read_envelope
from schemas.profile_file import find_profile
from schemas.rows import telemetry_rows
from tests.golden.another_model import sign_another
from tests.golden.archives import GOLDEN, pack
from tests.infra.cli import Edgeloop
from tests.waiting import wait_until

RELEASE = GOLDEN / "0.2.0"
ROOT = Path("/tmp/edgeloop-0.2.0")
SHORT_LIVED = {
    "MODEL_CERTIFICATE_S": "900", "MODEL_TIMESTAMP_S": "900", "MODEL_SNAPSHOT_S": "900",
    "MODEL_CHANNEL_S": "900", "STREAM_LINGER_S": "6",
}  # fmt: skip
LONGEST_S, DRIFT_AT_S = 900.0, 45.0
FLEET = tuple(f"machine-{i:02d}" for i in range(10))
"""Three of them are in the policy's canary pool."""
LONE, DEPOT = ("probe-01",), ("depot-01", "depot-02")
WORN = DEPOT[0]
ENDED = ("completed", "completed_partial", "rolled_back", "rolled_back_partial")
VIEWS = (
    "telemetry", "telemetry_machine", "summaries", "books", "alerts", "labels", "aggregates", "drift",
    "device_states", "devices", "training_sets", "lifecycle", "quarantine", "alarms", "fleet", "data_quality",
    "cohorts", "model_versions", "model_performance", "model_comparisons", "lineage",
)  # fmt: skip
SUMS = """
SELECT count(DISTINCT (device_id, boot_id, seq)) AS rows, round(sum(score), 4) AS score,
    round(sum(temperature_mean), 1) AS temperature, round(sum(1 / inclusion_probability), 2) AS weight,
    count(DISTINCT model_version) AS models FROM telemetry_machine
"""


def main() -> None:
    """Run the story, ask, pack."""
    ROOT.mkdir()
    os.environ.update(SHORT_LIVED)
    try:
        settings = StackSettings(state_dir=ROOT / "state")
        probe, depot, pinned = _story(settings)
        _greet_nobody(probe)
        _fill(depot)
        found = {
            **_answers(settings, pinned),
            **_of_device(probe),
            **_of_spool(depot, Edgeloop(settings.state_dir)),
        }
        assert found["spool"]["known"], "no message was on its way when the depot was killed: run this again"
        RELEASE.mkdir(exist_ok=True)
        (RELEASE / "facts.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        kept_out = ("logs", "lake/catalog.duckdb", "kafka/tmp", "kafka/server.properties", "stack.")
        pack(settings.state_dir, RELEASE / "state.tar.xz", lambda name: name.startswith(kept_out))
        out = ("scenario.json", "offline", "status.json.")
        pack(depot.folder, RELEASE / "spool.tar.xz", lambda name: name.startswith(out))
        pack(probe.folder, RELEASE / "device.tar.xz", lambda name: name.startswith((*out, "join")))
    finally:
        shutil.rmtree(ROOT)


def _story(settings: StackSettings) -> tuple[EdgeProcess, EdgeProcess, int]:
    """A fleet whose sensors are recalibrated, the model that comes of it, and one more that is signed."""
    edgeloop, profile = Edgeloop(settings.state_dir), find_profile("machine")
    with Stack(settings, say=print) as stack:
        models = model_settings(settings, stack.bootstrap_servers)
        fleet = _edge(stack, "plant", FLEET, GROUP)
        probe = _edge(stack, "probe", LONE, PROBES)
        depot = _edge(stack, "depot", DEPOT, GROUP)
        lake = Lake.open(settings.lake_root)
        for edge in (fleet, probe):
            edge.register_profile(lake, profile)
            edge.join(models)
        depot.register(lake, profile)
        for edge in (fleet, probe, depot):
            edge.start()
        _await_crash(depot)
        pinned = edgeloop.json("lake", "pin", "golden")["id"]
        wait_until(lambda: _rollouts_ended(edgeloop, 2), 300, "the first model everywhere")
        _end(fleet)
        [first] = [m for m in edgeloop.json("model", "list") if m["state"] == "published"]
        second = sign_another(models, first["version"])
        wait_until(lambda: _runs(probe, second), 300, "the second model on the probe")
        _end(probe)
        wait_until(lambda: _rollouts_ended(edgeloop, 4), 300, "all rollouts to end")
        _quarantined_and_labelled(stack, edgeloop)
        wait_until(lambda: _settled(stack), 60, "everything to be in the lake")
    return probe, depot, pinned


def _end(edge: EdgeProcess) -> None:
    edge.child.ask()
    assert edge.child.wait(60)
    assert edge.child.exit_code == 0, edge.child.log_tail()


def _edge(stack: Stack, name: str, devices: tuple[str, ...], group: str) -> EdgeProcess:
    folder = ROOT / "edge" / name
    folder.mkdir(parents=True)
    start = datetime.now(UTC)
    moved = Injection(kind="recalibration", start_s=DRIFT_AT_S, channel="temperature", offset=8.0)
    wear = Injection(kind="bearing_wear", start_s=5.0, ramp_s=5.0, devices=(WORN,))
    story = Scenario(seed=5, start=start, devices=devices, injections=(moved, wear))
    (folder / "scenario.json").write_text(story.model_dump_json())
    options = {
        "source": "simulate", "scenario": str(folder / "scenario.json"),
        "duration_s": str(LONGEST_S), "update_poll_s": "2", "stop_timeout_s": "20",
    }  # fmt: skip
    spec = EdgeSpec(
        name, "machine", devices, stack.bootstrap_servers, site=name, group=group, options=options
    )
    return EdgeProcess(spec, ROOT / "edge", ROOT / "logs")


def _await_crash(depot: EdgeProcess) -> None:
    """Kill the depot's process while the broker has messages whose acknowledgement is not committed."""
    wait_until(lambda: _windows(depot) > 60, 60, "the depot to sense")
    wait_until(lambda: _count(depot, "messages WHERE topic = 'telemetry.v1'") > 0, 60, "sealed rows")
    Event().wait(0.3)
    depot.child.kill()
    assert _count(depot, "messages WHERE topic = 'telemetry.v1'") > 0


def _fill(depot: EdgeProcess) -> None:
    """Sense with no network into a spool that is too small, and kill the process."""
    (depot.folder / "offline").touch()
    limits = {"spool_max_bytes": "90000", "commit_interval_s": "3", "speed": "60", "duration_s": "9000"}
    options = {**depot.spec.options, **limits}
    small = EdgeProcess(replace(depot.spec, options=options), depot.folder.parent, ROOT / "logs")
    small.start()
    wait_until(lambda: _is_full(small), 120, "rows to give way")
    small.child.kill()


def _is_full(edge: EdgeProcess) -> bool:
    books = read_books(edge.spool).values()
    waiting = all(_count(edge, table) > 0 for table in ("messages", "rows", "summaries", "books", "blocks"))
    return waiting and all(b.evicted > 5 for b in books) and _held(edge) > 0


def _greet_nobody(probe: EdgeProcess) -> None:
    """Two starts without a service: each leaves the report with which a device greets."""
    for _ in range(2):
        assert probe.update_once(60) == 1


def _rollouts_ended(edgeloop: Edgeloop, count: int) -> bool:
    """Whether so many rollouts have completed; what waits for a person is passed."""
    found = edgeloop.json("rollout", "history") if _has_rollouts(edgeloop) else []
    for one in found:
        if one["paused"]:
            edgeloop("rollout", "resume", one["rollout_id"], "--reason", "looked at")
    return len(found) >= count and all(one["state"] in ENDED for one in found)


def _has_rollouts(edgeloop: Edgeloop) -> bool:
    return edgeloop("rollout", "history").returncode == 0


def _runs(edge: EdgeProcess, version: str) -> bool:
    told = edge.status()["models"][LONE[0]]
    return (told["version"], told["state"], told["unreported"]) == (version, "idle", 0)


def _quarantined_and_labelled(stack: Stack, edgeloop: Edgeloop) -> None:
    producer = ck.Producer({"bootstrap.servers": stack.bootstrap_servers})
    producer.produce("telemetry.v1", key=b"nobody", value=b"not a message")
    producer.flush(10)
    span = [f"{datetime.now(UTC) - timedelta(seconds=s):%Y-%m-%dT%H:%M:%SZ}" for s in (600, 60)]
    added = edgeloop("label", "add", FLEET[0], *span, "healthy")
    assert added.returncode == 0, added.stderr


def _settled(stack: Stack) -> bool:
    found = lags(stack.settings.lake_root, KafkaAdmin(stack.bootstrap_servers), stack.settings.namespace)
    return all(one.lag == 0 for one in found)


def _windows(edge: EdgeProcess) -> int:
    return int(edge.status().get("counters", {}).get("windows", 0))


def _count(edge: EdgeProcess, table: str) -> int:
    with reading(edge.spool) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _held(edge: EdgeProcess) -> int:
    with reading(edge.spool) as connection:
        return int(connection.execute("SELECT sum(held) FROM devices").fetchone()[0])


def _answers(settings: StackSettings, pinned: int) -> dict[str, Any]:
    """What 0.2.0 itself answers about the state folder, with nothing running."""
    edgeloop = Edgeloop(settings.state_dir)
    counts = " UNION ALL ".join(f"SELECT '{v}' AS name, count(*) AS n FROM {v}" for v in VIEWS)
    listed = edgeloop.json("model", "list")
    made = [m["version"] for m in listed if m["state"] == "published" and m["run_id"]]
    commits = settings.lake_root / "_commits"
    return {
        "counts": {"query": counts, "rows": edgeloop.json("sql", counts)},
        "sums": {"query": SUMS, "rows": edgeloop.json("sql", SUMS)},
        "pinned": {"cut": pinned, "rows": edgeloop.json("sql", SUMS, "--cut", "golden")},
        "commits": {
            t.name: max(int(p.stem) for p in t.glob("*.json")) for t in sorted(commits.glob("task-*"))
        },
        "models": listed,
        "gates": {made[-1]: edgeloop.json("model", "gates", made[-1])},
        "rollouts": edgeloop.json("rollout", "history"),
        "drift": edgeloop.json("drift", "list"),
    }


def _newest(task: Path) -> int:
    return max(int(record.stem) for record in task.glob("*.json"))


def _of_device(probe: EdgeProcess) -> dict[str, Any]:
    told = probe.status()["models"][LONE[0]]
    folder = probe.folder / "updates" / LONE[0]
    waiting = {p.name: p.read_bytes().hex() for p in sorted((folder / "reports").glob("*.pb"))}
    assert len(waiting) == 2
    assert len(list((folder / "slots").iterdir())) == 2
    return {
        "device": {"device_id": LONE[0], "version": told["version"], "seq": told["seq"], "reports": waiting}
    }


def _of_spool(depot: EdgeProcess, edgeloop: Edgeloop) -> dict[str, Any]:
    """Totals, and rows as (device, boot, seq): those that wait, and those of them that landed already."""
    with reading(depot.spool) as db:
        waiting = [
            list(row)
            for row in db.execute(
                "SELECT d.device_id, b.boot_id, r.seq FROM rows r JOIN books b ON b.id = r.book"
                " JOIN devices d ON d.no = r.device"
            )
        ]
        sealed = db.execute(
            "SELECT d.device_id, m.headers, m.value FROM messages m JOIN devices d ON d.no = m.device"
            " WHERE m.topic = 'telemetry.v1'"
        ).fetchall()
        tables = {t: _count(depot, t) for t in ("rows", "messages", "summaries", "blocks")}
    inside = [row for one in sealed for row in _rows_of(*one)]
    books = {name: books.__dict__ for name, books in read_books(depot.spool).items()}
    return {
        "spool": {
            "devices": list(DEPOT),
            "books": books,
            "waiting": sorted(waiting + inside),
            "known": sorted(set(map(tuple, inside)) & _landed(edgeloop)),
            "held": _held(depot),
            "tables": tables,
        }
    }


def _landed(edgeloop: Edgeloop) -> set[tuple[str, int, int]]:
    rows = edgeloop.json("sql", "SELECT device_id, boot_id, seq FROM telemetry")
    return {(row["device_id"], row["boot_id"], row["seq"]) for row in rows}


def _rows_of(device: str, headers: str, value: bytes) -> list[list[Any]]:
    stored = [(k, bytes.fromhex(v)) for k, v in json.loads(headers)]
    envelope, _ = read_envelope(device.encode(), stored)
    table = decode_rows(value, envelope.raw_bytes, telemetry_rows(find_profile("machine")))
    return [[row["device_id"], row["boot_id"], row["seq"]] for row in table.to_pylist()]


if __name__ == "__main__":
    main()
