"""Everything an operator can set on the processes of the model service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import OperatorError
from schemas.local_folder import LocalFolder
from schemas.offending_keys import describe

PREFIX = "MODEL_"
Port = Annotated[int, Field(ge=0, le=65535)]


class ModelSettings(BaseSettings):
    """Settings of all processes, from ``MODEL_*`` variables; read once, in ``__main__``, and passed down."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    root: LocalFolder = Field(description="Folder of registry, repository, artifacts and keys.")
    lake_root: LocalFolder
    bootstrap_servers: str = Field("", description="Kafka for lifecycle.v1; empty: the lake only.")
    namespace: str = ""
    host: str = "127.0.0.1"
    listen: str = Field("", description="Further address to listen on, which join bundles name.")
    names: tuple[str, ...] = Field(("localhost", "127.0.0.1"), description="Names in the server certificate.")
    enrollment_port: Port = 0
    delivery_port: Port = 0
    database: str = Field("", description="SQLAlchemy URL; empty: SQLite in the root.")
    tick_s: PositiveFloat = Field(0.25, description="Pause between two checks for work.")
    certificate_s: PositiveFloat = Field(86400.0, description="Lifetime of a client certificate.")
    token_s: PositiveFloat = Field(3600.0, description="Lifetime of a join token.")
    timestamp_s: PositiveFloat = Field(86400.0, description="Lifetime of timestamp metadata.")
    snapshot_s: PositiveFloat = Field(7 * 86400.0, description="Lifetime of snapshot metadata.")
    channel_s: PositiveFloat = Field(30 * 86400.0, description="Lifetime of channel documents.")
    chunk_bytes: PositiveInt = Field(512 * 1024, description="Size of an artifact's first chunk.")
    connection_age_s: PositiveFloat = Field(3600.0, description="Longest life of one connection.")
    stranger_s: PositiveFloat = Field(20.0, description="Time for a connection to show who calls.")
    drain_s: PositiveFloat = Field(5.0, description="Time for running calls when the server stops.")

    data_group: str | None = Field(
        None, description="Group that may read the root; empty: only its owner; unset: as its mode says."
    )

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the registry."""
        return self.database or f"sqlite:///{self._database_file}"

    @property
    def has_registry(self) -> bool:
        """Whether there is a registry to read; without one, no model service ever ran here."""
        return bool(self.database) or self._database_file.exists()

    @property
    def _database_file(self) -> Path:
        return self.root / "registry.db"

    @property
    def repository(self) -> Path:
        """TUF repository: ``metadata/`` and ``targets/``; any HTTP server can serve it."""
        return self.root / "repository"

    @property
    def proposals(self) -> Path:
        """Metadata that lacks signatures, by role."""
        return self.root / "proposals"

    @property
    def artifacts(self) -> Path:
        """Bundles by SHA-256, published or not."""
        return self.root / "artifacts"

    @property
    def keys(self) -> Path:
        """Online keys, one folder a process: ``trainer``, ``gate``, ``engine``, ``guard``."""
        return self.root / "keys"

    @property
    def offline_keys(self) -> Path:
        """Encrypted offline keys: root, targets, policy, person. To be moved to a safe place."""
        return self.root / "offline-keys"

    @property
    def pki(self) -> Path:
        """Certificate authority (only the engine reads ``ca.key``), server's and people's certificates."""
        return self.root / "pki"

    @property
    def address_file(self) -> Path:
        """JSON of host and the ports that the serving process listens on."""
        return self.root / "address.json"

    @property
    def ports_file(self) -> Path:
        """JSON of the ports that the serving process has had: devices look for it there."""
        return self.root / "ports.json"

    @property
    def refusals_file(self) -> Path:
        """JSON of what the serving process refused since it started."""
        return self.root / "refusals.json"


def load_settings() -> ModelSettings:
    """The settings of this environment.

    Raises:
        OperatorError: There is a ``MODEL_*`` variable that is no setting, or a value does not fit.
    """
    known = {f"{PREFIX}{name}".upper() for name in ModelSettings.model_fields}
    unknown = sorted(k for k in os.environ if k.upper().startswith(PREFIX) and k.upper() not in known)
    if unknown:
        raise OperatorError(f"unknown settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return ModelSettings()
    except ValidationError as exc:
        raise OperatorError(f"a value of {PREFIX}* does not fit: {describe(exc)}") from exc
