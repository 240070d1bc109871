"""Laws of a small device: it loads what it uses, and takes no more memory than was promised."""

import json
import subprocess
import sys

HEAVY = ("grpc", "tuf", "google.protobuf", "pyarrow", "pydantic_settings")
UPDATING = ("grpc", "tuf", "google.protobuf")
BOUND_MB = 80

# What a process does from its start to its end, without a broker.
RUN = """
import sys
from edge_producer.__main__ import main
main(["run"])
"""
# What its writer does once a broker answers: rows, summaries and books are sealed, some of them anew.
SEAL = """
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from edge_producer.device import Device, Host
from edge_producer.device_identity import load_or_create
from edge_producer.inference import load_predictor
from edge_producer.metering import Meters
from edge_producer.sending.sealing import Sealer
from edge_producer.sources import Scenario, SimulateSource
from edge_producer.spool.spool import Spool
from edge_producer.summaries import merge_summaries
from schemas.profile_file import find_profile
from schemas.topics import Lane
profile, start, folder = find_profile("machine"), datetime(2026, 3, 1, tzinfo=UTC), Path(sys.argv[1])
identity = load_or_create(folder / "keys", "d-1")
spool = Spool.open(folder / "spool.db", ("d-1",), profile, 0.0)
host = Host(lambda *_: None, Meters(profile), lambda: 0.0)
device = Device(identity, profile, load_predictor(profile), host)
source = SimulateSource(profile, ("d-1",), Scenario(seed=1, start=start), start, None)
for window in islice(source.windows(), 130):
    device.process(window)
device.flush()
sealer = Sealer(spool, {"d-1": identity.signer}, profile)
with spool.transaction():
    update = device.take_update()
    merge_summaries(update.closed, 3600.0, 1_000_000)
    spool.apply(update, 0.0)
    rows = sealer.rows(1, Lane.LIVE, spool.rows.read(1, -1.0, 1.0, 500))
    sealed = rows + sealer.summaries(1)
    sealed += sealer.books(spool.books.due(1, 9.0, 0.0, settled_only=False), 0.0)
    assert len({message.lane for message in sealed}) == 3
    assert sealer.reseal(rows[0].id)
"""
TOLD = """
import json
lines = open("/proc/self/smaps_rollup").read().splitlines()[1:]
kib = {name: int(size) for name, size, _ in map(str.split, lines)}
loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print(json.dumps({"loaded": loaded, "pss_mb": kib["Pss:"] / 1024}))
"""


def told(work, folder, **settings):
    """What a process of its own tells about itself after some work."""
    given = {
        "EDGE_STATE_DIR": str(folder / "state"),
        "EDGE_PROFILE": "machine",
        "EDGE_DEVICES": "d-1",
        "EDGE_BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "EDGE_PACE": "flat_out",
        "EDGE_DURATION_S": "70",
        "EDGE_DRAIN_TIMEOUT_S": "0.1",
        **settings,
    }
    names = json.dumps(HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys{work}{TOLD}", str(folder), names],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), **given},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_device_without_a_model_service_loads_no_grpc_no_tuf_and_no_pyarrow(tmp_path):
    alone = told(RUN, tmp_path)
    assert alone["loaded"] == []
    assert alone["pss_mb"] <= BOUND_MB


def test_a_device_with_a_model_service_still_loads_no_pyarrow(tmp_path):
    (tmp_path / "state" / "updates").mkdir(parents=True)
    updated = told(RUN, tmp_path)
    assert sorted(updated["loaded"]) == sorted(UPDATING)


def test_a_device_seals_merges_and_seals_anew_without_pyarrow(tmp_path):
    assert told(SEAL, tmp_path)["loaded"] == []


def test_only_a_recording_is_read_with_pyarrow(tmp_path):
    recording = tmp_path / "one.csv"
    recording.write_text("time,vibration,temperature,current\n")
    assert told(RUN, tmp_path, EDGE_SOURCE="replay", EDGE_RECORDING=str(recording))["loaded"] == ["pyarrow"]
