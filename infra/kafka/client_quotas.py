"""How much each device may write to the broker: the door to Kafka's client quotas.

confluent-kafka has no call for them, so the one request is written here: AlterClientQuotas and
DescribeClientQuotas, version 0 (KIP-546), as https://kafka.apache.org/protocol lays them out.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

from schemas.errors import BrokerUnavailableError, StackError

BYTE_RATE, REQUEST_SHARE = "producer_byte_rate", "request_percentage"
ANONYMOUS = "ANONYMOUS"
"""Whoever comes without a certificate: on loopback alone, and so the stack's own processes."""
UNBOUNDED = 1e15
_DESCRIBE, _ALTER = 48, 49
_TIMEOUT_S = 30.0
_LARGEST_ANSWER = 16 * 1024 * 1024
_ANY, _DEFAULT = 2, 1


class DeviceQuota(NamedTuple):
    """What each device may have, by the name in its certificate.

    Attributes:
        bytes_per_s: It may write; a faster one is made to wait.
        request_percent: Of one thread of the broker, that its requests may keep busy.
    """

    bytes_per_s: float
    request_percent: float


def limit_devices(servers: str, quota: DeviceQuota) -> None:
    """Bound every principal alike, and leave the stack's own processes unbounded.

    Raises:
        BrokerUnavailableError: The broker does not answer.
        StackError: It refuses.
    """
    bounds = {BYTE_RATE: quota.bytes_per_s, REQUEST_SHARE: quota.request_percent}
    free = {BYTE_RATE: UNBOUNDED, REQUEST_SHARE: UNBOUNDED}
    # The exception first: the stack's own processes are never bound, not even for a moment.
    body = struct.pack(">i", 2) + _entry(ANONYMOUS, free) + _entry(None, bounds) + b"\0"
    answer = _Answer(_ask(servers, _ALTER, body))
    answer.skip(4)
    for _ in range(answer.number(">i")):
        code, why = answer.number(">h"), answer.text()
        for _ in range(answer.number(">i")):
            answer.text(), answer.text()
        if code:
            raise StackError(f"the broker does not bound what devices write: {why or f'error {code}'}")


def device_quota(servers: str) -> DeviceQuota | None:
    """What is in force for each device; None: nothing bounds them.

    Raises:
        BrokerUnavailableError: The broker does not answer.
    """
    body = struct.pack(">i", 1) + _string("user") + struct.pack(">bh", _DEFAULT, -1) + b"\1"
    answer = _Answer(_ask(servers, _DESCRIBE, body))
    answer.skip(4)
    code, why = answer.number(">h"), answer.text()
    if code:
        raise StackError(f"the broker does not say what devices may write: {why or f'error {code}'}")
    found: dict[str, float] = {}
    for _ in range(max(answer.number(">i"), 0)):
        for _ in range(answer.number(">i")):
            answer.text(), answer.text()
        for _ in range(answer.number(">i")):
            name = answer.text() or ""
            found[name] = answer.number(">d")
    if not found:
        return None
    return DeviceQuota(found.get(BYTE_RATE, UNBOUNDED), found.get(REQUEST_SHARE, UNBOUNDED))


def _entry(user: str | None, values: Mapping[str, float]) -> bytes:
    name = struct.pack(">h", -1) if user is None else _string(user)
    ops = b"".join(_string(key) + struct.pack(">d?", value, False) for key, value in values.items())
    return struct.pack(">i", 1) + _string("user") + name + struct.pack(">i", len(values)) + ops


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def _ask(servers: str, api: int, body: bytes) -> bytes:
    """The answer's body.

    Raises:
        BrokerUnavailableError: The broker does not answer.
    """
    host, _, port = servers.split(",", maxsplit=1)[0].rpartition(":")
    request = struct.pack(">hhi", api, 0, 1) + _string("edgeloop") + body
    try:
        with socket.create_connection((host, int(port)), _TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            [length] = struct.unpack(">i", _read(connection, 4))
            return _read(connection, min(max(length, 4), _LARGEST_ANSWER))[4:]
    except OSError as exc:
        raise BrokerUnavailableError(f"the broker at {servers} does not answer: {exc}") from exc


def _read(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise OSError("the connection was closed")
        data += part
    return data


class _Answer:
    """Reads an answer from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def skip(self, length: int) -> None:
        self._at += length

    def number(self, form: str) -> int:
        [value] = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value  # type: ignore[no-any-return]  # of whatever the form says

    def text(self) -> str | None:
        length = self.number(">h")
        if length < 0:
            return None
        self._at += length
        return self._data[self._at - length : self._at].decode(errors="replace")
