"""Everything that an operator can set on the edge producer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from schemas.local_folder import NamedPath

ENV_PREFIX = "EDGE_"
PACED_SOURCES = ("simulate", "replay")
"""Sources whose samples wait for us; of all others they come when they come."""


class EdgeSettings(BaseModel):
    """Read once, in ``__main__``, from flags, a file and ``EDGE_*`` variables; passed down whole.

    Without pydantic-settings, which would take a device 4 MB for what ``load_settings`` does in a line.

    Attributes:
        name: Name of this edge process.
        state_dir: This process's own folder: spool, keys, status.
        profile: Name of a shipped profile, or path of a profile file.
        devices: Ids of the devices this process runs: a JSON list, or ids with commas between.
        gateway: Id of the gateway that sends for all of them; empty: each device sends for itself.
        bootstrap_servers: Addresses of Kafka brokers, host:port, with commas between.
        broker_tls: Reach them with mutual TLS and the certificate that the device got when it joined.
        namespace: Prefix of all topics.
        source: ``simulate``, ``replay``, ``-`` (lines of the standard input), ``mqtt://host/topic``,
            ``mqtts://host/topic`` (TLS), ``sparkplug://host/group/node/device``, ``sparkplugs://…``,
            ``opcua://host:4840/path``, or ``name`` and ``name://…`` of an entry point ``edgeloop.sources``.
        source_username: User name for the source, such as an MQTT broker.
        source_password: Its password; better in ``source_password_file``.
        source_password_file: File whose first line is that password.
        source_ca: PEM file of the authorities that may vouch for the source, or the certificate of an OPC UA
            server; None: the system's.
        source_cert: PEM file of the client certificate to show to the source, with ``source_key``.
        source_key: PEM file of its key.
        source_retry_s: Longest wait before a source that failed is opened again.
        pace: ``real``: in the source's time, or ``speed`` times faster; ``flat_out``: without waiting.
        speed: Factor on the source's time where ``pace`` is ``real``.
        scenario: JSON file of injected faults and drifts, for ``simulate``.
        recording: CSV or Parquet file of one device, or a folder of canonical recordings, for ``replay``.
        seed: Of ``simulate`` where there is no scenario.
        duration_s: Stop sensing after this many seconds of source time; None: until stopped.
        commit_interval_s: How often the spool commits and syncs where nothing is to be sent.
        row_wait_s: How long a row that is to be sent waits for rows of other devices before it is committed,
            sealed and sent; longer spares the disk, with one sync for several rows.
        linger_s: How long rows wait in the spool for a message to fill before they are sealed.
        message_rows: Most rows in one message.
        backlog_after_s: Age from which unsealed rows go to the backlog lane.
        max_in_flight: Most messages handed to Kafka and not yet acknowledged.
        stall_s: Seconds without an answer of the broker after which only alerts are sealed.
        spool_max_bytes: Size of all files of the spool together above which rows are thinned.
        disk_reserve_bytes: Free room of the disk that the spool leaves to others; None: 64 MiB, or less on a
            small disk.
        state_interval_s: Seconds between two device-state events of one device.
        books_interval_s: Shortest time between two statements on one key of the books, which then are stated
            as soon as they are settled; None: 15 s, and a key waits for the keys of the next periods.
        drain_timeout_s: Longest wait for the last acknowledgement after sensing ended.
        stop_timeout_s: Likewise after SIGTERM or SIGINT.
        realtime_priority: Priority from 2 to 99 in the system's real-time class (SCHED_FIFO) of the deciding
            thread; source, decision function and actuator have one less. None: they run in the usual class.
        actions_file: TOML file that maps action names to commands.
        offline_file: While this file exists, the sender has no network (flight mode).
        join_dir: Folder of join bundles, ``<device>.json``; None where the devices are not to join.
        update_poll_s: Mean seconds between two checks for a new model without a hint.
        data_group: Group that may read the folder, keys apart; empty: only its owner; None: as its mode says.
        shadow_previous: Whether the previous model goes on scoring in shadow after the watch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "edge"
    state_dir: NamedPath
    profile: str
    devices: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")], ...],
        Field(min_length=1),
    ]
    gateway: Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")] = ""
    bootstrap_servers: str = "localhost:9092"
    broker_tls: bool = False
    namespace: str = ""
    source: Annotated[str, Field(min_length=1)] = "simulate"
    source_username: str = ""
    source_password: SecretStr | None = None
    source_password_file: NamedPath | None = None
    source_ca: NamedPath | None = None
    source_cert: NamedPath | None = None
    source_key: NamedPath | None = None
    source_retry_s: PositiveFloat = 60.0
    pace: Literal["real", "flat_out"] = "real"
    speed: PositiveFloat = 1.0
    scenario: NamedPath | None = None
    recording: NamedPath | None = None
    seed: int = 0
    duration_s: PositiveFloat | None = None
    commit_interval_s: PositiveFloat = 1.0
    row_wait_s: NonNegativeFloat = 0.1
    linger_s: NonNegativeFloat = 0.0
    message_rows: PositiveInt = 500
    backlog_after_s: PositiveFloat = 10.0
    max_in_flight: PositiveInt = 512
    stall_s: PositiveFloat = 3.0
    spool_max_bytes: PositiveInt = 256 * 1024**2
    disk_reserve_bytes: NonNegativeInt | None = None
    state_interval_s: PositiveFloat = 15.0
    books_interval_s: PositiveFloat | None = None
    drain_timeout_s: PositiveFloat = 60.0
    stop_timeout_s: PositiveFloat = 5.0
    realtime_priority: Annotated[int, Field(ge=2, le=99)] | None = None
    actions_file: NamedPath | None = None
    offline_file: NamedPath | None = None
    join_dir: NamedPath | None = None
    update_poll_s: PositiveFloat = 60.0
    shadow_previous: bool = False
    data_group: str | None = None

    @field_validator("devices", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        """Ids from text: a JSON list, or ids with commas between."""
        if not isinstance(given, str):
            return given
        if given.lstrip().startswith("["):
            return json.loads(given)
        return [name.strip() for name in given.split(",") if name.strip()]

    @model_validator(mode="after")
    def _gateway_is_no_device(self) -> Self:
        if self.gateway in self.devices:
            raise ValueError(f"gateway {self.gateway} cannot be one of the devices behind it")
        return self

    @model_validator(mode="after")
    def _flat_out_rests_never(self) -> Self:
        if self.pace == "flat_out" and self.realtime_priority is not None:
            raise ValueError("pace flat_out never rests: leave realtime_priority out, or set pace to real")
        return self

    @model_validator(mode="after")
    def _live_in_its_own_time(self) -> Self:
        if self.source not in PACED_SOURCES and (self.pace != "real" or self.speed != 1.0):
            raise ValueError(f"source {self.source} sets its own pace: leave pace and speed alone")
        return self

    @property
    def producers(self) -> tuple[str, ...]:
        """Ids of all that have a key here: the devices, and the gateway if there is one."""
        return (*self.devices, self.gateway) if self.gateway else self.devices

    @property
    def spool_path(self) -> Path:
        """The process's spool file."""
        return self.state_dir / "spool.db"

    @property
    def keys_dir(self) -> Path:
        """Folder of the devices' keys."""
        return self.state_dir / "keys"

    @property
    def updates_dir(self) -> Path:
        """Folder of the devices' models, certificates and trust metadata."""
        return self.state_dir / "updates"

    @property
    def has_models(self) -> bool:
        """Whether the devices get their models from a service, or did so before."""
        return self.join_dir is not None or self.updates_dir.is_dir()

    @property
    def network_off(self) -> bool:
        """Whether flight mode is on."""
        return (self.offline_file or self.state_dir / "offline").exists()

    @property
    def status_path(self) -> Path:
        """Small JSON file for consoles, replaced atomically."""
        return self.state_dir / "status.json"


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """``EDGE_*`` variables that no setting reads: most likely misspelt."""
    known = {f"{ENV_PREFIX}{field}".upper() for field in (*EdgeSettings.model_fields, "config")}
    return sorted(
        n for n, _ in _variables(os.environ if environ is None else environ) if n.upper() not in known
    )


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables of the prefix, in either case."""
    return [(n, value) for n, value in environ.items() if n.upper().startswith(ENV_PREFIX)]


def load_settings(
    given: Mapping[str, tuple[Any, str]] | None = None, otherwise: Mapping[str, Any] | None = None
) -> EdgeSettings:
    """Settings from the environment, over which go those that are given otherwise.

    Args:
        given: Value and origin, for messages, of each.
        otherwise: What stands for settings that nobody gives.

    Raises:
        ValueError: A setting is misspelt, missing or out of range; names each.
    """
    unknown = unknown_variables()
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}: check the spelling")
    given = given or {}
    read = {name.upper().removeprefix(ENV_PREFIX).lower(): value for name, value in _variables(os.environ)}
    read.pop("config", None)
    try:
        values = {name: value for name, (value, _) in given.items()}
        return EdgeSettings.model_validate({**(otherwise or {}), **read, **values})
    except ValidationError as exc:
        problems = [f"{_origin(e['loc'], given)}: {e['msg']}" for e in exc.errors()]
        raise ValueError("; ".join(problems)) from exc


def _origin(place: tuple[int | str, ...], given: Mapping[str, tuple[Any, str]]) -> str:
    if place and place[0] in given:
        return given[str(place[0])][1]
    return f"{ENV_PREFIX}{'.'.join(str(part) for part in place).upper()}"
