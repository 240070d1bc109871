"""Reads payloads, lines and records as samples, by the profile's ``[source]``; counts what cannot be read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_producer.sources.samples import Sample
from schemas.errors import SourceError
from schemas.instants import from_us
from schemas.profile import Profile
from schemas.source_section import ChannelMapping

LARGEST_BYTES = 256 * 1024
"""A larger payload or line is malformed."""
_EPOCH_US = {"epoch_s": 1e6, "epoch_ms": 1e3, "epoch_us": 1.0, "epoch_ns": 1e-3}
_NOTHING = object()
COUNTS = ("payloads", "malformed", "records", "unmapped", "unreadable_time", "unparsable")


class PayloadReader:
    """Turns what a live source receives into samples.

    Args:
        profile: Channels, ``[source]``, and of ``[replay]`` the zone, the decimal mark and what is missing.

    Attributes:
        counts: ``payloads`` received, of which ``malformed`` could not be read at all; ``records`` in the
            others, of which ``unreadable_time`` is not used and ``unmapped`` has no channel of the profile;
            ``unparsable`` values in the rest, which is no number.

    Raises:
        SourceError: The profile's time zone is unknown.
    """

    def __init__(self, profile: Profile) -> None:
        self._mapping = profile.source
        self._decimal = profile.replay.decimal
        self._missing = frozenset(("", *profile.replay.missing))
        own = {n: profile.source.channels.get(n, ChannelMapping()) for n in profile.channel_names}
        self._fields = {name: (at.field or name, at.scale, at.offset) for name, at in own.items()}
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        try:
            self._zone = ZoneInfo(profile.replay.timezone)
        except (ZoneInfoNotFoundError, ValueError) as exc:
            raise SourceError(f"unknown time zone '{profile.replay.timezone}'") from exc

    def payload(
        self, data: bytes, device_id: str = "", channels: Collection[str] | None = None, plain: str = ""
    ) -> list[Sample]:
        """Samples of one payload: a plain number, a JSON object or a list of such objects.

        Args:
            data: As it came.
            device_id: Whose it is, unless it says so itself.
            channels: Those that it may hold; None: all.
            plain: Channel that a plain number is of; empty: a plain number is not expected.
        """
        self.counts["payloads"] += 1
        value = _parsed(data)
        if value is _NOTHING:
            self.counts["malformed"] += 1
            return []
        records = value if isinstance(value, list) else [value]
        samples = []
        for record in records:
            if isinstance(record, Mapping):
                sample = self.record(record, device_id, channels)
            else:
                sample = self._plain(record, device_id, plain)
            if sample is not None:
                samples.append(sample)
        return samples

    def record(
        self, record: Mapping[str, Any], device_id: str = "", channels: Collection[str] | None = None
    ) -> Sample | None:
        """The sample in an object or a line; None where it holds none, which is counted."""
        self.counts["records"] += 1
        values: dict[str, float] = {}
        for name, (path, scale, offset) in self._fields.items():
            given = _found(record, path) if channels is None or name in channels else _NOTHING
            if given is not _NOTHING and (value := self._number(given)) is not None:
                values[name] = value * scale + offset
        if not values:
            self.counts["unmapped"] += 1
            return None
        time = None
        if self._mapping.time_field:
            time = self._time(_found(record, self._mapping.time_field))
            if time is None:
                self.counts["unreadable_time"] += 1
                return None
        if self._mapping.device_field:
            named = _found(record, self._mapping.device_field)
            device_id = str(named) if isinstance(named, str | int) else device_id
        return Sample(values, time, device_id)

    def value(self, channel: str, given: object) -> float | None:
        """A plain value of a channel, in its unit; None where it is no number, which is counted."""
        value = self._number(given)
        if value is None:
            return None
        _, scale, offset = self._fields[channel]
        return value * scale + offset

    def _plain(self, given: object, device_id: str, channel: str) -> Sample | None:
        self.counts["records"] += 1
        if not channel or isinstance(given, list):
            self.counts["unmapped"] += 1
            return None
        if self._mapping.time_field:
            self.counts["unreadable_time"] += 1
            return None
        value = self.value(channel, given)
        return None if value is None else Sample({channel: value}, None, device_id)

    def _number(self, given: object) -> float | None:
        """A value as a number, NaN where it says that there is none; None where it is none: counted."""
        if given is None or (isinstance(given, str) and given.strip() in self._missing):
            return math.nan
        try:
            if isinstance(given, str):
                return float(given.strip().replace(",", ".") if self._decimal == "," else given)
            if isinstance(given, int | float):
                return float(given)
        except (ValueError, OverflowError):
            pass
        self.counts["unparsable"] += 1
        return None

    def _time(self, given: object) -> datetime | None:
        try:
            if self._mapping.time_format == "iso":
                if not isinstance(given, str):
                    return None
                time = datetime.fromisoformat(given.strip())
                return time.replace(tzinfo=self._zone) if time.tzinfo is None else time
            if not isinstance(given, str | int | float) or isinstance(given, bool):
                return None
            return from_us(round(float(given) * _EPOCH_US[self._mapping.time_format]))
        except (ValueError, OverflowError):
            return None


def _parsed(data: bytes) -> Any:
    """The payload as a JSON value; a number that only Python reads, such as ``1e3`` with blanks, too."""
    if len(data) > LARGEST_BYTES:
        return _NOTHING
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return _NOTHING
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:
            return float(text)
        except ValueError:
            return _NOTHING


def _found(record: Any, path: str) -> Any:
    """What stands under a name, or under a path of names and places with dots between."""
    if isinstance(record, Mapping) and path in record:
        return record[path]
    for part in path.split("."):
        if isinstance(record, Mapping) and part in record:
            record = record[part]
        elif isinstance(record, Sequence) and not isinstance(record, str) and part.isdecimal():
            if int(part) >= len(record):
                return _NOTHING
            record = record[int(part)]
        else:
            return _NOTHING
    return record
