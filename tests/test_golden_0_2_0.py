"""What release 0.2.0 left on disk works with today's code: a state folder, a full spool, a device's folder.

How the archives were made and what they hold: ``tests/golden/README.md``. ``facts.json`` beside them is what
0.2.0 itself answered about them. Today's answers may have further keys, never fewer or other ones.

These tests hold at any date, and take no clock: what 0.2.0 signed online lived for 15 minutes, so the
device's certificate, snapshot, timestamp and channels had expired when the tests were written. The stack and
the device renew them by themselves. Root, targets and policy (one year) are renewed with the offline keys
first, as an operator does after a long sleep. The certificate authority ends in November 2036, and then these
tests do: no code renews an authority.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from feature_store import connect
from feature_store.derived_trust import unsigned_before
from infra.settings import StackSettings
from infra.stack.model_settings import model_settings
from schemas.drift_vocabulary import OLD_WORDS
from schemas.profile_file import builtin_profiles
from schemas.proto.delivery_pb2 import ReportRequest
from tests.golden.another_model import sign_another
from tests.golden.archives import facts, unpack
from tests.infra.cli import Edgeloop
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka]

RELEASE = "0.2.0"
FACTS = facts(RELEASE)
DEVICE, SPOOL = FACTS["device"], FACTS["spool"]
COUNTS = ("sensed", "acked", "filtered", "evicted", "refused", "pending")


@pytest.fixture(scope="module")
def asleep(tmp_path_factory):
    """The state folder of 0.2.0; nothing runs in it."""
    return Edgeloop(unpack(RELEASE, "state", tmp_path_factory.mktemp("asleep") / "state"))


@pytest.fixture(scope="module")
def awake(tmp_path_factory):
    """The same folder elsewhere, with today's stack up in it."""
    edgeloop = Edgeloop(unpack(RELEASE, "state", tmp_path_factory.mktemp("awake") / "state"))
    edgeloop.state_dir.chmod(0o755)  # as 0.2.0 left it, whatever the umask is here by now
    renewed = edgeloop.json("trust", "renew", "--all")["renewed"]
    assert {"root", "targets", "policy", "snapshot", "timestamp"} <= set(renewed)
    try:
        up = edgeloop("up")
        for _ in range(4):  # the device knows this port, which another test may have for a moment
            if "the port is taken" in up.stderr:
                up = edgeloop("up")
        assert up.returncode == 0, up.stderr
        yield edgeloop
    finally:
        edgeloop("down")


def profile_of_0_2_0(folder: Path) -> Path:
    """`machine` with the timings that it had: those of a demo."""
    path = folder.parent / "machine.toml"
    text = builtin_profiles()["machine_demo"].read_text(encoding="utf-8")
    path.write_text(text.replace('name = "machine_demo"', 'name = "machine"'), encoding="utf-8")
    return path


def edge(folder: Path, devices, awake, **given) -> dict[str, str]:
    """Environment of an edge process of today in a folder of 0.2.0."""
    fields = {
        "STATE_DIR": str(folder), "PROFILE": str(profile_of_0_2_0(folder)), "DEVICES": json.dumps(devices),
        "BOOTSTRAP_SERVERS": "127.0.0.1:9" if awake is None else broker(awake), **given,
    }  # fmt: skip
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_")}
    return inherited | {"ORT_DISABLE_TELEMETRY": "1"} | {f"EDGE_{k}": v for k, v in fields.items()}


def broker(awake) -> str:
    return json.loads((awake.state_dir / "stack.json").read_text())["bootstrap_servers"]


def start(folder: Path, environment) -> subprocess.Popen:
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "edge_producer", "run"]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def contains(today, then) -> bool:
    """Whether today's answer says everything that was said then, causes of drift in today's words."""
    if isinstance(then, dict):
        return isinstance(today, dict) and all(k in today and contains(today[k], v) for k, v in then.items())
    if isinstance(then, list):
        return len(today) == len(then) and all(map(contains, today, then))
    return today == then or (isinstance(then, str) and today == OLD_WORDS.get(then))


def test_nothing_is_damaged(asleep):
    assert asleep.json("lake", "check") == {"findings": [], "left": 0}


def test_every_view_has_the_rows_that_it_had(asleep):
    """But for the one whose rows are whole days since, and were periods of summaries."""
    now = {row["name"]: row["n"] for row in asleep.json("sql", FACTS["counts"]["query"])}
    then = {row["name"]: row["n"] for row in FACTS["counts"]["rows"]}
    assert 0 < now.pop("model_performance") < then.pop("model_performance")
    assert now == then


@pytest.mark.parametrize(("asked", "cut"), [("sums", None), ("pinned", "golden")])
def test_rows_are_what_they_were_in_the_newest_cut_and_in_a_pinned_one(asleep, asked, cut):
    with connect(asleep.state_dir / "lake", cut, comments=False) as con:
        found = con.execute(FACTS["sums"]["query"])
        names = [column[0] for column in found.description]
        assert [dict(zip(names, row, strict=True)) for row in found.fetchall()] == FACTS[asked]["rows"]


@pytest.mark.parametrize(
    ("key", "command"),
    [
        ("models", ["model", "list"]),
        ("rollouts", ["rollout", "history"]),
        ("drift", ["drift", "list"]),
        ("gates", ["model", "gates", *FACTS["gates"]]),
    ],
)
def test_commands_that_read_the_registry_answer_as_they_did(asleep, key, command):
    then = FACTS[key]
    if key == "gates":
        [then] = then.values()
    assert then, "an empty answer shows nothing"
    today = asleep.json(*command)
    if key == "models":  # a later release ships models of further families
        families = {row["family"] for row in then}
        today = [row for row in today if row["family"] in families]
    assert contains(today, then)


def test_a_device_without_network_runs_what_it_ran_and_keeps_what_waits(tmp_path):
    folder = unpack(RELEASE, "device", tmp_path / "device")
    (folder / "offline").touch()
    environment = edge(folder, [DEVICE["device_id"]], None, DURATION_S="2", DRAIN_TIMEOUT_S="0.1")
    process = start(folder, environment)
    process.wait(60)
    told = json.loads((folder / "status.json").read_text())
    runs = told["models"][DEVICE["device_id"]]
    assert (runs["version"], runs["state"], runs["seq"]) == (DEVICE["version"], "idle", DEVICE["seq"])
    assert told["counters"]["windows"] > 0
    reports = folder / "updates" / DEVICE["device_id"] / "reports"
    assert {p.name: p.read_bytes().hex() for p in reports.glob("*.pb")} == DEVICE["reports"]


@pytest.fixture(scope="module")
def drained(awake, tmp_path_factory):
    """Status of the edge process that drained the spool."""
    folder = unpack(RELEASE, "spool", tmp_path_factory.mktemp("drained") / "spool")
    environment = edge(folder, SPOOL["devices"], awake, DURATION_S="2", NAME="depot")
    assert start(folder, environment).wait(90) == 0, (folder / "log").read_text()[-2000:]
    status = json.loads((folder / "status.json").read_text())
    wait_until(lambda: len(landed(awake)) >= status["books"]["acked"], 60, "what was acknowledged to land")
    return status


def landed(awake) -> list[tuple[str, int, int]]:
    """Every row of the spool's devices that queries see, as often as they see it."""
    with connect(awake.state_dir / "lake", comments=False) as con:
        query = "SELECT device_id, boot_id, seq FROM telemetry WHERE list_contains($1, device_id)"
        return con.execute(query, [SPOOL["devices"]]).fetchall()


def test_every_row_of_a_full_spool_arrives_exactly_once_and_the_books_balance(awake, drained):
    books = {name: drained["books"][name] for name in COUNTS}
    then = {name: sum(one[name] for one in SPOOL["books"].values()) for name in COUNTS}
    rows = landed(awake)
    assert SPOOL["known"], "some had landed, and their acknowledgement was lost"
    assert {tuple(row) for row in SPOOL["waiting"]} <= set(rows)
    assert len(rows) == len(set(rows)) == books["acked"]
    assert books["sensed"] == books["acked"] + books["filtered"] + books["evicted"] + books["refused"]
    assert (books["pending"], books["refused"]) == (0, 0)
    # A row that was held belongs to a period whose rows were thinned, and may have to go with them.
    assert then["evicted"] <= books["evicted"] <= then["evicted"] + SPOOL["held"]
    assert books["acked"] >= then["acked"] + len(SPOOL["waiting"])


def test_the_books_that_devices_state_are_those_of_the_spool(awake, drained):
    books = {name: drained["books"][name] for name in COUNTS}
    wait_until(lambda: stated(awake) == books, 30, "the last statements to land")


def stated(awake) -> dict[str, int]:
    """What the lake's books say of the spool's devices, in sum."""
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in COUNTS)
    query = f"SELECT {sums} FROM books WHERE list_contains($1, device_id)"
    with connect(awake.state_dir / "lake", comments=False) as con:
        return dict(zip(COUNTS, con.execute(query, [SPOOL["devices"]]).fetchone(), strict=True))


def test_the_stack_closes_the_folder_to_others(asleep, awake):
    assert others(asleep.state_dir / "lake")
    assert others(awake.state_dir) == []


def others(folder: Path) -> list[Path]:
    """What somebody else than the owner may read; a worker that is running renames its files meanwhile."""
    found = []
    for parent, _, files in os.walk(folder):
        for path in (Path(parent), *(Path(parent) / name for name in files)):
            with suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                if not stat.S_ISLNK(mode) and mode & 0o077:
                    found.append(path)
    return found


def test_what_0_2_0_derived_and_did_not_sign_is_believed_and_nothing_later(awake, drained):
    before = unsigned_before(awake.state_dir / "lake").offsets
    assert sum(before["aggregate.v1"].values()) > 0
    refused = "SELECT count(*) FROM quarantine WHERE topic = 'aggregate.v1' AND error = 'SignatureError'"
    assert awake.json("sql", refused) == [{"count_star()": 0}]
    letters = awake.json("dlq", "list")
    assert letters
    assert all(letter["verified"] for letter in letters)


def test_the_worker_goes_on_at_the_next_commit(awake, drained):
    now = awake.json("status")
    went_on = {task: n for task, n in FACTS["commits"].items() if now["cut"]["marks"][task] > n}
    assert went_on
    for task, n in went_on.items():
        records = (awake.state_dir / "lake" / "_commits" / task).glob("*.json")
        later = sorted(number for number in map(int, (p.stem for p in records)) if number > n)
        assert later == list(range(n + 1, n + 1 + len(later)))
    assert now["problems"] == []


@pytest.fixture(scope="module")
def device(awake, tmp_path_factory):
    """The device's folder with today's process in it; it looks for instructions twice a second."""
    folder = unpack(RELEASE, "device", tmp_path_factory.mktemp("device") / "device")
    assert certificate(folder).not_valid_after_utc < datetime.now(UTC)
    at = json.loads((awake.state_dir / "models" / "address.json").read_text())
    joined = json.loads((folder / "updates" / DEVICE["device_id"] / "joined.json").read_text())
    joined |= {name: f"{at['host']}:{at[f'{name}_port']}" for name in ("enrollment", "delivery")}
    (folder / "join").mkdir()
    (folder / "join" / f"{DEVICE['device_id']}.json").write_text(json.dumps(joined))
    given = {
        "JOIN_DIR": str(folder / "join"),
        "UPDATE_POLL_S": "0.5",
        "SPEED": "5",
        "COMMIT_INTERVAL_S": "0.5",
    }
    process = start(folder, edge(folder, [DEVICE["device_id"]], awake, **given))
    try:
        yield folder
    finally:
        process.terminate()
        process.wait(30)


def model_of(device: Path) -> dict:
    """What the device's process last wrote about its model."""
    try:
        return json.loads((device / "status.json").read_text())["models"][DEVICE["device_id"]]
    except (OSError, KeyError):
        return {}


def registry(awake, query: str, *values) -> list[tuple]:
    """Rows of the model registry, read beside its writers."""
    db = sqlite3.connect(f"file:{awake.state_dir / 'models' / 'registry.db'}?mode=ro", uri=True)
    try:
        return db.execute(query, values).fetchall()
    finally:
        db.close()


def reports(awake) -> dict[int, ReportRequest]:
    """Reports of the device that the registry has, by number."""
    found = registry(awake, "SELECT report_no, body FROM reports WHERE device_id = ?", DEVICE["device_id"])
    return {number: ReportRequest.FromString(body) for number, body in found}


def test_a_device_whose_certificate_expired_comes_back_with_its_reports_and_its_model(awake, device):
    bodies = {int(n.split(".")[0]): bytes.fromhex(body) for n, body in DEVICE["reports"].items()}
    waiting = {n: ReportRequest.FromString(body) for n, body in bodies.items()}
    wait_until(lambda: set(waiting) <= set(reports(awake)), 60, "the reports to arrive")
    assert {n: reports(awake)[n] for n in waiting} == waiting
    wait_until(lambda: model_of(device).get("unreported") == 0, 30, "nothing to wait")
    told = model_of(device)
    assert (told["version"], told["state"], told["attack"]) == (DEVICE["version"], "idle", "")
    assert certificate(device).not_valid_after_utc > datetime.now(UTC)


def certificate(device: Path) -> x509.Certificate:
    folder = device / "updates" / DEVICE["device_id"]
    return x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())


def test_a_new_candidate_reaches_the_device_by_a_new_rollout(awake, device):
    settings = model_settings(StackSettings(state_dir=awake.state_dir))
    version = sign_another(settings, DEVICE["version"])
    wait_until(lambda: model_of(device).get("version") == version, 60, "the device to run the new model")
    wait_until(lambda: model_of(device)["state"] == "idle", 30, "its watch to pass")
    [made] = [r for r in awake.json("rollout", "history", "--group", "probes") if r["version"] == version]
    assert made["rollout_id"] not in {r["rollout_id"] for r in FACTS["rollouts"]}


def test_a_person_can_ask_for_a_new_run(awake):
    run = awake.json("model", "train", "machine", "--reason", "golden")["run_id"]
    known = {r["run_id"] for r in FACTS["drift"]["runs"]}
    assert run not in known
    assert {*known, run} <= {name for (name,) in registry(awake, "SELECT run_id FROM runs")}
