"""Fetches files over plain HTTP within bounds: no more bytes than allowed, no slower than a lowest speed.

A socket's own time-out starts again with every byte, so a server that sends byte by byte could hold a client
for ever. Here every wait ends at the deadline of the whole transfer.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from edge_producer.trust.workflow import MissingError
from schemas.errors import ServiceUnavailableError, TrustError
from schemas.updates import Attack

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 64 * 1024
_ABSENT = frozenset({403, 404})
_PARTIAL = 206


@dataclass(frozen=True)
class TransferPace:
    """How slow a transfer may be.

    Attributes:
        silence_s: Longest wait for the connection, and for the next bytes.
        grace_s: Allowed for any file, however small.
        floor_bytes_per_s: Lowest speed; the time that the file's bound takes at it is added to ``grace_s``.
    """

    silence_s: float = 10.0
    grace_s: float = 10.0
    floor_bytes_per_s: float = 16_384.0

    def deadline_s(self, max_length: int) -> float:
        """Time for a whole transfer."""
        return self.grace_s + max_length / self.floor_bytes_per_s


class HttpFiles:
    """Fetches files below a base URL.

    Args:
        base_url: Such as ``http://localhost:8080/metadata``.
        pace: How slow a transfer may be.
    """

    def __init__(self, base_url: str, pace: TransferPace | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{base_url!r} is no http or https URL")
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._pace = pace or TransferPace()

    def __call__(self, name: str, max_length: int) -> bytes:
        """Bytes of a metadata file; the name is quoted as one path segment.

        Raises:
            MissingError: The server has none.
            TrustError: More than ``max_length`` bytes, or too slow.
            ServiceUnavailableError: The server does not answer, or answers with an error.
        """
        data = bytearray()
        for chunk, _ in self.stream(quote(name, safe=""), max_length):
            data += chunk
        return bytes(data)

    def stream(self, path: str, max_length: int, offset: int = 0) -> Iterator[tuple[bytes, int]]:
        """Chunks of a file, each with its offset, from ``offset`` on where the server can.

        Args:
            path: Quoted, below the base URL.
            max_length: Bound of the whole file, bytes.
            offset: First byte wanted; a server that ignores it sends the whole file, from offset 0 on.

        Raises:
            MissingError: The server has none.
            TrustError: More than ``max_length`` bytes, or too slow.
            ServiceUnavailableError: The server does not answer, or answers with an error.
        """
        with self._answer(path, max_length, offset) as response:
            at = offset if response.status == _PARTIAL and _starts_at(response, offset) else 0
            while chunk := response.read1(_CHUNK):
                if at + len(chunk) > max_length:
                    raise TrustError(f"{path}: more than {max_length} bytes", Attack.ENDLESS_DATA)
                yield chunk, at
                at += len(chunk)

    @contextmanager
    def _answer(self, path: str, max_length: int, offset: int) -> Iterator[HTTPResponse]:
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=self._pace.silence_s)
        deadline_s = time.monotonic() + self._pace.deadline_s(max_length)
        with _translated(path), contextlib.closing(connection):
            connection.connect()
            with contextlib.closing(connection.sock) as sock:
                connection.sock = _PacedSocket(sock, self._pace.silence_s, deadline_s)
                headers = {"Accept-Encoding": "identity"}
                if offset:
                    headers["Range"] = f"bytes={offset}-"
                connection.request("GET", f"{self._path}/{path}", headers=headers)
                response = connection.getresponse()
                if response.status in _ABSENT:
                    raise MissingError(path)
                if response.status >= 300:
                    raise ServiceUnavailableError(f"{path}: the server answers {response.status}")
                yield response
                if response.length:
                    raise ServiceUnavailableError(f"{path}: the server stopped {response.length} bytes early")


class _PacedSocket:
    """The part of a connected socket that `http.client` uses; every wait ends at one deadline."""

    def __init__(self, sock: socket.socket, silence_s: float, deadline_s: float) -> None:
        self._sock, self._silence_s, self._deadline_s = sock, silence_s, deadline_s

    def sendall(self, data: bytes) -> None:
        self._limit_wait()
        self._sock.sendall(data)

    def receive_into(self, buffer: memoryview) -> int:
        self._limit_wait()
        return self._sock.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self))

    def close(self) -> None:
        """Do nothing: `http.client` calls this before the answer has been read."""

    def _limit_wait(self) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("too slow")
        self._sock.settimeout(min(self._silence_s, left_s))


class _Incoming(io.RawIOBase):
    def __init__(self, sock: _PacedSocket) -> None:
        super().__init__()
        self._paced = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._paced.receive_into(memoryview(buffer))


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise TrustError(f"{path}: the server is slower than any honest one", Attack.SLOW_RETRIEVAL) from exc
    except (OSError, HTTPException) as exc:
        raise ServiceUnavailableError(f"{path}: {type(exc).__name__} {exc}") from exc


def _starts_at(response: HTTPResponse, offset: int) -> bool:
    return (response.getheader("Content-Range") or "").startswith(f"bytes {offset}-")
