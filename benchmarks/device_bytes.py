"""Measures what a device-period of summaries and books weighs sent, and a window weighs stored.

Devices are real from the window on: filter, summaries, books, spool, sealer. In the place of sensors and
model are seeded numbers, so that hours pass in minutes; every message is acknowledged at once.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from benchmarks.workload import SEED, machine
from edge_producer.bin_edges import range_edges
from edge_producer.device import Device, Host
from edge_producer.device_identity import load_or_create
from edge_producer.metering import ENVELOPE_BYTES, Meters
from edge_producer.sending.pace import SendingPace
from edge_producer.sending.sealing import Sealer
from edge_producer.sensed_rows import StoredRow, wire_batch
from edge_producer.settings import EdgeSettings
from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool import Spool, SpoolAccess
from edge_producer.spool.spool_file import PAGE, WAL_PAGES
from edge_producer.spool.spool_messages import StoredMessage
from edge_producer.spool.spool_room import MARGIN_SHARE, SHARED_BYTES
from edge_producer.window import Floats, Samples, Window
from schemas.boot_ids import gateway_boot_ids, random_boot_id
from schemas.envelope import encode_rows
from schemas.profile import Profile
from schemas.row_batch import RowBatch
from schemas.row_schemas import TimeQuality, telemetry_layout
from schemas.topics import BOOKS, SUMMARY, TELEMETRY, Lane

START = datetime(2026, 3, 1, tzinfo=UTC)
DEVICES = 20
PERIODS = {5: 36, 60: 15, 600: 7}
"""Seconds of a period: how many of them."""
TURN_S = 10
"""Seconds that each update of a device holds; no byte depends on it."""
WEEK_WINDOWS = DEVICES * 7 * 86_400


class _SeededModel:
    """Features that drift a little, and scores with a fault now and then, of one device after the other."""

    version = "bearing-health-3"

    def __init__(self, profile: Profile) -> None:
        channels = {c.name: c for c in profile.channels}
        edges = {s.name: range_edges(channels[s.channel], s.kind) for s in profile.feature_specs()}
        self.featureset = profile.featureset
        self.bin_edges: Mapping[str, np.ndarray] = {**edges, "score": np.linspace(0.05, 0.95, 19)}
        self.width = len(profile.feature_names)
        self._rng = np.random.default_rng(SEED)
        self._fault_left: Counter[str] = Counter()
        self.scores: dict[str, list[float]] = {}

    def score(self, device_id: str, samples: Samples) -> tuple[Floats, float | None]:
        features = (2.0 + self._rng.normal(0, 0.1, self.width)).astype(np.float32)
        if self._rng.random() < 1 / 1200:
            self._fault_left[device_id] = 6
        usual = float(np.float32(self._rng.beta(2, 8) * 0.6))
        if self._fault_left[device_id]:
            self._fault_left[device_id] -= 1
            usual = float(np.float32(0.62 + 0.3 * self._rng.random()))
        self.scores.setdefault(device_id, []).append(usual)
        return features, usual


class _Fleet:
    """Devices of one process, their spool, and the bytes of what they seal.

    Args:
        gateway: Sends for the devices; empty: each for itself.
    """

    def __init__(self, folder: Path, period_s: float, devices: int, gateway: str = "") -> None:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "keys").mkdir(parents=True)
        longest = max(300.0, period_s)
        given = machine()
        self.profile = given.model_copy(
            update={
                "summaries": given.summaries.model_copy(update={"period_s": period_s}),
                "drift": given.drift.model_copy(update={"window_s": longest}),
            }
        )
        self.names = [f"machine-{k:02d}" for k in range(1, devices + 1)]
        senders = [*self.names, *filter(None, [gateway])]
        identities = {name: load_or_create(folder / "keys", name) for name in senders}
        self.now_s = 1.0e9
        access = SpoolAccess(gateway=gateway)
        self.spool = Spool.open(folder / "spool.db", self.names, self.profile, self.now_s, access)
        self.model = _SeededModel(self.profile)
        new_boot_id = gateway_boot_ids(gateway) if gateway else random_boot_id
        host = Host(lambda *_: None, _Unmetered(self.profile), lambda: self.now_s, new_boot_id)
        self.devices = [Device(identities[n], self.profile, self.model, host) for n in self.names]
        signers = {n: i.signer for n, i in identities.items()}
        self.sealer = Sealer(self.spool, signers, self.profile, gateway=gateway)
        settings = EdgeSettings(state_dir=folder, profile="machine", devices=tuple(self.names))
        self.pace = SendingPace.of(settings, self.profile)
        self.bytes: Counter[str] = Counter()
        self.stated: set[tuple[int, int]] = set()
        self.windows = 0
        self.alarms_sent = 0

    def sense(self, seconds: int) -> None:
        """One window of each device a second, and one update of each to the spool."""
        empty = np.zeros((1, 3), np.float32)
        for _ in range(seconds):
            for number, device in enumerate(self.devices):
                end = START + timedelta(seconds=self.windows // len(self.devices), milliseconds=37 * number)
                device.process(Window(device.device_id, empty, end, 0, TimeQuality.SYNCHRONISED, 0.0))
            self.windows += len(self.devices)
            self.now_s += 1.0
        with self.spool.transaction():
            for device in self.devices:
                self.spool.apply(device.take_update(), self.now_s)

    def send(self) -> None:
        """Seal what is due, rows of a tenth of a second at a time; all are acknowledged."""
        with self.spool.transaction():
            for devices in self.sealer.together([self.spool.devices[name] for name in self.names]):
                self._send_rows(devices)
                while sealed := self.sealer.summaries_of(devices):
                    self._take(sealed)
                self._state(devices)

    def _send_rows(self, devices: Sequence[int]) -> None:
        leaving: dict[int, dict[int, list[StoredRow]]] = defaultdict(lambda: defaultdict(list))
        for no in devices:
            for row in self.spool.rows.read(no, -1.0, float("inf"), 10**6):
                self._count_row(row)
                leaving[row.event_us // 100_000][no].append(row)
        for rows in leaving.values():
            self._take(self.sealer.rows_of(rows, Lane.LIVE))

    def _state(self, devices: Sequence[int]) -> None:
        books, pace = self.spool.books, self.pace
        due = books.devices_due(self.now_s, pace.interval_s, settled_only=False, gather_s=pace.gather_s)
        if set(devices) & set(due):
            lines = [
                line
                for no in devices
                for line in books.due(no, self.now_s, pace.interval_s, settled_only=False)
            ]
            self.stated |= {(one.device, one.line.period_us) for one in lines}
            self._take(self.sealer.books(lines, self.now_s))

    def _count_row(self, row: StoredRow) -> None:
        self.alarms_sent += (row.score or 0.0) >= (self.profile.filter.threshold or 1.0)

    def _take(self, sealed: Sequence[StoredMessage]) -> None:
        for stored in sealed:
            message = self.spool.messages.read(stored.id)
            if message is not None:
                self.bytes[message.topic] += message.size
        self.spool.messages.settle([s.id for s in sealed], "acked", self.now_s)

    def missed_alarms(self) -> float:
        """Share of the windows at or above the threshold whose row was not sent."""
        threshold = self.profile.filter.threshold or 1.0
        all_of_them = sum(score >= threshold for scores in self.model.scores.values() for score in scores)
        return 1.0 - self.alarms_sent / all_of_them if all_of_them else 0.0

    def close(self) -> None:
        """Close the spool."""
        self.spool.close()


class _Unmetered(Meters):
    """Seals no rows that are not sent, only to count their bytes."""

    def unfiltered_bytes(self, device_id: str, rows: object) -> int:
        return 0


class _Weight(NamedTuple):
    """Bytes of one kind of fleet.

    Attributes:
        summaries, books: Of a device-period.
        share: Of everything sent, of every feature row sealed at the same latency.
    """

    summaries: float
    books: float
    share: float
    missed: float

    @property
    def both(self) -> float:
        return self.summaries + self.books


def run(on: Stage) -> list[Measured]:
    """Measure what is sent at three periods, and what is stored; prints both tables."""
    found = []
    weights = {
        (period, kind): _weigh(on.folder / "bytes", period, count, devices, together)
        for period, count in _periods(on.effort.scale)
        for kind, devices, together in (
            ("lone", 1, False),
            ("process", DEVICES, False),
            ("together", DEVICES, True),
        )
    }
    rows = [
        [f"{period} s", kind, f"{w.summaries:.0f}", f"{w.books:.0f}", f"{w.both:.0f}", f"{w.share:.1%}"]
        for (period, kind), w in weights.items()
    ]
    head = ("period", "devices", "summaries", "books", "both, B/device-period", "of every feature row")
    print(table(head, rows), flush=True)
    for kind in ("lone", "process", "together"):
        of_kind = {period: w for (period, k), w in weights.items() if k == kind}
        beside = "; ".join(
            f"{period} s: summaries {w.summaries:.0f} + books {w.books:.0f}, with rows {w.share:.1%} of every"
            f" feature row at the same latency, {w.missed:.1%} of alarming windows not sent"
            for period, w in of_kind.items()
        )
        heaviest = max(w.both for w in of_kind.values())
        found.append(
            Measured(f"bytes/period-{kind}", "summaries and books, B a device-period, the heaviest of three"
                     " periods", (heaviest,), beside, "<= 700")
        )  # fmt: skip
    return [*found, _stored(on)]


def _periods(scale: float) -> Iterator[tuple[int, int]]:
    for period, count in PERIODS.items():
        yield period, max(round(count * min(scale * 3, 1.0)), 6)


def _weigh(folder: Path, period: int, count: int, devices: int, together: bool) -> _Weight:
    """What periods weigh that were sent while the devices ran; what waits at the end does not count."""
    fleet = _Fleet(folder, float(period), devices, "gateway-1" if together else "")
    turn = min(TURN_S, period)
    for _ in range(period * count // turn):
        fleet.sense(turn)
        fleet.send()
    summaries = fleet.bytes[SUMMARY.base] / (devices * (count - 1))
    books = fleet.bytes[BOOKS.base] / max(len(fleet.stated), 1)
    whole = _every_row(fleet, together) * period
    rows = fleet.bytes[TELEMETRY.base] / (devices * count)
    weight = _Weight(summaries, books, (rows + summaries + books) / whole, fleet.missed_alarms())
    fleet.close()
    return weight


def _every_row(fleet: _Fleet, together: bool) -> float:
    """Bytes of a window where all are sent at once: alone, or those of a tenth of a second together."""
    rng, layout = np.random.default_rng(SEED), telemetry_layout(fleet.profile)
    at_once = max(round(len(fleet.names) / 10), 1) if together else 1
    batches = []
    for number, name in enumerate(fleet.names[:at_once]):
        features = rng.normal(2.0, 0.1, fleet.model.width).astype(np.float32).tobytes()
        row = StoredRow(
            0, 0, int(rng.integers(2**53)), 1000 + number, 1_772_366_400_000_000, 10**15, 1, features,
            float(np.float32(rng.random())), "none", 1, 0.08, 0.08, fleet.model.version, 0.0,
        )  # fmt: skip
        batches.append(wire_batch(name, [row], layout))
    value, _ = encode_rows(RowBatch.concat(batches))
    return (len(value) + ENVELOPE_BYTES + len(fleet.names[0])) / at_once


def _stored(on: Stage) -> Measured:
    """Bytes on disk of a window of 20 devices offline at periods of a minute, before and after merging."""
    minutes = max(round(40 * min(on.effort.scale, 1.0)), 15)
    fleet = _Fleet(on.folder / "bytes", 60.0, DEVICES)
    used = []
    for part in (5, minutes):  # what a file has at its start does not grow
        for _ in range(part * 60 // TURN_S):
            fleet.sense(TURN_S)
        used.append((fleet.windows, fleet.spool.used_bytes))
    (first, before), (last, after) = used
    unmerged = (after - before) / (last - first)
    eviction, waiting = Eviction(fleet.spool, fleet.profile, 10**12), fleet.spool.summary_bytes
    count = fleet.spool.left()[1]
    with fleet.spool.transaction():
        while eviction.merge():
            pass
    left, kept = fleet.spool.left()[1], fleet.spool.summary_bytes
    merged = (fleet.spool.used_bytes - before) / (last - first)
    rows = fleet.spool.left()[0] / last
    fleet.close()
    allowed = 256 * 1024**2 - 2 * WAL_PAGES * PAGE - SHARED_BYTES
    room = allowed * (1 - MARGIN_SHARE) / WEEK_WINDOWS
    print(
        f"stored: {unmerged:.1f} B a window, {merged:.1f} merged ({rows:.1%} of rows kept, {count} summaries"
        f" of {waiting} B to {left} of {kept} B); a week of {DEVICES} devices in the default spool may take"
        f" {room:.1f}: {room / merged * 7:.1f} days",
        flush=True,
    )
    beside = (
        f"{unmerged:.1f} before merging; {rows:.1%} of the rows are kept; the default spool has room for"
        f" {room:.1f} B a window of {DEVICES} devices in a week: {room / merged * 7:.1f} days fit"
    )
    measure = "bytes on disk of a window, 20 devices, periods of 60 s, merged"
    return Measured("bytes/stored", measure, (merged,), beside, "<= 22", 1)
