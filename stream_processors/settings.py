"""Everything an operator can set on a stream worker."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import OperatorError

PREFIX = "STREAM_"


class StreamSettings(BaseSettings):
    """Read once, in ``__main__``, from ``STREAM_*`` variables; passed down whole."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    bootstrap_servers: str = "localhost:9092"
    namespace: str = Field("", description="Prefix of topics and of the consumer group.")
    lake_root: Path
    group: str = Field("edgeloop-stream", description="Consumer group; workers of one group share the tasks.")
    linger_s: PositiveFloat = Field(0.25, description="How long messages gather before a commit.")
    tick_s: PositiveFloat = Field(
        2.0, description="Longest time between two looks at the clock by each task."
    )
    max_batch_bytes: PositiveInt = 16 * 1024**2
    max_buffer_bytes: PositiveInt = Field(32 * 1024**2, description="Fetched and not yet committed.")
    session_timeout_s: PositiveFloat = Field(
        10.0, description="Silence after which the group drops a worker."
    )
    stall_timeout_s: PositiveFloat = Field(120.0, description="No progress for so long ends the process.")
    compact_every: PositiveInt = Field(48, description="Commits of a worker between two compactions.")
    catalog_every_s: NonNegativeFloat = Field(3.0, description="Least time between two catalog refreshes.")
    vacuum_every_s: PositiveFloat = Field(
        600.0, description="Time between two removals of files nobody can read."
    )

    @property
    def group_id(self) -> str:
        """Consumer group with its namespace."""
        return f"{self.namespace}.{self.group}" if self.namespace else self.group


def load_settings() -> StreamSettings:
    """Settings from the environment.

    Raises:
        OperatorError: A ``STREAM_*`` variable that no setting has: a misspelt one would be ignored.
    """
    known = {f"{PREFIX}{name}".upper() for name in StreamSettings.model_fields}
    strange = sorted(k for k in os.environ if k.upper().startswith(PREFIX) and k.upper() not in known)
    if strange:
        raise OperatorError(f"unknown settings {', '.join(strange)}; known: {', '.join(sorted(known))}")
    return StreamSettings()
