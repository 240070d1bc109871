"""Runs a recording through the whole pipeline, as a device would, until every row can be queried."""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_store import connect
from feature_store.lake import Lake
from feature_store.process_lock import if_free
from infra.audit import AuditScope, Books, count_spools, take_books
from infra.kafka.kafka_admin import KafkaAdmin
from infra.line_watch import LineWatcher, SentSoFar, read_meters
from infra.printing import count
from infra.reading.canonical import write_canonical
from infra.reading.decision_record import DecisionRecord
from infra.reading.device_column import ONE, ascii_id, device_ids
from infra.reading.file_set import stem
from infra.reading.reading_options import ReadingOptions
from infra.reading.recording_reader import ReadRecording, read_recording
from infra.reading.replay_wishes import replay_wishes
from infra.replay_checks import Remaining, refuse_other_units, source_counts, with_rate_doubt
from infra.replay_history import ReplayHistory, content_digest
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from infra.stack.running import RunningStack
from infra.stack.stack_file import TroubleWatch, stack_troubles
from schemas.absent_file import absent
from schemas.errors import NoSuchRecordingError, SourceError, SpoolError, StackError
from schemas.instants import utc_now
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.tables import telemetry_table_name

_POLL_S = 0.5
_FIRST_POLL_S = 0.05
"""Until the starts are known, so that what they send is held back before it lands."""
_STALL_S = 120.0
"""Seconds without any progress after which the wait ends with an error."""
_REPORT_EVERY_S = 5.0


_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


@dataclass(frozen=True)
class ReplayRequest:
    """What to replay.

    Attributes:
        recordings: Files of measurements, or a folder of them.
        profile: Name of a shipped profile, or path of a TOML file.
        device: Id of the device that the recording stands for; where a column names several, what their ids
            begin with.
        speed: In multiples of real time; None: as fast as possible.
        options: What a person says about the files.
        replaces: Whether earlier rows of the same recording, or over the same time, no longer count.
        force: Whether to go on in spite of what is doubtful.
        known: The profile itself, where no file holds it.
    """

    recordings: tuple[Path, ...]
    profile: str
    device: str = ""
    speed: float | None = None
    options: ReadingOptions = field(default_factory=ReadingOptions)
    replaces: bool = False
    force: bool = False
    known: Profile | None = None

    @property
    def device_id(self) -> str:
        """The device's id; by default the first file's name."""
        return self.device or ascii_id(stem(self.recordings[0]))

    def check(self) -> Profile:
        """The profile; refuses what can be refused before anything is read.

        Raises:
            SourceError: There is no such recording, or the device's id is not allowed.
            ProfileError: No such profile, or an invalid one.
        """
        for recording in self.recordings:
            if not recording.exists():
                raise NoSuchRecordingError(f"{recording}: {absent(recording)}")
        if not _DEVICE.fullmatch(self.device_id):
            raise SourceError(
                f"--device {self.device}: an id is made of letters, digits and . _ : - of ASCII, at most 64, "
                "and begins with a letter or digit"
            )
        return self.known or find_profile(self.profile)

    def read(self) -> RequestedRecording:
        """Read the files as profile and options say.

        Raises:
            SourceError: They cannot be read.
            ProfileError: No such profile, or an invalid one.
        """
        profile = self.check()
        wishes = replay_wishes(profile, self.options, starts_now=self.speed is not None and self.speed <= 1)
        read = read_recording(self.recordings, wishes, utc_now())
        read = replace(read, record=with_rate_doubt(read.record, profile.sampling.rate_hz))
        names = list(read.devices)
        ids = {"": self.device_id}
        if wishes.device_column not in ("", ONE):
            ids = device_ids(names, f"{self.device}-" if self.device else "")
        return RequestedRecording(profile, read, ids, content_digest(self.recordings))


@dataclass(frozen=True)
class RequestedRecording:
    """A recording that was read, ready to be replayed.

    Attributes:
        ids: Device id by the name in the file.
        content: Digest of what the files hold.
    """

    profile: Profile
    read: ReadRecording
    ids: Mapping[str, str]
    content: str


@dataclass(frozen=True)
class ReplayResult:
    """The outcome of a replay, stage by stage.

    Attributes:
        reading: What was decided about the files.
        source: What reader and source read and refused, by name.
        meters: Counters of the edge process.
        alarms: Alarms in the lake, as (event time, action, score).
        seconds: From start to queryable.
    """

    devices: tuple[str, ...]
    table: str
    reading: DecisionRecord
    source: Mapping[str, int]
    meters: Mapping[str, int]
    books: Books
    alarms: list[tuple[datetime, str, float | None]]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The keys of `edgeloop replay --json`."""
        return {
            "device": self.devices[0],
            "devices": list(self.devices),
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
            "reading": self.reading.to_json(),
        }


def replay(
    stack: RunningStack, request: ReplayRequest, wanted: RequestedRecording, progress: Callable[[str], None]
) -> ReplayResult:
    """Replay a recording, and return once everything that it sensed can be queried.

    Raises:
        RepeatedRecordingError: It was replayed before.
        ProfileError: A channel is known in another unit.
        SourceError: The edge process cannot read what was written for it.
        StackError: The line made no progress for two minutes, or another replay of a device runs.
    """
    devices = tuple(wanted.ids[name] for name in wanted.read.devices)
    with alone(stack.settings.state_dir / "recordings", devices):
        return _replay(stack, request, wanted, devices, progress)


@contextmanager
def alone(folder: Path, devices: Sequence[str]) -> Iterator[None]:
    """Hold these devices: of two replays at once neither would know that it repeats or replaces the other.

    Raises:
        StackError: Another process replays one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for device in sorted(set(devices)):
            if not held.enter_context(if_free(folder / f"{device}.lock")):
                raise StackError(
                    f"another replay of device {device} runs: nothing was sent; wait for its end"
                )
        yield


def _replay(
    stack: RunningStack,
    request: ReplayRequest,
    wanted: RequestedRecording,
    devices: tuple[str, ...],
    progress: Callable[[str], None],
) -> ReplayResult:
    profile = wanted.profile
    began, since = time.monotonic(), datetime.now(UTC)
    lake = Lake.open(stack.lake_root)
    name = f"replay-{uuid.uuid4().hex[:8]}"
    folder = stack.settings.state_dir / "recordings" / name
    edge = _edge(stack, request, name, devices, folder)
    refuse_other_units(lake, profile)
    history = ReplayHistory(lake, profile.name, wanted.content, request.recordings, wanted.ids, wanted.read)
    history.check(replaces=request.replaces, force=request.force)
    edge.register(lake, profile)
    if history.replaced:
        earlier = count(len(history.replaced), "earlier start")
        progress(f"until every new row can be queried, {earlier} of these devices still count")
        progress("note: drift verdicts on what is replaced stand, and no window is judged twice")
    try:
        write_canonical(wanted.read, profile, wanted.ids, folder)
        edge.start()
        watcher = LineWatcher(lake, KafkaAdmin(stack.bootstrap_servers), stack.namespace, [edge], since)
        troubles = TroubleWatch(stack.settings.state_dir)
        _until_queryable(edge, watcher, history, Remaining(wanted.read.record.used), troubles, progress)
        history.complete(edge.spool)
    finally:
        edge.stop()
        shutil.rmtree(folder, ignore_errors=True)
    scope = AuditScope.of([edge.spool], since)
    books = take_books(scope, stack.bootstrap_servers, stack.namespace, stack.lake_root)
    with closing(connect(stack.lake_root, comments=False)) as connection:
        query = (
            "SELECT event_time, action, score FROM alerts"
            " WHERE list_contains($1, device_id) AND known_at >= $2 ORDER BY 1"
        )
        alarms = connection.execute(query, [list(devices), since]).fetchall()
    return ReplayResult(
        devices=devices,
        table=telemetry_table_name(profile.name),
        reading=wanted.read.record,
        source=source_counts(edge.status().get("source", {}), wanted.read.record),
        meters=read_meters(edge),
        books=books,
        alarms=[(at, action, score) for at, action, score in alarms],
        seconds=time.monotonic() - began,
    )


def _edge(
    stack: RunningStack, request: ReplayRequest, name: str, devices: tuple[str, ...], folder: Path
) -> EdgeProcess:
    pace = {"pace": "flat_out"} if request.speed is None else {"pace": "real", "speed": str(request.speed)}
    profile = Path(request.profile)
    spec = EdgeSpec(
        name=name,
        profile=str(profile.absolute()) if profile.is_file() else request.profile,
        devices=devices,
        bootstrap_servers=stack.bootstrap_servers,
        namespace=stack.namespace,
        site="replay",
        hardware="recording",
        options={"source": "replay", "recording": str(folder.absolute()), **pace},
    )
    return EdgeProcess(spec, stack.settings.state_dir / "edge", stack.settings.logs_dir)


def _until_queryable(
    edge: EdgeProcess,
    watcher: LineWatcher,
    history: ReplayHistory,
    remaining: Remaining,
    troubles: TroubleWatch,
    progress: Callable[[str], None],
) -> None:
    """Wait until everything that the edge process has sent can be queried, whatever others send meanwhile."""
    moved_at, before, reported_at = time.monotonic(), "", time.monotonic()
    sent: SentSoFar | None = None
    while True:
        code = edge.child.exit_code
        if code not in (None, 0):
            raise SourceError(_last_error(edge))
        for line in troubles.news():
            progress(f"problem: {line}")
        known = history.note(edge.spool)
        if code == 0 and sent is None:
            sent = watcher.sent()
        behind = None if sent is None else watcher.behind(sent)
        if behind == 0:
            return
        total = _spooled(edge)
        read = edge.status().get("source", {}).get("rows", 0)
        now, state = time.monotonic(), json.dumps([total, read, behind])
        if state != before:
            moved_at, before = now, state
        elif now - moved_at > _STALL_S:
            why = "; ".join(stack_troubles(troubles.state_dir)) or "see `edgeloop status` and its logs"
            raise StackError(f"nothing has moved for {_STALL_S:.0f} s: {why}")
        if now - reported_at > _REPORT_EVERY_S:
            reported_at = now
            sensed, acked = (count(n) for n in total)
            progress(f"sensed {sensed}  acked {acked}  {remaining.words(read, now)}")
        time.sleep(_POLL_S if known else _FIRST_POLL_S)


def _spooled(edge: EdgeProcess) -> tuple[int, int]:
    """Rows sensed, and rows that the broker has acknowledged."""
    try:
        total = count_spools([edge.spool])
    except SpoolError:  # the process has not made it yet
        return 0, 0
    return total.sensed, total.acked


def _last_error(edge: EdgeProcess) -> str:
    lines = [line for line in edge.child.log_tail(20) if line.strip()]
    return lines[-1] if lines else f"the edge process ended; see {edge.child.log_path}"
