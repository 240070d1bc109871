"""Rows of the table ``lane_gaps``: how many message numbers of a lane have not arrived.

Numbers are dense, so a number below the highest known one that never came is a message that is on its way,
was refused, or was lost: with a spool, or because the cloud was set back to an older moment. What was
acknowledged and then lost in that way is in nobody's books here; the numbers still tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.tables import LANE_GAPS
from stream_processors.derived_provenance import derived_provenance
from stream_processors.ingest.marks import LaneMarks
from stream_processors.job import Batch, State

_MARKS, _GAP = "marks/", "gap/"


class LaneGaps(NamedTuple):
    """What changed in one commit.

    Attributes:
        rows: In the schema of ``lane_gaps``, one for each lane whose gap changed.
        state: State keys that changed: the gap of each lane that has one; None removes.
    """

    rows: pa.Table
    state: Mapping[str, int | None]


def lane_gaps(batch: Batch, state: State, changed: Mapping[str, Any], now: datetime) -> LaneGaps:
    """Gaps that are not as they were stated last.

    Args:
        batch: Names the commit.
        state: The job's state before it.
        changed: State keys that the commit changes; those of lanes count, also of lanes that are forgotten.
        now: The commit's clock, UTC.
    """
    rows: list[dict[str, Any]] = []
    updates: dict[str, int | None] = {}
    provenance = derived_provenance(batch, now)
    for key in sorted(k for k in changed if k.startswith(_MARKS)):
        lane = key.removeprefix(_MARKS)
        missing = 0 if changed[key] is None else LaneMarks.from_state(changed[key]).gap
        if missing == state.get(_GAP + lane, 0):
            continue
        producer, spool, name = lane.rsplit("/", 2)
        columns = {"device_id": producer, "spool_id": spool, "lane": name, "missing": missing}
        rows.append({**columns, **provenance, "_row": len(rows)})
        updates[_GAP + lane] = missing or None
    return LaneGaps(pa.Table.from_pylist(rows, schema=LANE_GAPS.schema), updates)
