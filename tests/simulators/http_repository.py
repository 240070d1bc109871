"""Any TUF repository over HTTP: its maker can sign whatever they like, and its server can misbehave."""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from model_service.trust.metadata import (
    CryptoSigner,
    DelegatedRole,
    Delegations,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
    meta_file,
    sign,
    target_file,
)

TOP = ("root", "targets", "snapshot", "timestamp")


class HttpRepository:
    """Signed parts to change at will; ``publish`` signs and serves them."""

    def __init__(self, *, consistent: bool = True, hashes: bool = True) -> None:
        self.expiry = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
        self.hashes = hashes
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.drip_s: float | None = None
        self.drip_headers = False
        self.dripped = 0
        self.endless: set[str] = set()
        self.broken: set[str] = set()
        self.ranges = True
        self.stop_after: int | None = None
        self.root = Root(expires=self.expiry, consistent_snapshot=consistent)
        self.roles: dict[str, Targets] = {"targets": Targets(expires=self.expiry)}
        self.snapshot, self.timestamp = Snapshot(expires=self.expiry), Timestamp(expires=self.expiry)
        self.keys: dict[str, list[CryptoSigner]] = {}
        for role in TOP:
            self.add_key(role)
        self.publish_root()
        self.publish("targets")

    def add_key(self, role: str, parent: str = "root", signer: CryptoSigner | None = None) -> CryptoSigner:
        """One more key for a role."""
        signer = signer or CryptoSigner.generate_ed25519()
        (self.root if parent == "root" else self.roles[parent]).add_key(signer.public_key, role)
        self.keys.setdefault(role, []).append(signer)
        return signer

    def rotate(self, role: str) -> None:
        """New keys instead of all old ones."""
        for signer in self.keys.pop(role):
            self.root.revoke_key(signer.public_key.keyid, role)
        self.add_key(role)

    def publish_root(self, also: Sequence[CryptoSigner] = ()) -> None:
        """Serve the root, signed by its keys and further ones."""
        self._put(f"{self.root.version}.root.json", self.root, [*self.keys["root"], *also])

    def bump_root(self, also: Sequence[CryptoSigner] = ()) -> None:
        """The next root."""
        self.root.version += 1
        self.publish_root(also)

    def publish(self, *roles: str, bump: bool = True) -> None:
        """Sign the roles, and a snapshot and timestamp that name them."""
        for role in roles:
            name = self._name(role, self.roles[role])
            data = self._put(name, self.roles[role], self.keys[role])
            self.snapshot.meta[f"{role}.json"] = self._meta(self.roles[role], data)
        name = self._name("snapshot", self.snapshot)
        data = self._put(name, self.snapshot, self.keys["snapshot"])
        self.timestamp.snapshot_meta = self._meta(self.snapshot, data)
        self.publish_timestamp()
        if bump:
            self.snapshot.version += 1
            self.timestamp.version += 1

    def publish_timestamp(self) -> None:
        """Sign the timestamp alone."""
        self._put("timestamp.json", self.timestamp, self.keys["timestamp"])

    def delegate(self, parent: str, role: str, paths: Sequence[str], *, terminating: bool = False) -> None:
        """A role with one key."""
        delegator = self.roles[parent]
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, {})
        assert delegator.delegations.roles is not None
        delegator.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, list(paths))
        self.roles.setdefault(role, Targets(expires=self.expiry))
        known = self.keys.get(role)
        self.add_key(role, parent, known[0] if known else None)

    def add_target(self, role: str, path: str, data: bytes) -> TargetFile:
        """A target and its file."""
        entry = target_file(path, data)
        self.roles[role].targets[path] = entry
        folder, slash, name = path.rpartition("/")
        stored = f"{folder}{slash}{entry.hashes['sha256']}.{name}" if self.root.consistent_snapshot else path
        self.files[f"targets/{stored}"] = data
        return entry

    def _name(self, role: str, signed: Signed) -> str:
        return f"{signed.version}.{role}.json" if self.root.consistent_snapshot else f"{role}.json"

    def _meta(self, signed: Signed, data: bytes) -> MetaFile:
        return meta_file(signed.version, data) if self.hashes else MetaFile(signed.version)

    def _put(self, name: str, signed: Signed, signers: Sequence[CryptoSigner]) -> bytes:
        data = sign(copy.deepcopy(signed), {s.public_key.keyid: s for s in signers}.values())
        self.files[f"metadata/{name}"] = data
        return data


@contextmanager
def serving(repository: HttpRepository) -> Iterator[str]:
    """Base URL of a server of the repository."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, repository)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, repository: HttpRepository) -> None:
    name = unquote(handler.path.lstrip("/"))
    repository.asked.append(handler.path.lstrip("/"))
    data = repository.files.get(name)
    if repository.drip_headers:
        _send(handler, repository, b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 1000)
    elif name in repository.broken:
        handler.send_error(500)
    elif data is None:
        handler.send_error(404)
    elif name in repository.endless:
        handler.send_response(200)
        handler.end_headers()
        _send(handler, repository, data + b" " * 8_000_000)
    else:
        start = _range(handler) if repository.ranges else 0
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        _send(handler, repository, data[start:])


def _send(handler: BaseHTTPRequestHandler, repository: HttpRepository, data: bytes) -> None:
    try:
        if repository.stop_after is not None:
            data = data[: repository.stop_after]
        if repository.drip_s is None:
            handler.wfile.write(data)
            return
        for at in range(len(data)):
            handler.wfile.write(data[at : at + 1])
            handler.wfile.flush()
            repository.dripped += 1
            threading.Event().wait(repository.drip_s)
    except (BrokenPipeError, ConnectionResetError):
        handler.close_connection = True


def _range(handler: BaseHTTPRequestHandler) -> int:
    asked = handler.headers.get("Range", "")
    return int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
