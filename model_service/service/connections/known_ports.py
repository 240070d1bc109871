"""File of the ports that the serving process has had: devices look for it there, whichever it has now."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.durable import DISK

log = logging.getLogger(__name__)

MOST: Final = 4
"""Ports that are remembered of each listener: the first one, which most devices know, and the newest."""

_Ports = tuple[Annotated[int, Field(gt=0, le=65535)], ...]


class KnownPorts(BaseModel):
    """Content of the file: of each listener the ports that it has had, the first one first.

    >>> known = KnownPorts(enrollment=(5001,), delivery=(5002,))
    >>> known.with_ports(5001, 6002).delivery
    (5002, 6002)
    """

    model_config = ConfigDict(frozen=True)

    enrollment: _Ports = ()
    delivery: _Ports = ()

    def with_ports(self, enrollment: int, delivery: int) -> KnownPorts:
        """The same with the ports of now."""
        return KnownPorts(
            enrollment=_with(self.enrollment, enrollment), delivery=_with(self.delivery, delivery)
        )


def _with(ports: tuple[int, ...], port: int) -> tuple[int, ...]:
    if port in ports:
        return ports
    return (*ports[:1], *ports[1:][-(MOST - 2) :], port)


def read_ports(path: Path) -> KnownPorts:
    """The ports in the file; none where there is no file, or none that can be read."""
    try:
        return KnownPorts.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return KnownPorts()
    except (OSError, ValidationError) as exc:
        log.warning("the file %s cannot be read, and is made anew: %s", path, exc)
        return KnownPorts()


def write_ports(path: Path, ports: KnownPorts) -> None:
    """Replace the file."""
    DISK.write(path, ports.model_dump_json().encode() + b"\n")
