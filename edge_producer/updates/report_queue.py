"""Reports that wait until the service has answered them: numbered across restarts, resent byte for byte."""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from schemas.durable import Disk
from schemas.errors import AccessError, RejectedError
from schemas.proto import delivery_pb2 as pb

log = logging.getLogger(__name__)

MAX_WAITING = 64
"""Reports kept while the service is away; the oldest give way, because the newest has the present state."""

_NAME, _LARGEST = re.compile(r"\d{12,15}\.pb", re.ASCII), 10**15
"""Names of report files, and the bound of their numbers: a larger one is damaged or made up."""


class ReportQueue:
    """One device's queue of reports.

    Args:
        folder: One file a report, named by its number.
        disk: Writes them.
        device_id: A report in the folder that names another device is given up.

    Attributes:
        given_up: Reports that this process dropped: damaged, not this device's, or refused for good.
    """

    def __init__(self, folder: Path, disk: Disk, device_id: str) -> None:
        self._folder = folder
        self._disk = disk
        self._device_id = device_id
        self.given_up = 0
        disk.make_folder(folder)

    def add(self, report: pb.ReportRequest) -> pb.ReportRequest:
        """Number a report and keep it until the service has answered it."""
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

        What is damaged, foreign or refused for good is given up: it must not hold up what comes after it.

        Raises:
            AccessError: The certificate does not allow it.
            RetryableError: The service answered, but did not take it; the rest waits.
            ServiceUnavailableError: No answer; the rest waits.
        """
        server_time = None
        for path in self._waiting():
            try:
                server_time = send(self._read(path))
            except AccessError:
                raise
            except (DecodeError, RejectedError, ValueError, OSError) as exc:
                self.given_up += 1
                log.warning("report %s is given up, %d so far: %s", path.stem, self.given_up, exc)
            self._disk.remove(path)
        return server_time

    def _read(self, path: Path) -> pb.ReportRequest:
        report = pb.ReportRequest()
        report.ParseFromString(path.read_bytes())
        if (report.device_id, report.report_no) != (self._device_id, int(path.stem)):
            raise ValueError(f"it is number {report.report_no} of {report.device_id[:80]!r}")
        return report

    def __len__(self) -> int:
        """Reports that wait."""
        return len(self._waiting())

    def _last(self) -> int:
        waiting = self._waiting()
        newest = _number(waiting[-1]) if waiting else 0
        return max(newest, self._counted())

    def _counted(self) -> int:
        try:
            counted = int(json.loads(self._disk.read(self._folder / "last.json") or b"{}").get("last", 0))
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            return 0
        return counted if 0 <= counted < _LARGEST else 0

    def _waiting(self) -> list[Path]:
        return sorted((p for p in self._folder.iterdir() if _NAME.fullmatch(p.name)), key=_number)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.pb"


def _number(path: Path) -> int:
    return int(path.stem)
