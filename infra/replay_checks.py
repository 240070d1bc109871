"""What a replay checks and counts around the pipeline: rate, units, rows of reader and source, time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.printing import share, span
from infra.reading.decision_record import DecisionRecord, Doubt
from infra.reading.unit_conversion import plain_unit
from schemas.errors import ProfileError
from schemas.profile import Profile

UNKNOWN_UNIT = "?"
"""What a draft says where the file states no unit."""


def source_counts(counted: Mapping[str, int], record: DecisionRecord) -> dict[str, int]:
    """What the reader dropped and what the source counted of the rest, together: ``rows`` are the files' own.

    ``rows = samples + duplicate + out_of_order + unreadable_time + malformed``, exactly.
    """
    counts = Counter({name: int(n) for name, n in counted.items()})
    counts["malformed"] += record.dropped.get("malformed", 0)
    counts["unreadable_time"] += record.dropped.get("unreadable_time", 0)
    counts["duplicate"] += record.dropped.get("duplicate", 0) + record.dropped.get("repeated", 0)
    counts["rows"] = record.rows
    cells = [c.cells for c in record.columns if c.use == "channel"]
    lost = sum(c.get("unreadable", 0) for c in cells)
    counts["unparsable"] += lost
    counts["sentinel"] += sum(c.get("sentinel", 0) for c in cells)
    counts["blank"] = max(0, counts["blank"] - lost - counts["sentinel"])
    return dict(counts)


def with_rate_doubt(record: DecisionRecord, rate_hz: float) -> DecisionRecord:
    """The record, with a doubt if the file's rate is not the profile's: windows would last otherwise."""
    if record.rate_hz is None or 0.5 <= record.rate_hz / rate_hz <= 2:
        return record
    what = f"the file has {record.rate_hz:.6g} rows a second, the profile expects {rate_hz:.6g}"
    doubt = Doubt(what, ("another profile (edgeloop profile init)", "--time-column", "--force"))
    return replace(record, doubts=(*record.doubts, doubt))


@dataclass
class Remaining:
    """How long a replay will still take, by the rows that were read so far.

    Attributes:
        rows: All rows.
    """

    rows: int
    _first: tuple[float, int] | None = None

    def words(self, read: int, now: float) -> str:
        """How much is done, and the time that is left, if the pace so far lasts.

        Args:
            read: Rows read so far.
            now: Seconds on any clock that does not step.
        """
        if self._first is None or read == 0:
            self._first = (now, read) if read else None
            return f"{share(read / max(self.rows, 1))} read"
        began, at_first = self._first
        pace = (read - at_first) / max(now - began, 1e-9)
        if read >= self.rows:
            return "all read, landing"
        left = f", {span((self.rows - read) / pace)} left" if pace > 0 else ""
        return f"{share(read / max(self.rows, 1))} read{left}"


def refuse_other_units(lake: Lake, profile: Profile) -> None:
    """Refuse a profile of which a channel is known in another unit: both would land in one column.

    Raises:
        ProfileError: Such a profile is registered.
    """
    known = ProfileRegistry(lake).profiles().get(profile.name)
    units = {} if known is None else {c.name: c.unit for c in known.channels}
    for channel in profile.channels:
        registered = units.get(channel.name, channel.unit)
        unknown = UNKNOWN_UNIT in (registered, channel.unit)  # nobody has filled it in yet
        if not unknown and plain_unit(registered) != plain_unit(channel.unit):
            raise ProfileError(
                f"profile {profile.name}: channel {channel.name} is registered in {registered}, this profile "
                f"has it in {channel.unit}: give the profile another name (`profile init --name`), or the "
                "channel"
            )
