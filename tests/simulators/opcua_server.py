"""A real OPC UA server, a process of its own, whose nodes a test writes."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from schemas.instants import from_us
from tests.simulators.mqtt_broker import ip_san, validity

NAMESPACE = "urn:plant"
USER, PASSWORD = "pump", "correct horse"
GOOD, UNCERTAIN, BAD, OVERFLOWED, NO_VALUE_YET = 0, 0x40000000, 0x80000000, 0x480, 0x80320000
Write = tuple[str, Any, int | None, int]
"""Node, value, time of the source in µs since 1970, status; a list as value is a byte string."""


class OpcUaServer:
    """A server that can be stopped and started on the same port; its nodes have no value at first.

    Args:
        folder: For its files.
        nodes: Their names; they are ``ns=2;s=<name>``.
        secure: It offers Basic256Sha256 as well, with a certificate of the authority ``authority.pem``, and
            lets in whom it knows by user and password, and those who name no user.
    """

    def __init__(self, folder: Path, nodes: Iterable[str], *, secure: bool = False) -> None:
        self.folder, self.nodes, self.secure = folder, list(nodes), secure
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if secure:
            certify(folder, "authority", "urn:plant:authority")
            certify(folder, "server", "urn:plant:server", issuer="authority")
        self._process: subprocess.Popen[bytes] | None = None

    def address(self, prefix: str, port: int = 0, **options: object) -> str:
        """Of a source that reads ``<prefix>.heat`` and ``<prefix>.load``."""
        given = {"publish_ms": 20, "security": "none", "node": f"ns=2;s={prefix}.{{channel}}", **options}
        place = f"opcua://127.0.0.1:{port or self.port}/plant"
        return f"{place}?{'&'.join(f'{name}={value}' for name, value in given.items())}"

    def start(self) -> None:
        given = {"port": self.port, "nodes": self.nodes, "secure": self.secure, "folder": str(self.folder)}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n", (self.folder / "server.log").read_text()

    def write(self, *writes: Write) -> None:
        """Write nodes, one after the other, and return once the server has them."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(writes).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"done\n"

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def certify(folder: Path, name: str, uri: str, issuer: str = "", host: str = "127.0.0.1") -> None:
    """A certificate and its key, ``<name>.pem`` and ``<name>.key``, vouched for by itself or by another."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    by, signing = own, key
    if issuer:
        by = x509.load_pem_x509_certificate((folder / f"{issuer}.pem").read_bytes()).subject
        signing = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
    first, last = validity()
    named = [x509.UniformResourceIdentifier(uri), ip_san(host)] if uri else [ip_san(host)]
    made = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.SubjectAlternativeName(named), critical=False)
        .add_extension(x509.BasicConstraints(ca=not issuer, path_length=None), critical=True)
        .sign(signing, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


async def _serve(port: int, nodes: list[str], folder: Path, *, secure: bool) -> None:
    from asyncua import Server, ua

    server = Server(user_manager=_users() if secure else None)
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    if secure:
        await server.set_application_uri("urn:plant:server")
        await server.load_certificate(folder / "server.pem")
        await server.load_private_key(folder / "server.key", format="pem")
    policies = [ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
    server.set_security_policy(policies if secure else policies[:1])
    index = await server.register_namespace(NAMESPACE)
    for name in nodes:
        node = await server.nodes.objects.add_variable(ua.NodeId(name, index), name, 0.0)
        await server.write_attribute_value(node.nodeid, _data(ua, None, None, NO_VALUE_YET))
    lines = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with server:
        _say("up")
        while line := await lines.readline():
            for name, given, us, status in json.loads(line):
                node_id = ua.NodeId(name, index)
                kept = server.iserver.aspace[node_id].attributes[ua.AttributeIds.Value]
                kept.value = None  # the next value may be of any type
                await server.write_attribute_value(node_id, _data(ua, given, us, status))
            _say("done")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _data(ua: Any, given: Any, us: int | None, status: int) -> Any:
    value = ua.Variant(bytes(given) if isinstance(given, list) else given)
    return ua.DataValue(
        value,
        ua.StatusCode(status),
        SourceTimestamp=None if us is None else from_us(us),
        ServerTimestamp=datetime.now(UTC),
    )


def _users() -> Any:
    from asyncua.crypto.permission_rules import User, UserRole

    class Users:
        def get_user(self, _server: Any, username: Any = None, password: Any = None, **_: Any) -> Any:
            known = (username, password) in ((USER, PASSWORD), (None, None))
            return User(role=UserRole.User) if known else None

    return Users()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    asyncio.run(_serve(asked["port"], asked["nodes"], Path(asked["folder"]), secure=asked["secure"]))
