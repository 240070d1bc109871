"""The local stack: broker, topics, lake and stream workers, owned by one process."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import KafkaBroker
from infra.kafka.kafka_config import ExtraListener, TlsListener
from infra.process.child import ChildProcess, created_at
from infra.process.ports import free_ports, is_free
from infra.settings import StackSettings
from infra.stack.device_access import DeviceAccess, kept_address
from infra.stack.join_addresses import JoinAddresses
from infra.stack.kept_port import keep_front, keep_port, kept_front, kept_port
from infra.stack.model_processes import SERVING, await_serving, prepare, spawners
from infra.stack.model_settings import model_settings
from infra.stack.stack_file import (
    RESTORING,
    BrokerFront,
    DeviceAddress,
    ProcessEntry,
    StackFile,
    StackLock,
    read_stack,
    remove_stack,
    write_stack,
)
from infra.stack.supervision import Supervised
from model_service import RevocationCopies
from schemas.durable import ABANDONED_S, DISK
from schemas.errors import BrokerUnavailableError, DamagedFileError, PipelineError, StackError
from schemas.folder_access import guard_folder, guard_new_files
from schemas.profile_file import builtin_profiles, load_profile

log = logging.getLogger(__name__)

SITE_LISTENER = "SITE"
STACK_LOCK_HINT = "run `edgeloop status` to see it, `edgeloop down` to end it"
_CHECK_S = 0.5
_REACH_S = 5.0
_WORKER_STOP_S = 20.0
_BESIDE_0_2 = "stack.json.*.partial"
"""Temporary files that a crash of release 0.2.0 may have left."""


def _no_progress(_: str) -> None:
    pass


class Stack:
    """Starts everything, keeps it running, and takes it down; its processes never outlive the owner's.

    Args:
        settings: Folders, broker and number of workers.
        owner: Command that holds the stack, for status.
        progress: Receives progress lines.
        before_start: Called with the folder once this process holds it, before anything starts.
    """

    def __init__(
        self,
        settings: StackSettings,
        owner: str = "command",
        progress: Callable[[str], None] = _no_progress,
        before_start: Callable[[Path], None] | None = None,
    ) -> None:
        self.settings = settings
        self.bootstrap_servers = settings.broker or ""
        self.site: BrokerFront | None = None
        self._progress = progress
        self._before_start = before_start
        self._lock = StackLock(settings.state_dir)
        self._broker: KafkaBroker | None = None
        self._processes: list[Supervised] = []
        self._guests: list[ChildProcess] = []
        self._stopping = threading.Event()
        self._changing = threading.RLock()
        self._watcher: threading.Thread | None = None
        self._addresses: JoinAddresses | None = None
        self._access: DeviceAccess | None = None
        self._file = StackFile(
            state="starting",
            owner=owner,
            pid=os.getpid(),
            created=created_at(os.getpid()),
            started_at=datetime.now(UTC),
            own_broker=settings.broker is None,
            namespace=settings.namespace,
        )

    def start(self) -> Self:
        """Start all parts in order; returns when topics and tables are there and workers run.

        Raises:
            StackError: Another process holds this folder's stack, or a part cannot start.
        """
        if not self._acquire():
            raise StackError(f"a stack is up in {self.settings.state_dir} already: {STACK_LOCK_HINT}")
        try:
            _require_whole(self.settings.state_dir)
            DISK.sweep(self.settings.state_dir, time.time() - ABANDONED_S, (_BESIDE_0_2,))
            guard_folder(self.settings.state_dir, self.settings.data_group)
            if self._before_start is not None:
                self._before_start(self.settings.state_dir)
            self._publish(state="starting")
            self._start_broker()
            self._progress("creating topics and tables")
            KafkaAdmin(self.bootstrap_servers).create_topics(self.settings.namespace)
            if self._access is not None:
                self._access.admit(self.bootstrap_servers, self.settings.namespace)
            _prepare_lake(self.settings.lake_root)
            for number in range(1, self.settings.workers + 1):
                self._keep(f"worker-{number}", self._worker_spawner(f"worker-{number}"))
            if self.settings.models:
                self._start_models()
        except BaseException as exc:
            self._take_down()
            self._publish(state="failed", error=str(exc), processes=())
            self._lock.release()
            raise
        for process in self._processes:
            process.check(time.monotonic())  # one may have ended meanwhile: nobody should read `running`
        self._publish(state="ready")
        self._watcher = threading.Thread(target=self._watch, name="stack-watcher", daemon=True)
        self._watcher.start()
        self._progress(f"stack is up: broker {self.bootstrap_servers}, {self.settings.workers} worker(s)")
        return self

    def stop(self) -> None:
        """Take everything down, workers before the broker. Stopping twice changes nothing."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
            self._publish(state="stopping")
            self._take_down()
            remove_stack(self.settings.state_dir)
            self._lock.release()

    def adopt(self, child: ChildProcess) -> None:
        """List a process of the owner in status, such as a demo's edge process; the owner ends it."""
        with self._changing:
            self._guests.append(child)
            self._publish()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _acquire(self) -> bool:
        guard_new_files(self.settings.state_dir, self.settings.data_group)
        try:
            self.settings.logs_dir.mkdir(parents=True, exist_ok=True)
            return self._lock.acquire()
        except OSError as exc:
            raise unwritable(self.settings.state_dir, exc) from exc

    def _start_broker(self) -> None:
        if self.settings.broker is not None:
            self._progress(f"connecting to the broker {self.settings.broker}")
            self._reach(self.settings.broker)
            return
        port = self.settings.kafka_port or self._earlier_port()
        site = self._earlier_front() or self._new_front(port)
        devices = self._device_listener({p for p in (port, site.bind_port, site.front_port) if p})
        broker = KafkaBroker(
            self.settings.state_dir / "kafka",
            self.settings.cache_dir,
            port=port,
            extra=[ExtraListener(SITE_LISTENER, site.bind_port, site.front_port), *filter(None, [devices])],
            log_path=self.settings.logs_dir / "kafka.log",
            heap_mb=self.settings.kafka_heap_mb,
            progress=self._progress,
        )
        self._progress("starting Kafka")
        self._broker = broker
        self._keep("kafka", lambda: broker.restart().child)
        self.bootstrap_servers = broker.bootstrap_servers
        keep_port(self.settings.state_dir, broker.port)
        keep_front(self.settings.state_dir, site)
        self.site = site
        at = None if devices is None else DeviceAddress(host=devices.host, port=devices.port)
        self._publish(bootstrap_servers=self.bootstrap_servers, site=self.site, devices=at)

    def _device_listener(self, promised: set[int]) -> TlsListener | None:
        """The broker's listener for devices on other machines, where it is to have one."""
        host = self.settings.listen
        if host is None:
            if (kept := kept_address(self.settings.state_dir)) is not None:
                self._progress(
                    f"devices on other machines know this stack at {kept.broker}, and cannot reach it now: "
                    f"`edgeloop up --listen {kept.host}`"
                )
            return None
        models = model_settings(self.settings)
        access = DeviceAccess(
            self.settings.state_dir,
            host,
            models,
            lambda: RevocationCopies(models.root).all().devices,
            self.settings.device_bytes_per_s,
        )
        listener = access.prepare(promised)
        self._access = access
        return listener

    def _earlier_port(self) -> int | None:
        """Port that this folder's broker had before, if it is free: devices then find the broker again."""
        port, problem = kept_port(self.settings.state_dir)
        if problem:
            self._progress(problem)
        return port if port is not None and is_free(port) else None

    def _earlier_front(self) -> BrokerFront | None:
        """The second listener as it was before, if its port is free: who uses it then finds it again.

        A proxy may listen on the front's port already.
        """
        front = kept_front(self.settings.state_dir)
        return front if front is not None and is_free(front.bind_port) else None

    @staticmethod
    def _new_front(port: int | None) -> BrokerFront:
        bind, front = free_ports(2, () if port is None else (port,))
        return BrokerFront(bind_port=bind, front_port=front)

    def _reach(self, address: str) -> None:
        try:
            KafkaAdmin(address).wait_ready(_REACH_S)
        except BrokerUnavailableError as exc:
            raise StackError(f"no broker answers at {address}: check --broker and the network") from exc
        self._publish(bootstrap_servers=address)

    def _keep(self, name: str, spawn: Callable[[], ChildProcess]) -> None:
        self._processes.append(Supervised(name, spawn, spawn(), time.monotonic()))
        self._publish()

    def _worker_spawner(self, name: str) -> Callable[[], ChildProcess]:
        command = [sys.executable, "-m", "stream_processors", "worker"]
        log_path = self.settings.logs_dir / f"{name}.log"
        env = worker_environment(self.bootstrap_servers, self.settings.namespace, self.settings.lake_root)
        return lambda: ChildProcess(name, command, log_path, env, grace_s=_WORKER_STOP_S)

    def _start_models(self) -> None:
        models = model_settings(self.settings, self.bootstrap_servers)
        self._try_models(lambda: prepare(models, self._progress))
        self._addresses = JoinAddresses(models, self.settings.state_dir / "edge")
        self._progress("starting the model service")
        for name, spawn in spawners(models, self.settings.logs_dir).items():
            self._keep(name, spawn)
        serving = next(p.child for p in self._processes if p.name == SERVING)
        self._try_models(lambda: await_serving(models, serving))
        self._follow_addresses()

    def _try_models(self, step: Callable[[], None]) -> None:
        """A step without which the model service does not work, but everything else does."""
        try:
            step()
        except DamagedFileError as exc:
            log.error("the model service: %s", exc)  # noqa: TRY400  (the message says what to do)
            line = f"the model service does not work; broker, lake and workers do: {exc}"
            self._progress(line)
            self._publish(warnings=(*self._file.warnings, line))

    def _follow_addresses(self) -> None:
        """Tell this machine's devices where the model service is now."""
        if self._addresses is not None and (moved := self._addresses.update()):
            log.warning("%s", moved)
            self._progress(moved)

    def _watch(self) -> None:
        while not self._stopping.wait(_CHECK_S):
            for process in self._processes:
                try:
                    changed = process.check(time.monotonic())
                except PipelineError:
                    log.exception("%s could not be started again", process.name)
                    changed = True
                if changed:
                    self._publish()
            self._follow_addresses()
            if self._access is not None:
                self._access.update(self.bootstrap_servers)
            if not self._lock.keep():
                log.error("another process has taken the folder's lock: end one of the two stacks")
            if read_stack(self.settings.state_dir) != self._file:  # somebody damaged or removed it
                self._publish()

    def _take_down(self) -> None:
        workers = [p.child for p in self._processes if p.name != "kafka"]
        for child in workers:
            child.terminate()
        for child in workers:
            child.stop(_WORKER_STOP_S)
        if self._broker is not None:
            self._broker.stop()
        self._processes.clear()

    def _publish(self, **changes: object) -> None:
        with self._changing, contextlib.suppress(FileNotFoundError):  # a person removed the folder
            guests = tuple(
                ProcessEntry(name=c.name, pid=c.pid, created=c.created, log=c.log_path)
                for c in self._guests
                if c.exit_code is None
            )
            entries = (*(p.entry() for p in self._processes), *guests)
            self._file = self._file.model_copy(update={"processes": entries, **changes})
            write_stack(self.settings.state_dir, self._file)


def _prepare_lake(root: Path) -> None:
    """Make the tables, and register the shipped profiles that the lake does not know.

    What a device sends whose profile nobody registered is refused.
    """
    lake = Lake.open(root)
    lake.ensure_fixed_tables()
    registry = ProfileRegistry(lake)
    known = registry.profiles()
    for name, path in builtin_profiles().items():
        if name not in known:
            registry.register(load_profile(path))


def _require_whole(state_dir: Path) -> None:
    """Return unless a restore into the folder was interrupted."""
    if (state_dir / RESTORING).exists():
        raise StackError(f"a restore into {state_dir} was interrupted: run `edgeloop restore` again")


def unwritable(state_dir: Path, error: OSError) -> StackError:
    """The error for a state folder that cannot be written."""
    return StackError(
        f"cannot write the state folder {state_dir}: {error.strerror or error}; set EDGELOOP_STATE_DIR"
    )


def worker_environment(bootstrap_servers: str, namespace: str, lake_root: Path) -> dict[str, str]:
    """Environment of a stream worker of this stack; the user's own ``STREAM_*`` settings stay."""
    return {
        **os.environ,
        "STREAM_BOOTSTRAP_SERVERS": bootstrap_servers,
        "STREAM_NAMESPACE": namespace,
        "STREAM_LAKE_ROOT": str(lake_root),
    }
