"""Real MQTT brokers, each a process: amqtt speaks 3.1.1, with TLS and passwords; mqttools speaks 5."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion

from edge_producer.sources.mqtt_connection import PROTOCOLS
from tests.waiting import wait_until

AUTH = "amqtt.plugins.authentication"
USER, PASSWORD = "pump", "correct horse"


class MqttBroker:
    """A broker that can be stopped and started on the same port.

    Args:
        folder: For its files.
        version: ``3.1.1`` or ``5``.
        secure: TLS; it wants a user and a password as well, or of version 5 a client certificate.
    """

    def __init__(self, folder: Path, version: str = "3.1.1", *, secure: bool = False) -> None:
        self._folder, self.version, self.secure = folder, version, secure
        self.ca, self.key = folder / "ca.pem", folder / "key.pem"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if secure:
            make_certificate(folder, "127.0.0.1")
            (folder / "passwords").write_text(f"{USER}:{_hashed(PASSWORD)}\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"mqtt{'s' if self.secure else ''}://127.0.0.1:{self.port}"

    def start(self) -> None:
        given = {"port": self.port, "version": self.version, "secure": self.secure}
        argv = [sys.executable, "-m", __name__, json.dumps({**given, "folder": str(self._folder)})]
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self._listens, what="the MQTT broker")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    @contextmanager
    def publisher(self) -> Iterator[Publisher]:
        """A client that publishes."""
        publisher = Publisher(self)
        try:
            yield publisher
        finally:
            publisher.close()


class Publisher:
    """Publishes, and returns when the broker has it, or when it was written (version 5: QoS 0)."""

    def __init__(self, broker: MqttBroker) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=PROTOCOLS[broker.version])
        self._qos = 0 if broker.version == "5" else 1
        if broker.secure:
            pair = (str(broker.ca), str(broker.key)) if broker.version == "5" else (None, None)
            self._client.tls_set(str(broker.ca), *pair)
            if broker.version != "5":
                self._client.username_pw_set(USER, PASSWORD)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def give(self, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, self._qos, retain).wait_for_publish(20)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def make_certificate(folder: Path, host: str) -> None:
    """A certificate that is its own authority: ``ca.pem``, ``key.pem``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    first, last = validity()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.SubjectAlternativeName([ip_san(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


def validity() -> tuple[datetime, datetime]:
    """From an hour ago to tomorrow."""
    now = datetime.now(UTC)
    return now - timedelta(hours=1), now + timedelta(days=1)


def ip_san(host: str) -> x509.IPAddress:
    return x509.IPAddress(ip_address(host))


def _hashed(password: str) -> str:
    from pwdlib.hashers.argon2 import Argon2Hasher

    return Argon2Hasher().hash(password)


async def _serve_3_1_1(port: int, folder: Path, *, secure: bool) -> None:
    from amqtt.broker import Broker

    listener: dict[str, object] = {"type": "tcp", "bind": f"127.0.0.1:{port}"}
    plugins: dict[str, object] = {f"{AUTH}.AnonymousAuthPlugin": {"allow_anonymous": True}}
    if secure:
        listener |= {"ssl": True, "certfile": str(folder / "ca.pem"), "keyfile": str(folder / "key.pem")}
        plugins = {f"{AUTH}.FileAuthPlugin": {"password_file": str(folder / "passwords")}}
    broker = Broker({"listeners": {"default": listener}, "plugins": plugins})
    await broker.start()
    await asyncio.Event().wait()


async def _serve_5(port: int, folder: Path, *, secure: bool) -> None:
    from mqttools import Broker

    context = None
    if secure:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
        context.load_verify_locations(folder / "ca.pem")  # devices show a certificate of their own
        context.verify_mode = ssl.CERT_REQUIRED
    await Broker([("127.0.0.1", port, context)]).serve_forever()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    serve = _serve_5 if asked["version"] == "5" else _serve_3_1_1
    asyncio.run(serve(asked["port"], Path(asked["folder"]), secure=asked["secure"]))
