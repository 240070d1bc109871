"""Judges the system after a fault by evidence alone, against numbered invariants."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import pyarrow as pa

from schemas.profile_file import find_profile
from schemas.row_schemas import telemetry_rows
from tests.faults.evidence import (
    Comparison,
    LakeEvidence,
    LogEvidence,
    compare,
    read_devices,
    read_lake,
    read_spool,
    wire_schemas,
)
from tests.faults.fault_kinds import Allowance
from tests.faults.fault_rig import PROFILE, FaultRig

INVARIANTS = {
    1: "A row that the broker acknowledged is in the log.",
    2: "A row in the log is queryable, or its message is in the quarantine.",
    3: "No row is queryable twice.",
    4: "No row is queryable that no device sent, or with other values than it was sent with.",
    5: "On each device sensed = acked + pending + filtered + evicted + refused.",
    6: "After the fault every process runs, and new rows of every device become queryable.",
    7: "Devices go on deciding while a fault of network, disk or cloud lasts.",
    8: "Commands answer; none ends with a traceback.",
    9: "Every device runs a whole set of models, and only one that it may run.",
    10: "Every rollout ends.",
}
"""What must hold after every fault."""
RECOVER_S = 120.0
_POLL_S = 0.5


@dataclass
class Finding:
    """What the checker found after one run.

    Attributes:
        lost: Rows of invariants 1 and 2.
        twice: Rows of invariant 3.
        stuck: Parts that did not come back (6, 10), and log rows that no worker has reached.
        wrong: Violations of the other invariants.
        recovered_s: Seconds from the end of the fault until everything was as before.
        notes: One line for each violation: its invariant's number, and what was seen.
    """

    lost: int = 0
    twice: int = 0
    stuck: int = 0
    wrong: int = 0
    recovered_s: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether no invariant was violated."""
        return not self.notes

    def violate(self, invariant: int, kind: str, n: int, what: str) -> None:
        """Count n violations of an invariant."""
        setattr(self, kind, getattr(self, kind) + n)
        self.notes.append(f"({invariant}) {what}")


class Checker:
    """Reads the evidence of one rig, run after run.

    Args:
        rig: The system.
        profile_schema: Arrow schema of its telemetry rows.
    """

    def __init__(self, rig: FaultRig, log: LogEvidence) -> None:
        self._rig = rig
        self.log = log
        self._forgiven: set[str] = set()
        self._spools: dict[str, frozenset[str]] = {}  # ids by edge process: rows were acked under any of them

    @classmethod
    def of(cls, rig: FaultRig) -> Checker:
        """A checker of this rig's log."""
        return cls(rig, LogEvidence(rig.broker, schemas=wire_schemas(telemetry_rows(find_profile(PROFILE)))))

    def await_flow(self, timeout_s: float = RECOVER_S) -> str:
        """Wait until every process runs and a new row of every device is queryable; says what is missing."""
        log_end = None
        complaint = ""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            complaint = self._down()
            if not complaint:
                try:
                    log_end = log_end if log_end is not None else self._ends()
                    complaint = self._silent(log_end)
                except AssertionError as exc:
                    complaint = str(exc)
            if not complaint:
                return ""
            time.sleep(_POLL_S)
        return complaint

    def check(self, allowed: Allowance, timeout_s: float = RECOVER_S) -> Finding:
        """Wait for recovery, then check every invariant."""
        found, lifted = Finding(), time.monotonic()
        if complaint := self.await_flow(timeout_s):
            found.violate(6, "stuck", 1, complaint)
        found.recovered_s = time.monotonic() - lifted
        self._check_spools(found, allowed)
        self._check_lake(found, allowed)
        self._check_commands(found)
        self._check_devices(found, allowed)
        return found

    # Invariant 6

    def _down(self) -> str:
        rig = self._rig
        alive = rig.processes()
        for entry in rig.stack()["processes"]:
            if entry["failed"]:
                return f"{entry['name']} was given up: {entry['failed']}"
            if entry["name"] not in alive:
                return f"{entry['name']} is down"
        for name, edge in rig.edges.items():
            if edge.child.exit_code is not None:
                return f"edge {name} ended with {edge.child.exit_code}: {' | '.join(edge.child.log_tail(2))}"
        return ""

    def _ends(self) -> dict[int, int]:
        self.log.servers = self._rig.broker
        return self.log.read_to_end()

    def _silent(self, ends: dict[int, int]) -> str:
        """Devices without a queryable row that was appended after ``ends``."""
        rows = read_lake(self._rig.lake_root).rows
        fresh = set()
        for device, partition, offset in zip(
            *(rows[c].to_pylist() for c in ("device_id", "_partition", "_offset")), strict=True
        ):
            if offset >= ends.get(partition, 0):
                fresh.add(device)
        wanted = {d for e in self._rig.edges.values() for d in e.spec.devices}
        silent = sorted(wanted - fresh)
        return f"no new row of {', '.join(silent)} is queryable" if silent else ""

    # Invariants 1 to 5

    def _check_spools(self, found: Finding, allowed: Allowance) -> None:
        for name, edge in self._rig.edges.items():
            spool = read_spool(edge.spool)
            if spool is None:
                found.violate(5, "wrong", 1, f"the spool of {name} cannot be read")
                continue
            self._ends()
            ids = self._spools[name] = self._spools.get(name, frozenset()) | {spool.spool_id, *spool.earlier}
            sent = sum(self.log.acked_by_spool.get(spool_id, 0) for spool_id in ids)
            acked = spool.counts["acked"]
            if acked > sent:
                found.violate(1, "lost", acked - sent, f"{name}: {acked} rows acked, {sent} in the log")
            if name in allowed.books:
                self._forgiven.add(spool.spool_id)
            if not spool.balances and spool.spool_id not in self._forgiven:
                found.violate(5, "wrong", 1, f"{name}: {spool.counts}")

    def _check_lake(self, found: Finding, allowed: Allowance) -> None:
        self._ends()
        result, lake = self._settled()
        if result.missing and not (allowed.named and lake.damaged):
            passed = any(self._passed(p, o) for p, o in result.places)
            what = f"{result.missing} rows of the log are not queryable, such as {result.places[:2]}"
            found.violate(2, "lost" if passed else "stuck", result.missing, what)
        if result.twice:
            found.violate(3, "twice", result.twice, f"{result.twice} rows are queryable twice")
        if result.foreign or result.differing:
            what = f"{result.foreign} rows that nobody sent, {result.differing} rows with other values"
            found.violate(4, "wrong", result.foreign + result.differing, what)

    def _settled(self, timeout_s: float = 30.0) -> tuple[Comparison, LakeEvidence]:
        """Log against lake, once the lake has caught up with what the log held when this began."""
        pending = Comparison(0, 0, 0, 0)
        deadline = time.monotonic() + timeout_s
        sent = pa.concat_tables(self.log.rows) if self.log.rows else None
        while True:
            lake = read_lake(self._rig.lake_root)
            pending = compare(sent, lake)
            if not pending.missing or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        self._ends()  # after the lake was read: it can hold nothing that the log lacks
        whole = compare(pa.concat_tables(self.log.rows), lake) if self.log.rows else pending
        return replace(whole, missing=pending.missing, places=pending.places), lake

    def _passed(self, partition: int, offset: int) -> bool:
        """Whether a later row of the partition is queryable: then this one will never be."""
        rows = read_lake(self._rig.lake_root).rows
        return any(
            p == partition and o > offset
            for p, o in zip(rows["_partition"].to_pylist(), rows["_offset"].to_pylist(), strict=True)
        )

    # Invariants 8 and 9

    def _check_commands(self, found: Finding) -> None:
        for command in (("status",), ("sql", "SELECT count(*) FROM telemetry")):
            done = self._rig.command(*command)
            if done.returncode or "Traceback" in done.stderr + done.stdout:
                last = (done.stderr.strip().splitlines() or [""])[-1]
                found.violate(8, "wrong", 1, f"`edgeloop {command[0]}` ended with {done.returncode}: {last}")

    def _check_devices(self, found: Finding, allowed: Allowance) -> None:
        for edge in self._rig.edges.values():
            for device in read_devices(edge.folder):
                if not device.whole:
                    found.violate(9, "wrong", 1, f"{device.device} has no whole set of {device.version}")
                if allowed.versions and device.version not in allowed.versions:
                    found.violate(
                        9, "wrong", 1, f"{device.device} runs {device.version or 'the factory set'}"
                    )
