"""Reports that wait until the service has answered them: numbered across restarts, resent byte for byte."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from schemas.durable import Disk
from schemas.errors import AccessError, DamagedLakeError, RejectedError
from schemas.proto import delivery_pb2 as pb
from schemas.self_digest import checked, with_digest

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
        self._disk.write(self._folder / "last.json", with_digest(json.dumps({"last": number}).encode()))
        report.report_no, report.nonce = number, secrets.token_hex(16)
        data = report.SerializeToString()
        self._disk.write(_digest_file(self._path(number)), hashlib.sha256(data).hexdigest().encode())
        self._disk.write(self._path(number), data)
        for old in self._waiting()[:-MAX_WAITING]:
            self._forget(old)
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
            self._forget(path)
        return server_time

    def _read(self, path: Path) -> pb.ReportRequest:
        report, data = pb.ReportRequest(), path.read_bytes()
        stated = self._disk.read(_digest_file(path))
        if stated is not None and stated != hashlib.sha256(data).hexdigest().encode():
            raise ValueError("it is damaged: its bytes are not those of its digest")
        report.ParseFromString(data)
        if (report.device_id, report.report_no) != (self._device_id, int(path.stem)):
            raise ValueError(f"it is number {report.report_no} of {report.device_id[:80]!r}")
        return report

    def _forget(self, path: Path) -> None:
        self._disk.remove(path)
        self._disk.remove(_digest_file(path))

    def __len__(self) -> int:
        """Reports that wait."""
        return len(self._waiting())

    def _last(self) -> int:
        waiting = self._waiting()
        newest = _number(waiting[-1]) if waiting else 0
        return max(newest, self._counted())

    def _counted(self) -> int:
        try:
            last = self._folder / "last.json"
            counted = int(checked(self._disk.read(last) or b"{}", str(last)).get("last", 0))
        except DamagedLakeError as exc:
            log.warning("%s; the number of the newest report counts", exc)
            return 0
        except (ValueError, TypeError, OverflowError):
            return 0
        return counted if 0 <= counted < _LARGEST else 0

    def _waiting(self) -> list[Path]:
        return sorted((p for p in self._folder.iterdir() if _NAME.fullmatch(p.name)), key=_number)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.pb"


def _digest_file(path: Path) -> Path:
    """File of a report's digest; release 0.2.0 wrote none."""
    return path.with_suffix(".sha256")


def _number(path: Path) -> int:
    return int(path.stem)
