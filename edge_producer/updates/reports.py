"""Reports that wait until the service has answered them: numbered across restarts, resent byte for byte."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from edge_producer.updates.disk import Disk
from edge_producer.updates.machine import Record
from edge_producer.updates.slots import Pointer
from schemas.errors import AccessError, RejectedError
from schemas.proto import delivery_pb2 as pb
from schemas.updates import UpdateState

log = logging.getLogger(__name__)

MAX_WAITING = 64
"""Reports kept while the service is away; older ones give way: the newest tells where the device stands."""


def report_of(record: Record, pointer: Pointer, family: str, *, standing: bool) -> pb.ReportRequest:
    """What a record says, as a report.

    Args:
        record: Where the device stands.
        pointer: Which set runs.
        family: That the device runs.
        standing: It is about the newest channel, not about the last attempt.
    """
    report = pb.ReportRequest(state=record.state, channel_seq=record.seq, rollout_id=record.rollout_id)
    for name, release in pointer.active.releases.items():
        report.installed.append(
            pb.Installed(family=name, version=release.version, sha256=release.sha256 or "")
        )
    attempt = record.attempt
    if standing:
        return report
    report.result, report.attack, report.detail = record.result or "", record.attack or "", record.detail
    if attempt is not None and (record.result is not None or record.state is not UpdateState.IDLE):
        # One end of the process may be a power cut; from the second on they are held against the model.
        report.rollout_id, report.crashes = attempt.rollout_id, max(attempt.crashes - 1, 0)
        release = attempt.release
        report.attempted.CopyFrom(
            pb.Installed(family=family, version=release.version, sha256=release.sha256 or "")
        )
    return report


class Reports:
    """One device's queue of reports.

    Args:
        folder: One file a report, named by its number.
        disk: Writes them.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        disk.make_folder(folder)

    def add(self, report: pb.ReportRequest) -> pb.ReportRequest:
        """Number a report and keep it until it is answered."""
        number = self._last() + 1
        # The number first: a crash between the two writes leaves a hole, never one number for two reports.
        self._disk.write(self._folder / "last.json", json.dumps({"last": number}).encode())
        report.report_no, report.nonce = number, secrets.token_hex(16)
        self._disk.write(self._path(number), report.SerializeToString())
        for old in self._waiting()[:-MAX_WAITING]:
            self._disk.remove(old)
        return report

    def flush(self, send: Callable[[pb.ReportRequest], datetime]) -> datetime | None:
        """Send what waits, oldest first; returns the service's time by the last answer.

        Raises:
            AccessError: The certificate does not allow it.
            ServiceUnavailableError: No answer; the rest waits.
        """
        told = None
        for path in self._waiting():
            report = pb.ReportRequest()
            try:
                report.ParseFromString(path.read_bytes())
                told = send(report)
            except AccessError:
                raise
            except (DecodeError, RejectedError):
                log.exception("report %s is given up", path.stem)
            self._disk.remove(path)
        return told

    def __len__(self) -> int:
        """Reports that wait."""
        return len(self._waiting())

    def _last(self) -> int:
        waiting = self._waiting()
        newest = int(waiting[-1].stem) if waiting else 0
        try:
            counted = int(json.loads(self._disk.read(self._folder / "last.json") or b"{}").get("last", 0))
        except (ValueError, AttributeError, TypeError):
            counted = 0
        return max(newest, counted)

    def _waiting(self) -> list[Path]:
        return sorted(self._folder.glob("*.pb"))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.pb"
