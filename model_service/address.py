"""Address file: where the serving process listens."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from model_service.settings import ModelSettings
from schemas.durable import DISK

_WILDCARDS = ("", "0.0.0.0", "::", "[::]")  # noqa: S104  (names them, binds nothing)


class Address(BaseModel):
    """Content of the address file.

    Attributes:
        host: Name or address that clients use.
        enrollment_port: Port with server TLS.
        delivery_port: Port with mutual TLS.
        pid: Process id of the serving process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    enrollment_port: int
    delivery_port: int
    pid: int


def listening_hosts(settings: ModelSettings) -> tuple[str, ...]:
    """Names or addresses that the serving process binds."""
    if not settings.listen or settings.host in _WILDCARDS:
        return (settings.host,)
    return tuple(dict.fromkeys((settings.host, settings.listen)))


def reachable_host(settings: ModelSettings) -> str:
    """Name or address that clients use."""
    if settings.listen:
        return settings.listen
    return settings.names[0] if settings.host in _WILDCARDS else settings.host


def read_address(settings: ModelSettings) -> Address | None:
    """The address that a serving process wrote last, alive or not; None: there is no readable file."""
    try:
        return Address.model_validate_json(settings.address_file.read_bytes())
    except (OSError, ValidationError):
        return None


def write_address(settings: ModelSettings, address: Address) -> None:
    """Replace the address file in one step. It is not synced: a power cut ends the process anyway."""
    DISK.write(settings.address_file, address.model_dump_json().encode() + b"\n", sync=False)
