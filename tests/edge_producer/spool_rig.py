"""A device and its spool on a settable clock, with no broker: tests decide what is sealed, acked, lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa

from edge_producer.decider import LocalDecision
from edge_producer.device import Device, Host
from edge_producer.device_identity import DeviceIdentity, load_or_create
from edge_producer.metering import Meters
from edge_producer.sending.sealing import Sealer
from edge_producer.sensed_rows import Row, wire_batch
from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool import DeviceBooks, Spool, SpoolAccess, read_books
from edge_producer.window import Floats, Samples, SourcePause, Window
from schemas.boot_ids import RANDOM_BITS, gateway_tag
from schemas.envelope import Envelope, SealedMessage, decode_rows, encode_rows, read_envelope, seal
from schemas.packed_schemas import packed_books_rows, packed_summary_rows
from schemas.profile import Profile
from schemas.profile_file import parse_profile
from schemas.row_schemas import (
    BOOKS_ROWS,
    SUMMARY_ROWS,
    Reason,
    TimeQuality,
    fingerprint,
    telemetry_layout_of_wire_1,
    telemetry_rows,
    telemetry_rows_of_wire_1,
)
from schemas.topics import Lane
from schemas.version_names import VersionHeader

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

PROFILE = """
name = "bench"
[sampling]
rate_hz = 1.0
window_samples = 1
hop_samples = 1
[[channels]]
name = "load"
unit = "1"
min = -1e9
max = 1e9
[features]
set = "bench"
[[features.compute]]
channel = "load"
kinds = ["last", "mean"]
[decision]
refractory_windows = 0  # each start is an alert: tests of spools want many
idle = "none"
fail_safe = "hold"
[[decision.rules]]
action = "inspect"
enter = 0.6
leave = 0.4
[[decision.rules]]
action = "stop"
enter = 0.9
leave = 0.5
after_windows = 2
hold_s = 10.0
[filter]
p = 0.3
p_min = 0.05
threshold = 0.8
burst_after = 2
pretrigger = 3
[summaries]
period_s = 10.0
[drift]
window_s = 60.0
"""


def bench_profile(**filter_policy: object) -> Profile:
    """The profile above, with other filter settings where given."""
    profile = parse_profile(PROFILE, "bench")
    policy = profile.filter.model_validate({**profile.filter.model_dump(), **filter_policy})
    return profile.model_copy(update={"filter": policy})


def rich_profile(**filter_policy: object) -> Profile:
    """The same, with sketches and moments."""
    profile = bench_profile(**filter_policy)
    more = {"sketches": True, "moments": True}
    return profile.model_copy(update={"summaries": profile.summaries.model_copy(update=more)})


class FirstSample:
    """A predictor: every feature is the first sample; so is the score, unless it is missing."""

    version = "bench-1"
    featureset = "bench@1"
    bin_edges: Mapping[str, np.ndarray] = {}

    def __init__(self, width: int = 2) -> None:
        self.width = width

    def score(self, device_id: str, samples: Samples) -> tuple[Floats, float | None]:
        value = float(samples[0, 0])
        features = np.full(self.width, value, dtype=np.float32)
        return features, None if np.isnan(value) else min(max(value, 0.0), 1.0)


class GivenWindows:
    """A source of given windows."""

    def __init__(self, items: Iterable[Window | SourcePause]) -> None:
        self._items = items
        self.counts: Mapping[str, int] = {}

    def windows(self) -> Iterable[Window | SourcePause]:
        return iter(self._items)


def window(value: float, k: int, device_id: str = "d-1", due_s: float = 0.0) -> Window:
    """The k-th window of a device, one a second."""
    samples = np.array([[value]], dtype=np.float32)
    end = START + timedelta(seconds=k)
    return Window(device_id, samples, end, k * 10**9, TimeQuality.SYNCHRONISED, due_s)


def row(seq: int, score: float | None = 0.0, value: float = 0.0, boot_id: int = 1) -> Row:
    """A row as a device hands it to its filter."""
    return Row(
        boot_id=boot_id,
        seq=seq,
        event_us=seq * 1_000_000,
        period_us=seq // 10 * 10_000_000,
        mono_ns=0,
        time_quality=1,
        features=np.full(2, value, dtype=np.float32),
        score=score,
        decision="none",
        model_version="m",
        sensed_s=float(seq),
    )


STEADY = LocalDecision("none", started=False, alert=False, fail_safe=False)


class SpoolRig:
    """One or more devices, their spool, and everything that ever was sealed or delivered."""

    def __init__(
        self,
        folder: Path,
        profile: Profile | None = None,
        devices: Sequence[str] = ("d-1",),
        gateway: str = "",
        **limits: Callable[[str], int],
    ) -> None:
        self.folder, self.gateway = folder, gateway
        self.profile = profile or bench_profile()
        self.names = tuple(devices)
        self.limits = limits
        self.version: VersionHeader | None = None
        self.now = 1_000.0
        self.k = 0
        self.sealed: dict[int, SealedMessage] = {}
        self.delivered: list[SealedMessage] = []
        self.actions: list[tuple[str, str]] = []
        self._boots = count(1)
        for name in devices:
            (folder / "keys").mkdir(parents=True, exist_ok=True)
            (folder / "keys" / f"{name}.secret").write_bytes(name.ljust(32).encode())
        self.open()

    @property
    def path(self) -> Path:
        return self.folder / "spool.db"

    def open(self) -> None:
        """Start, or start again: whatever was not committed is gone."""
        self.identities: dict[str, DeviceIdentity] = {
            n: load_or_create(self.folder / "keys", n) for n in (*self.names, *filter(None, [self.gateway]))
        }
        access = SpoolAccess(gateway=self.gateway)
        self.spool = Spool.open(self.path, self.names, self.profile, self.now, access)
        self.is_open = True
        signers = {name: identity.signer for name, identity in self.identities.items()}
        self.sealer = Sealer(self.spool, signers, self.profile, **self.limits, gateway=self.gateway)
        self._host = Host(
            on_action=lambda order: self.actions.append((order.device_id, order.action)),
            meters=Meters(self.profile),
            clock=lambda: self.now,
            new_boot_id=self._new_boot_id,
        )
        self._begin_boots()

    def _begin_boots(self) -> None:
        model, profile = FirstSample(len(self.profile.feature_names)), self.profile
        self.devices = {
            n: Device(self.identities[n], profile, model, self._host, self.spool.state(n), self.version)
            for n in self.names
        }

    def follow(self, profile: Profile, version: VersionHeader) -> None:
        """End the boots and begin new ones under another version, as the runner does between two windows."""
        self.flush()
        self.profile, self.version = profile, version
        self._begin_boots()

    def _new_boot_id(self) -> int:
        n = next(self._boots)
        return -1 - (gateway_tag(self.gateway) << RANDOM_BITS | n) if self.gateway else n

    def close(self) -> None:
        """Close the spool if it is open."""
        if self.is_open:
            self.spool.close()
        self.is_open = False

    def crash(self) -> None:
        """Lose everything that was not committed, and start again."""
        self.close()
        self.open()

    def sense(self, values: Iterable[float], device_id: str = "d-1") -> None:
        """Windows of one device, a second apart."""
        for value in values:
            self.devices[device_id].process(window(value, self.k, device_id))
            self.k += 1
            self.now += 1.0

    def commit(self) -> None:
        """Commit what all devices did."""
        with self.spool.transaction():
            for device in self.devices.values():
                self.spool.apply(device.take_update(), self.now)

    def flush(self) -> None:
        """Release what is held and close open periods; commit."""
        for device in self.devices.values():
            device.flush()
        self.commit()

    def seal(self, lane: Lane = Lane.LIVE, limit: int = 500, messages: int = 1) -> list[int]:
        """Seal waiting rows of every device in one turn, in messages of at most ``limit`` rows."""
        ids = []
        with self.spool.transaction(), self.sealer.turn():
            for no in [no for no in self.spool.names for _ in range(messages)]:
                rows = self.spool.rows.read(no, -1.0, float("inf"), limit)
                ids += [stored.id for stored in self.sealer.rows(no, lane, rows)]
        return self._remember(ids)

    def seal_statements(self) -> list[int]:
        """Seal summaries, and statements on every line of the books that changed."""
        ids = []
        with self.spool.transaction():
            for no in self.spool.names:
                ids += [stored.id for stored in self.sealer.summaries(no)]
                lines = self.spool.books.due(no, self.now, 0.0, settled_only=False)
                ids += [s.id for s in self.sealer.books(lines, self.now)] if lines else []
        return self._remember(ids)

    def settle(self, ids: Iterable[int], outcome: str = "acked") -> None:
        """The broker's answer on sealed messages."""
        ids = list(ids)
        self.delivered += [self.sealed[i] for i in ids] if outcome == "acked" else []
        with self.spool.transaction():
            self.spool.messages.settle(ids, outcome, self.now)

    def evict(self, max_bytes: int) -> None:
        """Make room as if the spool could hold so little."""
        with self.spool.transaction():
            Eviction(self.spool, self.profile, max_bytes).relieve(self.now)

    def books(self, device_id: str = "d-1") -> DeviceBooks:
        """Totals as an outside reader sees them."""
        return read_books(self.path)[device_id]

    def unsealed(self) -> list:
        """Rows of all devices that wait."""
        return [r for no in self.spool.names for r in self.spool.rows.read(no, -1.0, float("inf"), 10**6)]

    def rows_of(self, messages: Iterable[SealedMessage]) -> list[dict]:
        """Rows inside telemetry messages."""
        wires = (telemetry_rows(self.profile), telemetry_rows_of_wire_1(self.profile))
        return _rows(messages, wires, "telemetry.v1")

    def _remember(self, ids: list[int]) -> list[int]:
        self.sealed |= {i: self.spool.messages.read(i) for i in ids}
        return ids


def statements(messages: Iterable[SealedMessage]) -> list[dict]:
    """Lines inside books messages."""
    return _rows(messages, (BOOKS_ROWS, packed_books_rows()), "books.v1")


def summary_rows(messages: Iterable[SealedMessage], profile: Profile | None = None) -> list[dict]:
    """Rows inside summary messages."""
    return _rows(messages, (SUMMARY_ROWS, packed_summary_rows(profile or bench_profile())), "summary.v1")


def _rows(messages: Iterable[SealedMessage], schemas: Iterable[pa.Schema], topic: str) -> list[dict]:
    known, found = {fingerprint(schema): schema for schema in schemas}, []
    for message in messages:
        if message.topic == topic:
            envelope, _ = read_envelope(message.key, message.headers)
            found += decode_rows(message.value, envelope.raw_bytes, known[envelope.schema]).to_pylist()
    return found


def has(reasons: int, reason: Reason) -> bool:
    """Whether a bit is set."""
    return bool(reasons & reason)


def sealed_by_0_2_0(rig: SpoolRig) -> int:
    """Id of a message with all rows that wait, as release 0.2.0 would have sealed them."""
    rows, wire = rig.unsealed(), telemetry_layout_of_wire_1(rig.profile)
    value, raw_bytes = encode_rows(wire_batch("d-1", rows, wire))
    with rig.spool.transaction():
        rig.spool.rows.remove(rows)
        number = rig.spool.messages.next_no(1, Lane.LIVE)
        head = (
            wire.fingerprint,
            "bench",
            "d-1",
            rig.spool.spool_id,
            Lane.LIVE,
            number,
            len(rows),
            raw_bytes,
        )
        message = seal("telemetry.v1", Envelope(*head, b"", ""), value, rig.identities["d-1"].signer)
        books = Counter(row.book for row in rows)
        return rig.spool.messages.store(1, Lane.LIVE, number, message, books).id
