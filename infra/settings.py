"""Everything that an operator can set on the local stack."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import StackError
from schemas.local_folder import LocalFolder, NamedPath

DEVICE_BYTES_PER_S = 4_000_000
"""Some forty thousand rows a second: a gateway speaks for many."""
PREFIX = "EDGELOOP_"
_WILDCARDS = ("", "0.0.0.0", "::", "*")  # noqa: S104  (names them, binds nothing)
_LISTEN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """The user's state folder (XDG base directory specification), with ``edgeloop`` in it."""
    return _xdg(environ, "XDG_STATE_HOME", ".local/state") / "edgeloop"


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """The user's cache folder (XDG base directory specification), with ``edgeloop`` in it."""
    return _xdg(environ, "XDG_CACHE_HOME", ".cache") / "edgeloop"


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    value = environ.get(variable, "")
    return Path(value) if Path(value).is_absolute() else Path.home() / fallback


class StackSettings(BaseSettings):
    """Read once, by the CLI, from ``EDGELOOP_*`` variables; passed down whole."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    state_dir: LocalFolder = Field(
        default_factory=lambda: default_state_dir(os.environ),
        description="Folder of everything the stack keeps; two folders are two stacks.",
    )
    cache_dir: NamedPath = Field(
        default_factory=lambda: default_cache_dir(os.environ),
        description="Folder of what can be fetched again: the broker's jars.",
    )
    broker: str | None = Field(
        default=None, description="host:port of an existing cluster; unset: the stack starts its own broker."
    )
    kafka_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Port of the stack's own broker; unset: a free one."
    )
    listen: str | None = Field(
        default=None,
        description="Address of this machine at which devices on others reach it, with mutual TLS; "
        "unset: loopback only.",
    )
    device_bytes_per_s: Annotated[int, Field(ge=1000)] = Field(
        default=DEVICE_BYTES_PER_S,
        description="Bytes a second that each device on another machine may write to the broker; one that "
        "writes faster is made to wait.",
    )
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=64)] = Field(
        default="", description="Prefix of topics and groups, for several stacks on one cluster."
    )
    workers: Annotated[int, Field(ge=0, le=64)] = Field(default=1, description="Stream workers to run.")
    models: bool = Field(
        default=True, description="Run the model service: training, gates, delivery, rollouts."
    )
    data_group: str | None = Field(
        default=None,
        description="Group that may read the folder; empty: only its owner; unset: as its mode says.",
    )
    kafka_heap_mb: Annotated[int, Field(ge=128)] = Field(default=512, description="Java heap, MiB.")

    @property
    def lake_root(self) -> Path:
        """Folder of the lake."""
        return self.state_dir / "lake"

    @property
    def logs_dir(self) -> Path:
        """Folder of every process's log."""
        return self.state_dir / "logs"


def load_settings(environ: Mapping[str, str], **given: object) -> StackSettings:
    """Settings from the environment, overridden by what was given and is not None.

    Raises:
        StackError: A value does not fit, or a variable with this prefix is unknown (a misspelt one
            would otherwise be ignored silently).
    """
    known = {PREFIX + name.upper() for name in StackSettings.model_fields}
    unknown = sorted(v for v in environ if v.upper().startswith(PREFIX) and v.upper() not in known)
    if unknown:
        raise StackError(f"unknown variable {unknown[0]}: known are {', '.join(sorted(known))}")
    overrides = {k: v for k, v in given.items() if v is not None}
    try:
        settings = StackSettings(**overrides)  # type: ignore[arg-type]  # pydantic checks the values
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise StackError(f"{PREFIX}{name.upper()}: {first['msg']}") from exc
    if settings.broker is not None and not re.fullmatch(r"[^\s:]+:\d+(,[^\s:]+:\d+)*", settings.broker):
        raise StackError(f"{PREFIX}BROKER: {settings.broker!r} is not host:port")
    if settings.listen is not None:
        _check_listen(settings)
    paths = {f: getattr(settings, f).expanduser().absolute() for f in ("state_dir", "cache_dir")}
    return settings.model_copy(update=paths)


def _check_listen(settings: StackSettings) -> None:
    """Return if devices can be told the address, and the stack has what they need.

    Raises:
        StackError: It is a wildcard or no address, or the stack has no broker or model service of its own.
    """
    at = settings.listen or ""
    if at in _WILDCARDS:
        raise StackError(f"--listen {at}: name one address of this machine: devices are told it")
    if not _LISTEN.fullmatch(at):
        raise StackError(f"--listen {at}: no IPv4 address and no name; the port is chosen, and kept")
    if settings.broker is not None:
        raise StackError("--listen is for the stack's own broker: a cluster has listeners of its own")
    if not settings.models:
        raise StackError("--listen needs the model service, which certifies devices: EDGELOOP_MODELS")
