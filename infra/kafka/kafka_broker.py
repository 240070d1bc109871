"""A real Kafka broker as a child process."""

from __future__ import annotations

import base64
import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from infra.kafka.class_archive import archive_of, sharing
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_config import ExtraListener, TlsListener, server_properties
from infra.kafka.kafka_jars import require_program, resolve_jars
from infra.printing import size
from infra.process.child import ChildProcess
from infra.process.child_log import LogPosition, log_end, read_since
from infra.process.ports import LOOPBACK, answers, free_ports, is_free
from schemas.errors import BrokerUnavailableError, StackError

NEEDED_BYTES = 512 * 1024**2
_PORT_TAKEN = re.compile(r"Address already in use|BindException|Socket server failed to bind")
_REASON = re.compile(r"(?:ERROR|FATAL|Exception|Error:|error:).*")
BROKER = "kafka.Kafka"
"""Main class."""
_ATTEMPTS = 3
_POLL_S = 0.1


def _no_progress(_: str) -> None:
    pass


class KafkaBroker:
    """One KRaft node under a folder; it ends when the process that started it ends.

    The data survives stops, kills and restarts. Ports stay the same for the life of this object.

    Args:
        root: Folder of the broker: data, properties, temporary files.
        cache_dir: Root of the jar cache.
        port: Port of clients; None takes a free one.
        extra: Further listeners, each behind a proxy, and the one for devices on other machines.
        log_path: The broker's log; default ``<root>/kafka.log``.
        heap_mb: Largest Java heap, MiB.
        progress: Receives progress lines.
    """

    def __init__(
        self,
        root: Path,
        cache_dir: Path,
        *,
        port: int | None = None,
        extra: Sequence[ExtraListener | TlsListener] = (),
        log_path: Path | None = None,
        heap_mb: int = 512,
        progress: Callable[[str], None] = _no_progress,
    ) -> None:
        self._root = root
        self._cache_dir = cache_dir
        self._wanted_port = port
        self._extra = tuple(e for e in extra if isinstance(e, ExtraListener))
        self._devices = next((e for e in extra if isinstance(e, TlsListener)), None)
        self._heap_mb = heap_mb
        self._progress = progress
        self._ports: tuple[int, int] | None = None
        self._child: ChildProcess | None = None
        self._log_start: LogPosition | None = None
        self.log_path = log_path or root / "kafka.log"

    @property
    def port(self) -> int:
        """Port of clients, known once started."""
        if self._ports is None:
            raise ValueError("the broker was never started")
        return self._ports[0]

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients, known once started."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def child(self) -> ChildProcess:
        """The running process."""
        if self._child is None:
            raise ValueError("the broker is not running")
        return self._child

    def start(self, timeout_s: float = 90.0) -> Self:
        """Start and wait until it serves clients.

        Raises:
            StackError: Java, Maven, disk space or a port is missing, or the broker failed.
        """
        java = require_program("java", "openjdk-17-jre-headless")
        jars = resolve_jars(self._cache_dir, self._progress)
        self._make_folders()
        for attempt in range(_ATTEMPTS):
            self._start_once(java, jars)
            try:
                self._await_ready(timeout_s)
            except StackError:
                chosen_by_us = self._wanted_port is None and self._port_was_taken()
                self.kill()
                if not chosen_by_us or attempt == _ATTEMPTS - 1:
                    raise
                self._ports = None  # another program was faster: choose again
            else:
                return self
        raise AssertionError("unreachable")

    def restart(self) -> Self:
        """Start it again on the same port, after killing what may be left of the last run."""
        self.kill()
        return self.start()

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it in good order; kill it after ``timeout_s``. Nothing happens if it is not running."""
        if self._child is not None:
            self._child.stop(timeout_s)
            self._child = None

    def kill(self) -> None:
        """End it with SIGKILL: it cannot close its files, as in a crash."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        return self if self._child else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _make_folders(self) -> None:
        try:
            shutil.rmtree(self._root / "tmp", ignore_errors=True)  # libraries a killed broker unpacked
            (self._root / "tmp").mkdir(parents=True)
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._root).free
        except OSError as exc:
            raise StackError(f"cannot write the state folder {self._root}: {exc.strerror or exc}") from exc
        if free < NEEDED_BYTES:
            raise StackError(
                f"{self._root} has {size(free)} free, the broker needs {size(NEEDED_BYTES)}: "
                "free some space or set EDGELOOP_STATE_DIR to another disk"
            )

    def _start_once(self, java: str, jars: Path) -> None:
        if self._ports is None:
            promised = {p for e in self._extra for p in (e.bind_port, e.advertised_port)} | {
                self._wanted_port
            }
            spare, controller = free_ports(2, {p for p in promised if p is not None})
            self._ports = (self._wanted_port or spare, controller)
        for port in (self._ports[0], *(e.bind_port for e in self._extra)):
            if not is_free(port):
                raise StackError(
                    f"port {port} is taken by another program: stop it, or choose another port "
                    "(EDGELOOP_KAFKA_PORT, or unset it to take a free one)"
                )
        if self._devices is not None and not is_free(self._devices.port, self._devices.host):
            raise StackError(f"{self._devices.address} is taken by another program: stop it")
        properties = self._root / "server.properties"
        properties.write_text(
            server_properties(self._root / "data", *self._ports, self._extra, self._devices)
        )
        self._log_start = log_end(self.log_path)
        self._format(java, jars, properties)
        command = self._java(java, jars, BROKER, str(properties))
        self._child = ChildProcess("kafka", command, self.log_path)

    def _format(self, java: str, jars: Path, properties: Path) -> None:
        if (self._root / "data" / "meta.properties").exists():
            return
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # Joined by "=": one id in 64 begins with a dash and would be taken for an option.
        arguments = ["format", f"--cluster-id={cluster}", "-c", str(properties), "--ignore-formatted"]
        command = self._java(java, jars, "kafka.tools.StorageTool", *arguments)
        with ChildProcess("kafka storage format", command, self.log_path) as tool:
            tool.wait(60.0)
        if not (self._root / "data" / "meta.properties").exists():
            raise StackError(f"cannot format the broker's storage: {self._reason()}")

    def _java(self, java: str, jars: Path, main: str, *arguments: str) -> list[str]:
        return [
            java,
            *sharing(archive_of(java, jars)),
            f"-Xmx{self._heap_mb}m",
            "-Xms64m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # a faster start; the broker is not what limits a machine
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            f"-Djava.io.tmpdir={self._root / 'tmp'}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=info",  # what is refused, with who asked
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            "-cp",
            f"{jars}/*",
            main,
            *arguments,
        ]

    def _await_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not answers(LOOPBACK, self.port):
            if self.child.wait(_POLL_S):
                raise StackError(f"the broker ended at once: {self._reason()}")
            if time.monotonic() > deadline:
                raise StackError(
                    f"the broker did not open port {self.port} in {timeout_s:.0f} s: {self._reason()}"
                )
        try:
            KafkaAdmin(self.bootstrap_servers).wait_ready(max(1.0, deadline - time.monotonic()))
        except BrokerUnavailableError as exc:
            raise StackError(f"the broker does not answer: {exc}; {self._reason()}") from exc
        if self.child.exit_code is not None:
            raise StackError(f"the broker ended at once: {self._reason()}")

    def _port_was_taken(self) -> bool:
        return any(_PORT_TAKEN.search(line) for line in self._log_lines())

    def _reason(self) -> str:
        found = [m.group(0) for m in map(_REASON.search, self._log_lines()) if m]
        return f"{found[0][:200] if found else 'no reason given'} (see {self.log_path})"

    def _log_lines(self) -> list[str]:
        """The log lines of this start so far."""
        if self._child is not None:
            self._child.await_log()
        return read_since(self.log_path, self._log_start)[0].decode(errors="replace").splitlines()
