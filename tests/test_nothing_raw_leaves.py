"""Every byte that leaves a device is decoded, by every topic, call, log and status file.

No raw sample is in it, and no feature of a channel that never leaves.
"""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from edge_producer.excerpts.consent import ConsentFile
from edge_producer.sources.scenario import Injection
from edge_producer.verticals.machine.rotating_machine import RotatingMachine
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from schemas.feature_set import FEATURE_KINDS
from schemas.profile_file import builtin_profiles, load_profile
from tests.simulators.canonical import write_canonical
from tests.simulators.excerpt_permits import People
from tests.simulators.leavings import Leavings, longest_run, marked, run_in_bytes
from tests.simulators.update_service import UpdateService, candidate
from tests.verticals.worn_rig import WornRig

DEVICE = "m-1"
RATE_HZ, SECONDS = 512.0, 90
SAMPLES_THEMSELVES = {"last", "min", "max"}
"""Kinds that repeat one sample of the window, by definition."""
SCALE = 1e25
"""The microphone's; nothing else that a device tells is as large."""


def recorded(folder: Path, **more: np.ndarray) -> Path:
    """A machine whose bearing fails on the way, with marked samples, that ends a moment ago."""
    fault = Injection(kind="bearing_wear", start_s=40.0, duration_s=20.0)
    machine = RotatingMachine(5, DEVICE, RATE_HZ, (fault,))
    samples = marked(machine.block(0, int(SECONDS * RATE_HZ)))
    columns = dict(zip(machine.channels, samples.T, strict=True))
    start = datetime.now(UTC) - timedelta(seconds=SECONDS)
    return write_canonical(folder / "recordings", DEVICE, start, RATE_HZ, {**columns, **more})


def profile_text(*changes: tuple[str, str]) -> str:
    text = builtin_profiles()["machine_demo"].read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def process(folder: Path, broker, namespace: str, text: str, **options: str) -> EdgeProcess:
    path = folder / "profile.toml"
    path.write_text(text, encoding="utf-8")
    given = {"source": "replay", "recording": str(folder / "recordings"), **options}
    spec = EdgeSpec("edge", str(path), (DEVICE,), broker.bootstrap_servers, namespace, options=given)
    return EdgeProcess(spec, folder, folder)


def what_left(running: EdgeProcess, folder: Path, admin, namespace: str) -> Leavings:
    left = Leavings()
    left.add_messages(admin, namespace, load_profile(folder / "profile.toml"))
    left.add_files(folder / "edge-edge.log", running.folder / "status.json")
    return left


@pytest.mark.kafka
def test_no_raw_sample_leaves_by_any_topic_call_log_or_status_file(broker, admin, namespace, tmp_path):
    recorded(tmp_path)
    with UpdateService(tmp_path / "cloud") as service:
        running = process(
            tmp_path, broker, namespace, profile_text(), pace="real", speed="10", update_poll_s="1"
        )
        service.join(running.join_dir, DEVICE)
        release = service.sign(candidate(1))
        service.instruct(release)
        running.start()
        assert running.child.wait(90)
        assert running.child.exit_code == 0
        assert service.results(DEVICE)[:1] == ["committed"]
        left = what_left(running, tmp_path, admin, namespace)
        left.add_calls(service.requests)
    told = {"telemetry.v1", "summary.v1", "books.v1", "alert.v1", "device-state.v1"}
    calls = {"Enroll", "FetchMetadata", "FetchArtifact", "Report", "Watch"}
    assert told | calls | {"edge-edge.log", "status.json"} <= left.origins()
    assert left.runs() == {}


EXCERPTS = """
[excerpts]
channels = ["vibration"]
max_seconds = 10.0
max_seconds_per_day = 20.0
purposes = ["review"]
"""


@pytest.mark.long
@pytest.mark.kafka
@pytest.mark.parametrize(("consents", "permitted"), [(True, True), (True, False), (False, True)])
def test_an_excerpt_is_exactly_what_is_permitted_and_needs_consent(
    broker, admin, namespace, tmp_path, consents, permitted
):
    recorded(tmp_path)
    table = pq.read_table(tmp_path / "recordings" / f"{DEVICE}.parquet")
    first = int(30 * RATE_HZ)
    start = table["time"][first].as_py()
    text = (
        profile_text(('name = "vibration"\n', 'name = "vibration"\nleaves_device = "on_request"\n'))
        + EXCERPTS
    )
    with UpdateService(tmp_path / "cloud") as service:
        running = process(tmp_path, broker, namespace, text, pace="real", speed="5", update_poll_s="1")
        if consents:
            ConsentFile(running.folder, DEVICE).change(datetime.now(UTC), given=True)
        service.join(running.join_dir, DEVICE)
        signed = People(tmp_path / "cloud", service.settings).permit(
            device_id=DEVICE, profile="machine_demo", start=start, seconds=5
        )
        service.permits = [signed.to_bytes()] if permitted else []
        running.start()
        assert running.child.wait(120)
        left = what_left(running, tmp_path, admin, namespace)
        left.add_calls(service.requests)
    if not (consents and permitted):
        assert left.runs() == {}
        assert {o.refusal for o in service.outcomes} == ({"no_consent"} if permitted else set())
        return
    assert {o.state for o in service.outcomes} == {"taken"}
    assert left.runs().keys() == {"excerpt.v1 vibration"}
    sent = np.concatenate([values for origin, values in left.columns if origin == "excerpt.v1 vibration"])
    wanted = table["vibration"].to_numpy()[first : first + int(5 * RATE_HZ) + 1]
    assert sent.astype(np.float32).tolist() == wanted.tolist()


@pytest.mark.kafka
def test_no_feature_of_a_channel_that_never_leaves_does(broker, admin, namespace, tmp_path):
    n = int(SECONDS * RATE_HZ)
    sound = np.random.default_rng(3).standard_gamma(2.0, n).astype(np.float32) * np.float32(SCALE)
    recorded(tmp_path, microphone=marked(sound))
    kinds = json.dumps(sorted(set(FEATURE_KINDS) - SAMPLES_THEMSELVES))
    text = profile_text(
        ('name = "machine_demo"\ndescription', 'name = "listening"\ndescription'),
        ('[model]\nname = "machine"', '[model]\nname = "robust"'),
        (
            'kinds = ["rms", "peak", "crest", "kurtosis", "band_low", "band_mid", "band_high"]',
            f"kinds = {kinds}",
        ),
        (
            "\n[features]\n",
            '\n[[channels]]\nname = "microphone"\nunit = "Pa"\nmin = -1e30\nmax = 1e30\n'
            'leaves_device = "never"\nrequired = true\n\n[features]\n',
        ),
    )
    running = process(tmp_path, broker, namespace, text, pace="flat_out")
    running.start()
    assert running.child.wait(90)
    assert running.child.exit_code == 0
    left = what_left(running, tmp_path, admin, namespace)
    assert left.runs() == {}
    windows = sound.astype(np.float64).reshape(-1, 512)
    spread = windows - windows.mean(axis=1, keepdims=True)
    deviation = spread.std(axis=1)
    unitless = np.concatenate(
        [np.abs(spread).max(axis=1) / deviation, (spread**4).mean(axis=1) / deviation**4]
    )
    for origin, numbers in left.numbers():
        with np.errstate(over="ignore", invalid="ignore"):
            large = np.abs(numbers[np.isfinite(numbers)])
        assert not ((large > SCALE / 1e3) & (large < SCALE * 1e3)).any(), origin
        near = np.abs(numbers[:, None] - unitless[None, :]) < 1e-5 * unitless
        # By chance some other number lies as near; those of one channel would all do.
        assert near.any(axis=0).sum() < len(windows) / 4, origin


def learnt(state: str) -> dict[str, float]:
    """Every number that a device has learnt of its wearer, by what it is."""
    calibration = json.loads(state)["function"]["state"]["calibration"]
    found = {}
    for kind in ("own", "baselines"):
        for feature, numbers in calibration[kind].items():
            found |= {f"{kind} {feature} {k}": n for k, n in enumerate(numbers)}
    return {name: n for name, n in found.items() if n != round(n)}  # counts of windows are in the books


def leavings_of(rig: WornRig, status: object, log: str) -> Leavings:
    """Messages as they are sealed, decoded; what the status file says of the function; the log."""
    left = Leavings()
    ids = [*rig.seal(), *rig.seal(), *rig.seal_statements()]
    left.add_sealed([rig.sealed[k] for k in ids], rig.profile)
    left.raw += [("status.json", json.dumps(status).encode()), ("log", log.encode())]
    return left


def test_what_a_device_has_learnt_of_its_wearer_never_leaves(tmp_path, caplog):
    """In no message, no status and no log line: rows name it by a hash under the device's secret."""
    rig = WornRig(tmp_path)
    pulse = np.random.default_rng(4)
    for _ in range(5):
        rig.sense(pulse.normal(52.3, 2.7, 40))
        rig.sense(pulse.normal(131.7, 9.1, 20), motion=9.0)
    rig.sense([74.0] * 4)  # an alarm of the own baseline
    device = rig.devices["d-1"]
    values = learnt(device.take_update().state)
    assert len(values) == 5
    rig.sense([52.0])
    rig.flush()
    left = leavings_of(rig, device.function_status, caplog.text)
    telemetry = {o for o, _ in left.columns if o.startswith("telemetry.v1")}
    assert {"telemetry.v1", "summary.v1", "books.v1", "status.json"} <= left.origins()
    assert any("heart_rate_mean" in o for o in telemetry)
    assert left.told(values) == set()
    shown = {f"planted {k}": v for k, v in enumerate(values.values())}
    left.raw.append(("planted", json.dumps(list(values.values())).encode()))
    assert len(left.told(shown)) == len(shown)  # they would be found


@pytest.mark.parametrize(
    "written",
    [
        lambda samples: b"x" + samples.tobytes(),
        lambda samples: b"xyz" + samples.astype("<f8").tobytes(),
        lambda samples: json.dumps({"window": samples.tolist()}).encode(),
        lambda samples: " | ".join(f"{s:.9g}" for s in samples).encode(),
        lambda samples: struct.pack("<I4f", 7, *samples[:4]) + b"tail",
    ],
)
def test_samples_are_found_however_they_are_written(written):
    samples = marked(np.random.default_rng(1).normal(0, 3, 40).astype(np.float32))
    assert run_in_bytes(written(samples)) >= 4
    assert longest_run(samples.astype(np.float64)) == 40


def test_what_is_computed_from_samples_is_not_taken_for_them():
    samples = marked(np.random.default_rng(2).normal(0, 3, (400, 64)).astype(np.float32))
    features = np.column_stack([samples.mean(axis=1), samples.std(axis=1), (samples**2).mean(axis=1)])
    assert longest_run(features.ravel()) < 3
    assert run_in_bytes(features.astype(np.float32).tobytes()) < 3
