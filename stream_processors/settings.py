"""Everything an operator can set on a stream worker."""

from __future__ import annotations

import os

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from feature_store.job_status import DEFAULT_RETENTION_S
from schemas.errors import OperatorError
from schemas.local_folder import LocalFolder
from schemas.offending_keys import describe

PREFIX = "STREAM_"


class StreamSettings(BaseSettings):
    """Read once, in ``__main__``, from ``STREAM_*`` variables; passed down whole."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    bootstrap_servers: str = "localhost:9092"
    namespace: str = Field("", description="Prefix of topics and of the consumer group.")
    lake_root: LocalFolder
    group: str = Field("edgeloop-stream", description="Consumer group; workers of one group share the tasks.")
    linger_s: PositiveFloat = Field(0.25, description="How long messages gather before a commit.")
    tick_s: PositiveFloat = Field(
        2.0, description="Longest time between two calls of each task's jobs, messages or not."
    )
    max_batch_bytes: PositiveInt = Field(
        32 * 1024**2, description="Memory of the messages of one commit, all tasks together."
    )
    max_buffer_bytes: PositiveInt = Field(
        64 * 1024**2,
        description="Memory of what is fetched and not yet committed; half as much again may be held so that "
        "a busy task keeps no other waiting.",
    )
    letters_per_minute: NonNegativeInt = Field(
        60,
        description="Messages that nobody registered has signed which are kept one by one, a partition and "
        "minute; the others are summed.",
    )
    letter_bytes_per_minute: NonNegativeInt = Field(
        1024**2,
        description="Bytes of these that are copied to the dead-letter topic, a partition and minute.",
    )
    session_timeout_s: PositiveFloat = Field(
        10.0, description="Time without a heartbeat after which the group drops a worker."
    )
    stall_timeout_s: PositiveFloat = Field(
        120.0, description="Time without progress after which the process ends itself."
    )
    compact_every: PositiveInt = Field(
        4, description="Commits of a worker after which it asks for a compaction, in a process of its own."
    )
    compact_memory_mb: PositiveInt = Field(512, description="Memory that this process may have, MiB.")
    catalog_every_s: NonNegativeFloat = Field(3.0, description="Least time between two catalog refreshes.")
    vacuum_every_s: PositiveFloat = Field(
        600.0, description="Time between two removals of files that no query can read any more."
    )
    scrub_every_s: PositiveFloat = Field(
        10.0, description="Least time between two turns of the scrub, which reads every data file once a day."
    )
    scrub_bytes: PositiveInt = Field(16 * 1024**2, description="What one turn of the scrub reads.")
    data_group: str | None = Field(
        None, description="Group that may read the lake; empty: only its owner; unset: as its mode says."
    )
    job_timeout_s: PositiveFloat = Field(
        120.0, description="Longest time that one call of a user job may take before its process is ended."
    )
    job_memory_mb: PositiveInt = Field(2048, description="Memory that a user job's process may have, MiB.")
    job_batch_rows: PositiveInt = Field(
        50_000, description="Rows, and raw messages, of one call of a user job; one commit is never split."
    )
    job_batch_bytes: PositiveInt = Field(16 * 1024**2, description="The same in bytes of input.")
    job_poll_s: PositiveFloat = Field(0.25, description="Time between two looks for new commits to read.")
    job_retention_s: PositiveFloat = Field(
        DEFAULT_RETENTION_S,
        description="How long data files stay that a user job has not read; older rows come from the tables.",
    )

    trial_memory_mb: PositiveInt = Field(
        1024, description="Memory of a child that tries messages over which workers died, MiB."
    )
    trial_timeout_s: PositiveFloat = Field(60.0, description="Time that one such trial may take.")

    @property
    def group_id(self) -> str:
        """Consumer group with its namespace."""
        return f"{self.namespace}.{self.group}" if self.namespace else self.group


def load_settings() -> StreamSettings:
    """Settings from the environment.

    Raises:
        OperatorError: A ``STREAM_*`` variable that is no setting, or a value does not fit.
    """
    known = {f"{PREFIX}{name}".upper() for name in StreamSettings.model_fields}
    unknown = sorted(k for k in os.environ if k.upper().startswith(PREFIX) and k.upper() not in known)
    if unknown:
        raise OperatorError(f"unknown settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return StreamSettings()
    except ValidationError as exc:
        raise OperatorError(f"a value of {PREFIX}* does not fit: {describe(exc)}") from exc
