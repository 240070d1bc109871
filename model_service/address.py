"""Where the serving process listens, as it says on disk."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from model_service.settings import ModelSettings
from schemas.durable import DISK

_WILDCARDS = ("", "0.0.0.0", "::", "[::]")  # noqa: S104  (names them, binds nothing)


class Address(BaseModel):
    """Content of the address file.

    Attributes:
        host: As clients reach it.
        enrollment_port: Server TLS.
        delivery_port: Mutual TLS.
        pid: Of the serving process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    enrollment_port: int
    delivery_port: int
    pid: int


def reachable_host(settings: ModelSettings) -> str:
    """Name or address that clients use."""
    return settings.names[0] if settings.host in _WILDCARDS else settings.host


def read_address(settings: ModelSettings) -> Address | None:
    """The newest word of a serving process, alive or not; None: there is none that we can read."""
    try:
        return Address.model_validate_json(settings.address_file.read_bytes())
    except (OSError, ValidationError):
        return None


def write_address(settings: ModelSettings, address: Address) -> None:
    """Replace the address file in one step; not synced, because no power cut leaves a process to reach."""
    DISK.write(settings.address_file, address.model_dump_json().encode() + b"\n", sync=False)
