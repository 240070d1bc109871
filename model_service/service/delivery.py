"""The gRPC service `ModelDelivery`: hints, metadata, artifacts and reports, for devices only."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from model_service.fleet import permit_store
from model_service.fleet.device_reports import note_twin, record_report
from model_service.fleet.devices import device
from model_service.fleet.twin_reports import TwinReports
from model_service.rollout.report_retention import SLACK, forget_reports
from model_service.service.artifact_files import ArtifactFile, ArtifactFiles
from model_service.service.call_budgets import CallRate
from model_service.service.chunk_size import next_chunk
from model_service.service.door import DEVICES, AccessRule, ServiceCall
from model_service.service.refusals import BadFieldError
from model_service.service.stream_wakeup import StreamWakeup
from model_service.service.workers import WorkerThreads
from model_service.settings import ModelSettings
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import Release
from schemas.errors import ClonedIdentityError, RetryableError
from schemas.offending_keys import describe
from schemas.proto.delivery_pb2 import (
    ArtifactChunk,
    ClaimPermitRequest,
    ClaimPermitResponse,
    FetchArtifactRequest,
    FetchMetadataRequest,
    FetchMetadataResponse,
    FetchPermitsRequest,
    FetchPermitsResponse,
    File,
    HandedPermit,
    Hint,
    Installed,
    ReportRequest,
    ReportResponse,
    WatchRequest,
)
from schemas.section import Name
from schemas.updates import Attack, ProfileOutcome, UpdateResult, UpdateState

log = logging.getLogger(__name__)

MAX_DETAIL = 4096
MAX_INSTALLED = 16
MAX_OUTCOMES = 64
MAX_REPORT_BYTES = 16 * 1024
"""Reports are stored for ever, and no device has a reason to send a larger one."""
_STATES = frozenset(s.value for s in UpdateState)
_RESULTS = frozenset(r.value for r in UpdateResult) | {""}
_ATTACKS = frozenset(a.value for a in Attack) | {""}
_OUTCOMES = frozenset(o.value for o in ProfileOutcome) | {""}
WATCHES = 4
"""Watch streams of one device; a further one ends the oldest, which may be one that lost its network."""
_DATA_FIELD = bytes([ArtifactChunk.DATA_FIELD_NUMBER << 3 | 2])
"""Key of the chunk's bytes on the wire: the field, and that a length follows."""
_LEAVE_S = 0.05
"""How long before its deadline a watch returns, so that it ends normally."""


class _Set(Release):
    """A family and its release, as a device reports it."""

    family: Name


_SET = TypeAdapter(_Set)


def rules(settings: ModelSettings) -> dict[str, AccessRule]:
    """Access rules by method: devices only; a watch may last as long as a connection."""
    return {
        "Watch": AccessRule(DEVICES, settings.connection_age_s, CallRate(burst=30, per_s=0.5)),
        "FetchMetadata": AccessRule(DEVICES, 20.0, CallRate(burst=120, per_s=2.0)),
        "FetchArtifact": AccessRule(DEVICES, 900.0, CallRate(burst=60, per_s=1.0)),
        # A queue of reports that waited for weeks, and the few of each attempt after it.
        "Report": AccessRule(DEVICES, 20.0, CallRate(burst=300, per_s=2.0)),
        "FetchPermits": AccessRule(DEVICES, 20.0, CallRate(burst=120, per_s=2.0)),
        "ClaimPermit": AccessRule(DEVICES, 20.0, CallRate(burst=120, per_s=2.0)),
    }


class ModelDelivery:
    """Handlers of the service. The door has checked that each device acts for itself.

    Args:
        settings: Folders, size of a chunk.
        workers: Threads for registry and files.
        wakeup: Wakes the watch streams.
        clock: UTC seconds.
        monotonic: Seconds.

    Attributes:
        watching: Number of open watch streams by device.
        twins: Counts reports that were refused because another one has their number.
    """

    def __init__(
        self,
        settings: ModelSettings,
        workers: WorkerThreads,
        wakeup: StreamWakeup,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = TrustRepository(settings.repository, settings.proposals, settings.artifacts)
        self._artifacts = ArtifactFiles(settings.artifacts, settings.repository / "targets")
        self._chunk_bytes = settings.chunk_bytes
        self._workers, self._wakeup = workers, wakeup
        self._clock, self._monotonic = clock, monotonic
        self.watching: Counter[str] = Counter()
        self.twins = TwinReports()
        self._streams: dict[str, list[object]] = {}
        self._stored: Counter[str] = Counter()

    async def watch(self, request: WatchRequest, call: ServiceCall) -> AsyncGenerator[Hint, None]:
        """Hints: at once, with each change of the timestamp, and where a permit waits for the device."""
        name, sent = request.device_id, None
        with self._stream(name) as is_current:
            try:
                while is_current() and not self._wakeup.draining:
                    call.check()
                    now = self._wakeup.version, self._wakeup.waiting[name]
                    if now != sent:
                        sent = now
                        yield Hint(timestamp_version=now[0])
                        continue  # the version may have changed while the hint was sent
                    async with asyncio.timeout_at(call.until - _LEAVE_S):
                        await self._wakeup.wait()
            except TimeoutError:
                return  # the stream is as old as a connection may get; the device opens a new one

    @contextmanager
    def _stream(self, device_id: str) -> Iterator[Callable[[], bool]]:
        """Count a watch stream of the device; whether it may go on is asked after each wake."""
        own, mark = self._streams.setdefault(device_id, []), object()
        own.append(mark)
        self.watching[device_id] += 1
        if len(own) > WATCHES:
            del own[0]
            self._wakeup.wake()
        try:
            yield lambda: mark in own
        finally:
            self.watching -= Counter([device_id])
            if mark in own:
                own.remove(mark)
            if not own:
                self._streams.pop(device_id, None)

    async def fetch_metadata(
        self, request: FetchMetadataRequest, _call: ServiceCall
    ) -> FetchMetadataResponse:
        """All files that the device lacks, of one moment; channel documents of its own group only."""
        group = (await self._workers.read(lambda c: device(c, request.device_id)))["grp"]
        known = dict(request.versions), dict(request.documents)
        reply = await self._workers.in_thread(lambda: self._repository.reply(*known, group))
        return FetchMetadataResponse(
            metadata=[File(name=name, data=data) for name, data in reply.metadata],
            documents=[File(name=name, data=data) for name, data in reply.documents],
            server_time_ms=self._now_ms(),
        )

    async def fetch_artifact(
        self, request: FetchArtifactRequest, call: ServiceCall
    ) -> AsyncGenerator[bytes, None]:
        """The artifact's bytes from the offset on, as serialized chunks; none if the offset is its end."""
        file = await self._workers.in_thread(lambda: self._artifacts.open(request.sha256, request.offset))
        offset, size = request.offset, self._chunk_bytes
        try:
            while offset < file.size:
                call.check()
                read = partial(_read_chunk, file, offset, size)
                length, chunk = await self._workers.in_thread(read)
                if not length:
                    return
                began = self._monotonic()
                yield chunk
                size = next_chunk(size, self._monotonic() - began, self._chunk_bytes)
                offset += length
        finally:
            file.close()

    async def report(self, request: ReportRequest, _call: ServiceCall) -> ReportResponse:
        """Store a report of the device; a repeat changes nothing."""
        check_report(request)
        now = self._clock()
        try:
            if await self._workers.write(lambda c: record_report(c, request, now)):
                await self._forget(request.device_id)
        except ClonedIdentityError:
            self.twins.refused(request.device_id, self._monotonic())
            await self.record_twins()
            raise
        return ReportResponse(server_time_ms=self._now_ms())

    async def fetch_permits(self, request: FetchPermitsRequest, _call: ServiceCall) -> FetchPermitsResponse:
        """Take what became of permits, and hand out those that the device has not settled."""
        if len(request.outcomes) > MAX_OUTCOMES or request.consent_changes >= 2**31:
            raise BadFieldError("outcomes", f"at most {MAX_OUTCOMES} outcomes")
        for outcome in request.outcomes:
            if problem := permit_store.check_outcome(outcome):
                raise BadFieldError("outcomes", problem)
        name, now = request.device_id, self._clock()

        def work(connection: Connection) -> list[tuple[str, bytes]]:
            permit_store.note_consent(connection, name, request.consent_changes, now, given=request.consent)
            permit_store.take_outcomes(connection, name, request.outcomes, now)
            return permit_store.handed_to(connection, name, now)

        handed = await self._workers.write(work)
        permits = [HandedPermit(permit_id=i, signed=signed) for i, signed in handed]
        return FetchPermitsResponse(permits=permits, server_time_ms=self._now_ms())

    async def claim_permit(self, request: ClaimPermitRequest, _call: ServiceCall) -> ClaimPermitResponse:
        """Decide whether a device may follow a permit now."""
        name, permit_id, now = request.device_id, request.permit_id, self._clock()
        why = await self._workers.write(lambda c: permit_store.claim(c, name, permit_id, now))
        return ClaimPermitResponse(granted=not why, reason=why, server_time_ms=self._now_ms())

    async def record_twins(self, *, all_now: bool = False) -> None:
        """Record the refused reports of twins that are due, or all of them; call it now and then."""
        now = self._clock()
        if not (due := self.twins.due(self._monotonic(), all_now=all_now)):
            return

        def record(connection: Connection) -> None:
            for device_id, number in due.items():
                note_twin(connection, device_id, number, now)

        try:
            await self._workers.write(record)
        except RetryableError:
            self.twins.restore(due)
            raise

    async def _forget(self, device_id: str) -> None:
        """At a device's first report and now and then, delete those of its reports that nothing needs."""
        if self._stored[device_id] % SLACK == 0:
            await self._workers.write(lambda c: forget_reports(c, device_id))
        self._stored[device_id] += 1

    def _now_ms(self) -> int:
        return round(self._clock() * 1e3)


def _read_chunk(file: ArtifactFile, offset: int, size: int) -> tuple[int, bytes]:
    """Bytes of an artifact as a serialized message, and how many they are."""
    data = file.read(offset, size)
    return len(data), chunk_message(offset, data)


def chunk_message(offset: int, data: bytes) -> bytes:
    """An ``ArtifactChunk`` as protobuf writes it, with the data copied once instead of twice."""
    head = ArtifactChunk(offset=offset).SerializeToString()
    return b"".join((head, _DATA_FIELD, _varint(len(data)), data)) if data else head


def _varint(number: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*made, number))


def check_report(request: ReportRequest) -> None:
    """Check that the report can be stored.

    Raises:
        BadFieldError: A field has an impossible value.
    """
    for field, value, known in (
        ("state", request.state, _STATES),
        ("result", request.result, _RESULTS),
        ("attack", request.attack, _ATTACKS),
    ):
        if value not in known:
            raise BadFieldError(field, f"{value[:64]!r} is none of {', '.join(sorted(known - {''}))}")
    outcome = request.profile_state.outcome
    if outcome not in _OUTCOMES:
        raise BadFieldError("profile_state", f"{outcome[:64]!r} is none of {', '.join(sorted(_OUTCOMES))}")
    if max(request.profile_state.seq, request.profile_state.number) >= 2**53:
        raise BadFieldError("profile_state", "numbers are smaller")
    if request.report_no < 1 or request.report_no >= 2**63:
        raise BadFieldError("report_no", "counts from 1")
    if not 1 <= len(request.nonce) <= 64:
        raise BadFieldError("nonce", "1 to 64 characters")
    if len(request.detail) > MAX_DETAIL:
        raise BadFieldError("detail", f"at most {MAX_DETAIL} characters")
    if len(request.installed) > MAX_INSTALLED:
        raise BadFieldError("installed", f"at most {MAX_INSTALLED} families")
    if request.ByteSize() > MAX_REPORT_BYTES:
        raise BadFieldError("installed", f"the report is larger than {MAX_REPORT_BYTES} bytes")
    for one in request.installed:
        _check_set("installed", one)
    if request.attempted.version:
        _check_set("attempted", request.attempted)


def _check_set(field: str, reported: Installed) -> None:
    """Check that a device can run such a set: rollouts read what is stored here as a release."""
    try:
        _SET.validate_python(
            {"family": reported.family, "version": reported.version, "sha256": reported.sha256 or None}
        )
    except ValidationError as exc:
        raise BadFieldError(field, describe(exc)[:200]) from exc
