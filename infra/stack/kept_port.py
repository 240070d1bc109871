"""Ports that the folder's broker had before: devices then find it again."""

from __future__ import annotations

from pathlib import Path

import orjson

from infra.stack.stack_file import BrokerFront
from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

PORT_FILE = "kafka.port"
"""The port as text, for people."""
CHECKED_FILE = "kafka.port.json"
"""The port with a digest: it decides where the two differ. Release 0.2.0 wrote none."""
FRONT_FILE = "kafka.front.json"
"""Ports of the second listener."""
_LARGEST = 65535


def keep_port(state_dir: Path, port: int) -> None:
    """Write both files."""
    DISK.write(state_dir / CHECKED_FILE, with_digest(orjson.dumps({"format": 1, "port": port})))
    DISK.write(state_dir / PORT_FILE, f"{port}\n".encode())


def kept_port(state_dir: Path) -> tuple[int | None, str]:
    """The port, None where nobody knows it; and what is wrong with the files, empty if nothing is."""
    path, sound = state_dir / PORT_FILE, _checked_port(state_dir / CHECKED_FILE)
    text = DISK.read(path)
    port = _port(text)
    if sound is not None:
        differ = f"{path} and {CHECKED_FILE} name two ports: {sound} is used; tell devices that know another"
        return sound, differ if port not in (None, sound) else ""
    if port is None and text is not None:
        return None, f"{path} is damaged: the broker takes another port, which devices elsewhere must be told"
    return port, ""


def keep_front(state_dir: Path, front: BrokerFront) -> None:
    """Write the ports of the second listener."""
    DISK.write(state_dir / FRONT_FILE, with_digest(orjson.dumps(front.model_dump())))


def kept_front(state_dir: Path) -> BrokerFront | None:
    """The second listener as it was; None where nobody knows it: then it gets other ports."""
    path = state_dir / FRONT_FILE
    data = DISK.read(path)
    try:
        found = None if data is None else checked(data, str(path))
        return None if found is None else BrokerFront(**{n: found[n] for n in BrokerFront.model_fields})
    except (DamagedLakeError, KeyError, ValueError):
        return None


def _port(text: bytes | None) -> int | None:
    try:
        port = 0 if text is None else int(text)
    except ValueError:
        return None
    return port if 0 < port <= _LARGEST else None


def _checked_port(path: Path) -> int | None:
    data = DISK.read(path)
    try:
        port = None if data is None else checked(data, str(path)).get("port")
    except DamagedLakeError:
        return None
    return port if isinstance(port, int) and 0 < port <= _LARGEST else None
