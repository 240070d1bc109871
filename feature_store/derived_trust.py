"""Whether a process of this lake wrote a derived message; the release before signed none.

``_workers/unsigned_before.json`` records, once, how far each derived topic reached when this lake began to
sign: at the first start of a worker that signs. Before these offsets a message may be unsigned, as release
0.2.0 left it. After them, one that none of our keys signed is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from feature_store.commit_log import CommitLog
from feature_store.copies import add_copies, add_copy, copy_of, read_sound, stating_path
from feature_store.worker_keys import FOLDER, SigningRole, WorkerKeys
from schemas.derived_seal import check_derived, signer_of
from schemas.durable import DISK
from schemas.envelope import Headers
from schemas.errors import DamagedLakeError, SignatureError
from schemas.topics import AGGREGATE, DEAD_LETTER, DRIFT, LIFECYCLE, partition_for

log = logging.getLogger(__name__)

SIGNED_BY: Mapping[str, SigningRole] = {
    AGGREGATE.base: "worker",
    DRIFT.base: "worker",
    DEAD_LETTER.base: "worker",
    LIFECYCLE.base: "engine",
}
"""Role whose keys sign the messages of each derived topic."""
_FILE = "unsigned_before.json"
_DEVICE_TASKS = "task-"


class UnsignedBefore(BaseModel):
    """Content of ``unsigned_before.json``: by topic and partition, the first offset that must be signed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    offsets: dict[str, dict[int, NonNegativeInt]]

    def covers(self, topic: str, partition: int, offset: int) -> bool:
        """Whether the message is from before."""
        return offset < self.offsets.get(topic, {}).get(partition, 0)


def begin_signing(lake_root: Path, log_end: Callable[[str, int], int]) -> UnsignedBefore:
    """What this lake recorded when it began to sign; recorded now where it has not begun.

    A lake in which no task has committed yet has no earlier messages: in it all must be signed.

    Args:
        lake_root: The lake's folder.
        log_end: Offset of the next message of a topic and partition.
    """
    found = unsigned_before(lake_root)
    if found is not None:
        return found
    offsets: dict[str, dict[int, int]] = {}
    if any(task.startswith(_DEVICE_TASKS) for task in CommitLog(lake_root).tasks()):
        topics = (AGGREGATE, DRIFT, LIFECYCLE, DEAD_LETTER)
        offsets = {t.base: {p: log_end(t.base, p) for p in range(t.partitions)} for t in topics}
    path = lake_root / FOLDER / _FILE
    record = UnsignedBefore(offsets=offsets).model_dump_json().encode()
    if DISK.put_if_absent(path, stating_path(lake_root, path, record)):
        add_copy(lake_root, path)
        return UnsignedBefore(offsets=offsets)
    return begin_signing(lake_root, log_end)  # another worker was first


def unsigned_before(lake_root: Path) -> UnsignedBefore | None:
    """What the lake recorded when it began to sign; None: it has not begun.

    A damaged record comes back from its copy. Where that is damaged too, it vouches for nothing: then all
    must be signed.
    """
    path = lake_root / FOLDER / _FILE
    if not path.exists() and not copy_of(lake_root, path).exists():
        return None
    try:
        found = UnsignedBefore.model_validate(read_sound(lake_root, path))
    except (ValidationError, DamagedLakeError):
        log.warning("%s is damaged: what release 0.2.0 derived and nobody has read yet is refused", path)
        return UnsignedBefore(offsets={})
    add_copies(lake_root, [path])  # of a lake from before there were copies
    return found


class DerivedTrust:
    """Tells messages that this lake's processes wrote from those that anybody else did.

    Args:
        keys: Of the lake.
        before: Up to where a message may be unsigned; None: the lake has signed nothing yet.
    """

    def __init__(self, keys: WorkerKeys, before: UnsignedBefore | None) -> None:
        self._keys, self._before = keys, before

    @classmethod
    def of(cls, lake_root: Path) -> DerivedTrust:
        """As a reader of the lake sees it; records nothing."""
        return cls(WorkerKeys(lake_root), unsigned_before(lake_root))

    def check(
        self, topic: str, place: tuple[int, int], key: bytes | None, headers: Headers, value: bytes
    ) -> bool:
        """True if a process of ours signed the message, False if it is from before all were signed.

        Args:
            topic: A derived topic, without namespace.
            place: Partition and offset.
            key: As the log has it.
            headers: As the log has them.
            value: As the log has it.

        Raises:
            SignatureError: Neither; or it was copied to a partition where it does not belong.
        """
        partition, offset = place
        keys = self._keys.verifiers(SIGNED_BY[topic])
        earlier = self._before is None or self._before.covers(topic, partition, offset)
        if earlier and signer_of(headers) not in keys:
            return False  # unsigned, or by a key that was lost when the lake was set back
        check_derived(topic, key or b"", headers, value, keys)
        text = (key or b"").decode("utf-8", "replace")
        if topic == AGGREGATE.base and partition != partition_for(text):
            # A cohort has one task. A true partial in another would make that task judge half a cohort.
            raise SignatureError(f"messages of key {text[:64]!r} do not belong in partition {partition}")
        return True
