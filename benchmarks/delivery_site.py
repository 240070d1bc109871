"""The servers of the delivery scenarios: one serving process, and nginx over the same file."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.stage import until
from infra.process.child import ChildProcess
from infra.process.ports import free_ports
from model_service.address import read_address
from model_service.fleet.devices import put_device
from model_service.identity.authority import Authority, ca_path, init_pki, server_paths
from model_service.identity.key_files import private_pem
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.trust import ceremony
from model_service.trust.online import OnlineSigner
from schemas.cohorts import EVERYBODY
from schemas.updates import Role

GROUP = "default"
_BUFFER = 1 << 16


class Site:
    """A deployment with a real TUF repository and its serving process; certificates without enrolling."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = ModelSettings(root=folder / "models", lake_root=folder / "lake")
        init_pki(self.settings)
        ceremony.init(self.settings, ["machine"], {GROUP: EVERYBODY})
        self._authority = Authority.load(self.settings)
        self._child: ChildProcess | None = None

    @contextmanager
    def serving(self) -> Iterator[psutil.Process]:
        """Run the serving process; yields it."""
        self.settings.address_file.unlink(missing_ok=True)
        given = {
            f"MODEL_{k.upper()}": v if isinstance(v, str) else json.dumps(v)
            for k, v in self.settings.model_dump(mode="json", exclude_unset=True).items()
        }
        command = [sys.executable, "-m", "model_service", "serve"]
        child = ChildProcess("serve", command, self.folder / "serve.log", {**os.environ, **given})
        try:
            until(lambda: read_address(self.settings) is not None, "the service to listen")
            yield psutil.Process(child.pid)
        finally:
            child.kill()

    @property
    def port(self) -> int:
        """Port of the mutual-TLS listener."""
        address = read_address(self.settings)
        assert address is not None
        return address.delivery_port

    def clients(self, count: int, prefix: str) -> Path:
        """A file with certificates of new devices, which the registry knows; for a client process."""
        now = datetime.now(UTC)
        made = {}
        registry = Registry.open(self.settings.database_url, self.settings.root)
        with registry.transaction() as connection:
            for number in range(count):
                name, key = f"{prefix}-{number:04d}", ec.generate_private_key(ec.SECP256R1())
                certificate = self._authority.certify_client(
                    name, [Role.DEVICE], key.public_key(), now, timedelta(days=1)
                )
                pem = certificate.public_bytes(serialization.Encoding.PEM)
                made[name] = [private_pem(key).decode(), pem.decode()]
                put_device(connection, _columns(name), time.time())
        registry.close()
        path = self.folder / f"{prefix}.json"
        ca = ca_path(self.settings).read_text()
        path.write_text(json.dumps({"port": self.port, "ca": ca, "devices": made}))
        return path

    def publish(self) -> float:
        """Renew the timestamp, the last step of a publication; returns its end, monotonic seconds."""
        repository = ceremony.open_repository(self.settings)
        OnlineSigner.load(self.settings).publish(repository, repository.published(), {})
        return time.monotonic()

    def artifact(self, size: int) -> tuple[str, Path]:
        """Add random bytes to the artifacts; returns digest and file."""
        data = os.urandom(size)
        digest = sha256(data).hexdigest()
        path = self.settings.artifacts / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest, path


@contextmanager
def nginx(site: Site, file: Path) -> Iterator[tuple[int, psutil.Process] | None]:
    """One nginx worker that serves the file over mutual TLS with the service's own certificate.

    Yields:
        Its port and process; None where nginx is not installed.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    [port] = free_ports(1)
    folder = site.folder / "nginx"
    folder.mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(_configuration(site, file, folder, port))
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with ChildProcess("nginx", command, folder / "nginx.log") as child:
        until(lambda: _listens(port), "nginx to listen")
        yield port, psutil.Process(child.pid)


def _configuration(site: Site, file: Path, folder: Path, port: int) -> str:
    key, certificate = server_paths(site.settings)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = f"user {_user()};" if os.geteuid() == 0 else ""
    return f"""
{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; {temporary}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;
    ssl_client_certificate {ca_path(site.settings)}; ssl_verify_client on;
    root {file.parent};
  }}
}}
"""


def _user() -> str:
    return psutil.Process().username()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _columns(name: str) -> dict[str, object]:
    return {
        "device_id": name,
        "profile": "machine",
        "site": "bench",
        "grp": GROUP,
        "hardware": "sim",
        "key_id": name,
        "public_key": "",
        "gateway": None,
    }


class Meter:
    """A loopback port that forwards to another and counts the bytes, for one connection at a time.

    Attributes:
        up, down: Bytes to and from the server.
    """

    def __init__(self, target: int) -> None:
        self.up = self.down = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, up in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._relay, args=(source, sink, up), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_BUFFER):
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                sink.sendall(data)


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of the process and its children so far."""
    return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))
