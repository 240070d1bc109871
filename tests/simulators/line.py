"""The cloud half of the line without a broker: sealed messages in, a real lake behind."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from schemas.topics import DEVICE_PARTITIONS
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.engine.letters import Unpublished
from stream_processors.engine.pipeline import in_order
from stream_processors.engine.records import LogIdentity, event_id
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.job import RawMessage
from stream_processors.lake_jobs import senders_in
from tests.simulators.messages import MACHINE, T0, SimDirectory

IDENTITY = LogIdentity("cluster-a", {"telemetry.v1": "topic-1"})
TASK = 0


class Recorder:
    """A publisher that keeps what it published, by id.

    Attributes:
        refuses: Numbers of the messages of a record that it never takes.
    """

    def __init__(self) -> None:
        self.published: list[str] = []
        self.refuses: tuple[int, ...] = ()

    def publish(self, record, originals) -> tuple:
        taken = [i for i in range(len(record.messages)) if i not in self.refuses]
        self.published += [event_id(record.task, record.n, i) for i in taken]
        refused = [i for i in range(len(record.messages)) if i in self.refuses]
        return tuple(Unpublished(i, "the broker refuses it") for i in refused)


def make_lake(root) -> Lake:
    lake = Lake.open(root)
    lake.ensure_fixed_tables()
    ProfileRegistry(lake).register(MACHINE)
    return lake


def make_checkpoint(
    lake: Lake,
    directory: SimDirectory,
    kind: type[Checkpoint] = Checkpoint,
    identity=IDENTITY,
    recorder=None,
    jobs=None,
    held=None,
    **parts,
) -> Checkpoint:
    """A checkpoint as one worker holds it: own state, and handles of its own but for a lake that is given."""
    ticks = count()
    return kind(
        CheckpointParts(
            lake=held or Lake.open(lake.root),
            commits=CommitLog(lake.root),
            cuts=CutStore(Lake.open(lake.root)),
            jobs=in_order(jobs or [Ingest(directory)]),
            publisher=recorder or Recorder(),
            log_identity=lambda: identity,
            code={"edgeloop": "test"},
            sender_of=senders_in(directory),
            **{"clock": lambda: T0 + timedelta(minutes=2, seconds=next(ticks)), **parts},
        )
    )


def on_task(message: RawMessage, offset: int | None = None) -> RawMessage:
    """The message as if its partition were the one the tests use."""
    return message._replace(
        partition=TASK % DEVICE_PARTITIONS, offset=message.offset if offset is None else offset
    )
