"""File of what the serving process refused since it started: for `edgeloop status`."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from model_service.settings import ModelSettings
from schemas.durable import DISK


class RefusalCounts(BaseModel):
    """Content of the file.

    Attributes:
        since: Start of the process.
        connections: Connections that were refused or ended, by reason.
        addresses: The same by network address, for those that lost most.
        calls: Refused calls, by method and gRPC code.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    since: datetime
    connections: dict[str, int]
    addresses: dict[str, int]
    calls: dict[str, int]


def read_refusals(settings: ModelSettings) -> RefusalCounts | None:
    """What the serving process wrote last, alive or not; None: there is no readable file."""
    try:
        return RefusalCounts.model_validate_json(settings.refusals_file.read_bytes())
    except (OSError, ValidationError):
        return None


def write_refusals(settings: ModelSettings, counts: RefusalCounts) -> None:
    """Replace the file in one step. It is not synced: after a power cut another process counts anew."""
    DISK.write(settings.refusals_file, counts.model_dump_json().encode() + b"\n", sync=False)
