"""The built-in jobs, built for a lake; without Faust, so that a child process can build them too."""

from __future__ import annotations

from pathlib import Path

from feature_store.lake import Lake
from schemas.topics import DEVICE_TOPICS
from stream_processors.engine.pipeline import in_order
from stream_processors.engine.poison import SenderOf, VerifiedSender, blames_input
from stream_processors.ingest.admission import DeviceDirectory, authenticate
from stream_processors.ingest.lake_directory import LakeDirectory, directory_of
from stream_processors.job import Job, RawMessage
from stream_processors.user_jobs.job_points import built_in_points

_DEVICE_TOPICS = frozenset(t.base for t in DEVICE_TOPICS)


def installed_jobs(directory: LakeDirectory) -> tuple[Job, ...]:
    """The built-in jobs, in order, built for this directory; users' jobs run in processes of their own."""
    return in_order([point.load()(directory) for point in built_in_points()])


def jobs_of_lake(root: Path) -> tuple[Job, ...]:
    """The built-in jobs, built for the lake in this folder."""
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
