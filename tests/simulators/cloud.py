"""Real stream workers as processes over a real broker and lake, and devices that feed them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import confluent_kafka as ck

from feature_store import connect
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from infra.process.child import ChildProcess
from tests.simulators.messages import MACHINE, SimDevice
from tests.waiting import wait_until


class Cloud:
    """One lake and the workers of one namespace. Ends every worker it started."""

    def __init__(
        self,
        bootstrap_servers: str,
        namespace: str,
        folder: Path,
        session_timeout_s: float = 6.0,
        environment: dict[str, str] | None = None,
    ):
        self._environment = environment or {}
        self.servers, self.namespace, self.folder = bootstrap_servers, namespace, folder
        self._session_timeout_s = session_timeout_s
        self.lake = Lake.open(folder / "lake")
        self.lake.ensure_fixed_tables()
        ProfileRegistry(self.lake).register(MACHINE)
        self.workers: list[ChildProcess] = []
        self._supervised: list[tuple[ChildProcess, tuple[str, ...]]] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.kill()

    def register(self, *devices: SimDevice) -> None:
        keys = {d.device_id: (d.signer.key_id, d.signer.public_pem().decode()) for d in devices}
        DeviceRegistry(self.lake).register(
            [DeviceRecord(name, "machine", "test", "default", "sim", *key) for name, key in keys.items()]
        )

    def start(self, *module: str) -> ChildProcess:
        """A worker, or the module given with its arguments."""
        command = [sys.executable, "-m", *(module or ("stream_processors", "worker"))]
        env = {
            **os.environ,
            "STREAM_BOOTSTRAP_SERVERS": self.servers,
            "STREAM_NAMESPACE": self.namespace,
            "STREAM_LAKE_ROOT": str(self.lake.root),
            "STREAM_SESSION_TIMEOUT_S": str(self._session_timeout_s),
            **self._environment,
        }
        name = f"worker-{len(self.workers)}"
        worker = ChildProcess(name, command, self.folder / f"{name}.log", env)
        self.workers.append(worker)
        return worker

    def supervise(self, *module: str) -> None:
        """Start a worker, and start it again whenever it has ended by itself, as the stack does."""
        self._supervised.append((self.start(*module), module))

    def _restart_ended(self) -> None:
        ended = [(w, module) for w, module in self._supervised if w.exit_code is not None]
        self._supervised = [entry for entry in self._supervised if entry not in ended]
        for _, module in ended:
            self.supervise(*module)

    def await_settled(self, worker: ChildProcess, times: int = 1) -> None:
        wait_until(
            lambda: worker.log_path.read_text().count("settled: ") >= times, 40, f"{worker.name} settled"
        )

    def landed(self) -> tuple[int, int]:
        """Rows of telemetry that queries return: all, and distinct."""
        self._restart_ended()
        if CutStore(self.lake).latest() is None:
            return 0, 0
        con = connect(self.lake.root, comments=False)
        return con.execute(
            "SELECT count(*), count(DISTINCT (device_id, boot_id, seq)) FROM telemetry_machine"
        ).fetchone()

    def await_landed(self, rows: int, timeout_s: float = 90) -> None:
        wait_until(lambda: self.landed()[1] >= rows, timeout_s, f"{rows} rows to be queryable")


class Feed:
    """Devices that send messages of a few rows; every row counts once it is acknowledged."""

    def __init__(self, cloud: Cloud, devices: int = 16, rows: int = 5) -> None:
        self.devices = [SimDevice(f"machine-{i:02d}") for i in range(devices)]
        self.rows_per_message = rows
        self.acked = 0
        self._sent = 0
        self._cloud = cloud
        self._producer = ck.Producer(
            {"bootstrap.servers": cloud.servers, "enable.idempotence": True, "partitioner": "murmur2"}
        )
        if self.devices:
            cloud.register(*self.devices)

    def send(self, messages: int, repeat: int = 0) -> None:
        """Send this number of messages of each device in turn, the first ``repeat`` of them twice."""
        for number in range(messages):
            for device in self.devices:
                sealed = device.rows(self._sent, self.rows_per_message)
                for _ in range(2 if number < repeat else 1):
                    self._produce(sealed)
            self._sent += self.rows_per_message
        assert self._producer.flush(60) == 0

    def send_from(self, seq: int) -> None:
        """Send one row of each device, with this sequence number; they do not count as ``rows``."""
        for device in self.devices:
            self._produce(device.rows(seq, 1))
        assert self._producer.flush(60) == 0

    @property
    def rows(self) -> int:
        """Rows sent, repeats not counted."""
        return self._sent * len(self.devices)

    def _produce(self, sealed) -> None:
        topic = f"{self._cloud.namespace}.{sealed.topic}"
        self._producer.produce(
            topic, key=sealed.key, value=sealed.value, headers=sealed.headers, on_delivery=self._on
        )
        self._producer.poll(0)

    def _on(self, error, _message) -> None:
        assert error is None, error
        self.acked += 1
