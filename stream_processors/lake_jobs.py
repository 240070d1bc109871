"""The installed jobs, built for a lake; without Faust, so that a child process can build them too."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRegistry, ProfileRegistry
from schemas.topics import DEVICE_TOPICS
from stream_processors.engine.pipeline import in_order
from stream_processors.engine.poison import SenderOf, VerifiedSender, blames_input
from stream_processors.ingest.admission import DeviceDirectory, authenticate
from stream_processors.ingest.lake_directory import LakeDirectory
from stream_processors.job import Job, RawMessage

JOBS = "edgeloop.jobs"
"""Entry point group by which jobs are found, a user's own like the built-in ones."""
_DEVICE_TOPICS = frozenset(t.base for t in DEVICE_TOPICS)


def installed_jobs(directory: LakeDirectory) -> tuple[Job, ...]:
    """All jobs found by entry point, in order, built for this directory."""
    return in_order([point.load()(directory) for point in entry_points(group=JOBS)])


def directory_of(lake: Lake) -> LakeDirectory:
    """Lookups in this lake."""
    return LakeDirectory(ProfileRegistry(lake), DeviceRegistry(lake))


def jobs_of_lake(root: Path) -> tuple[Job, ...]:
    """All jobs, built for the lake in this folder."""
    return installed_jobs(directory_of(Lake.open(root)))


def senders_in(directory: DeviceDirectory) -> SenderOf:
    """Finds out who signed a message. A message of our own jobs counts as sent by its key, the cohort."""

    def sender_of(message: RawMessage) -> VerifiedSender | None:
        if message.topic not in _DEVICE_TOPICS:
            return VerifiedSender((message.key or b"").decode("utf-8", "replace"), 0)
        try:
            envelope, _ = authenticate(message, directory)
        except Exception as exc:
            if not blames_input(exc):
                raise
            return None  # whatever it is that breaks here too, it has no signature that holds
        return VerifiedSender(envelope.producer, envelope.n_rows)

    return sender_of
