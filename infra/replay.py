"""Runs a recording through the whole pipeline, as a device would, until every row can be queried."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_store import connect
from feature_store.lake import Lake
from infra.audit import AuditScope, Books, take_books
from infra.kafka.kafka_admin import KafkaAdmin
from infra.line_watch import LineWatcher, read_meters
from infra.printing import count
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from infra.stack.running import RunningStack
from infra.stack.stack_file import TroubleWatch, stack_troubles
from schemas.errors import SourceError, StackError
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.tables import telemetry_table_name

_POLL_S = 0.25
_STALL_S = 120.0
"""Seconds without any progress after which the wait ends with an error."""
_REPORT_EVERY_S = 5.0


@dataclass(frozen=True)
class ReplayRequest:
    """What to replay.

    Attributes:
        recording: CSV or Parquet file.
        profile: Name of a shipped profile, or path of a TOML file.
        device: Id of the device that the recording stands for.
        speed: In multiples of real time; None: as fast as possible.
    """

    recording: Path
    profile: str
    device: str = ""
    speed: float | None = None

    @property
    def device_id(self) -> str:
        """The device's id; by default the file's name."""
        kept = "".join(c if c.isalnum() or c in "_.-" else "-" for c in self.recording.stem)
        return self.device or kept.strip("-_.")[:64] or "recording"

    def check(self) -> Profile:
        """The profile; refuses what can be refused before anything starts.

        Raises:
            SourceError: There is no such recording.
            ProfileError: No such profile, or an invalid one.
        """
        if not self.recording.is_file():
            raise SourceError(f"{self.recording}: no such file")
        return find_profile(self.profile)


@dataclass(frozen=True)
class ReplayResult:
    """The outcome of a replay, stage by stage.

    Attributes:
        source: What the source read and refused, by name.
        meters: Counters of the edge process.
        alarms: Alarms in the lake, as (event time, action, score).
        seconds: From start to queryable.
    """

    device: str
    table: str
    source: Mapping[str, int]
    meters: Mapping[str, int]
    books: Books
    alarms: list[tuple[datetime, str, float | None]]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The keys of `edgeloop replay --json`."""
        return {
            "device": self.device,
            "table": self.table,
            "source": dict(self.source),
            "rows": self.books.rows(),
            "bytes": {
                "raw": self.meters.get("raw_bytes", 0),
                "features": self.meters.get("feature_bytes", 0),
                "sent": self.meters.get("bytes_sent", 0),
            },
            "alarms": [{"event_time": t.isoformat(), "action": a, "score": s} for t, a, s in self.alarms],
            "seconds": round(self.seconds, 3),
            "balanced": self.books.balances,
        }


def replay(stack: RunningStack, request: ReplayRequest, progress: Callable[[str], None]) -> ReplayResult:
    """Replay a recording, and return once everything that it sensed can be queried.

    Raises:
        SourceError: The recording cannot be read as the profile says.
        ProfileError: No such profile, or an invalid one.
        StackError: The line made no progress for two minutes.
    """
    profile = request.check()
    began, since = time.monotonic(), datetime.now(UTC)
    lake = Lake.open(stack.lake_root)
    edge = _edge(stack, request)
    edge.register(lake, profile)
    edge.start()
    try:
        watcher = LineWatcher(lake, KafkaAdmin(stack.bootstrap_servers), stack.namespace, [edge], since)
        _until_queryable(edge, watcher, TroubleWatch(stack.settings.state_dir), progress)
    finally:
        edge.stop()
    scope = AuditScope.of([edge.spool], since)
    books = take_books(scope, stack.bootstrap_servers, stack.namespace, stack.lake_root)
    with closing(connect(stack.lake_root)) as connection:
        query = (
            "SELECT event_time, action, score FROM alerts WHERE device_id = $1 AND known_at >= $2 ORDER BY 1"
        )
        alarms = connection.execute(query, [request.device_id, since]).fetchall()
    return ReplayResult(
        device=request.device_id,
        table=telemetry_table_name(profile.name),
        source=edge.status().get("source", {}),
        meters=read_meters(edge),
        books=books,
        alarms=[(at, action, score) for at, action, score in alarms],
        seconds=time.monotonic() - began,
    )


def _edge(stack: RunningStack, request: ReplayRequest) -> EdgeProcess:
    pace = {"pace": "flat_out"} if request.speed is None else {"pace": "real", "speed": str(request.speed)}
    profile = Path(request.profile)
    spec = EdgeSpec(
        name=f"replay-{uuid.uuid4().hex[:8]}",
        profile=str(profile.absolute()) if profile.is_file() else request.profile,
        devices=(request.device_id,),
        bootstrap_servers=stack.bootstrap_servers,
        namespace=stack.namespace,
        site="replay",
        hardware="recording",
        options={"source": "replay", "recording": str(request.recording.absolute()), **pace},
    )
    return EdgeProcess(spec, stack.settings.state_dir / "edge", stack.settings.logs_dir)


def _until_queryable(
    edge: EdgeProcess, watcher: LineWatcher, troubles: TroubleWatch, progress: Callable[[str], None]
) -> None:
    moved_at, before, reported_at = time.monotonic(), "", time.monotonic()
    while True:
        code = edge.child.exit_code
        if code not in (None, 0):
            raise SourceError(_last_error(edge))
        for line in troubles.news():
            progress(f"problem: {line}")
        view = watcher.poll()
        if code == 0 and watcher.lag() == 0:
            return
        now, state = time.monotonic(), json.dumps([view.meters, view.lag], sort_keys=True)
        if state != before:
            moved_at, before = now, state
        elif now - moved_at > _STALL_S:
            why = "; ".join(stack_troubles(troubles.state_dir)) or "see `edgeloop status` and its logs"
            raise StackError(f"nothing has moved for {_STALL_S:.0f} s: {why}")
        if now - reported_at > _REPORT_EVERY_S:
            reported_at = now
            sensed, acked = count(view.total.sensed), count(view.total.acked)
            progress(f"sensed {sensed}  acked {acked}  lag {count(view.lag, 'message')}")
        time.sleep(_POLL_S)


def _last_error(edge: EdgeProcess) -> str:
    lines = [line for line in edge.child.log_tail(20) if line.strip()]
    return lines[-1] if lines else f"the edge process ended; see {edge.child.log_path}"
