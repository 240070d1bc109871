"""Bounds on what this process takes out of a fetch: a batch at most, and a few megabytes at a time.

``checked_records`` bounds what one batch unpacks to. A fetch of a megabyte can hold hundreds of such batches,
and aiokafka would unpack as many of them in one call as it was asked for records. Line numbers are those of
aiokafka 0.14.0, which has no setting for this.
"""

from __future__ import annotations

from typing import Any

from aiokafka.consumer import fetcher

from stream_processors.engine.checked_records import FetchedRecord, check_all_batches

MAX_TAKEN_BYTES = 4 * 1024**2
"""Bytes of one partition that are taken out of a fetch at a time."""

_UnboundedResult = fetcher.FetchResult


def install() -> None:
    """Bound every consumer of this process; may be called again."""
    check_all_batches()
    vars(fetcher)["FetchResult"] = BoundedFetchResult


class BoundedFetchResult(_UnboundedResult):  # type: ignore[misc, valid-type]  # aiokafka is untyped
    """One partition's part of a fetch, taken out a few megabytes at a time."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[FetchedRecord]:
        """The next records, about ``MAX_TAKEN_BYTES`` at most (as consumer/fetcher.py:124)."""
        found: list[FetchedRecord] = []
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return found
        size = 0
        for record in self._partition_records:
            found.append(record)
            size += len(record.value or b"") + len(record.key or b"")
            if size >= MAX_TAKEN_BYTES or len(found) == max_records:
                self._update_position()
                return found
        self._update_position()
        self._partition_records = None
        return found
