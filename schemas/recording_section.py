"""The section ``[replay]`` of a profile: how a recording is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from schemas.section import Section


class Replay(Section):
    """How a recording's columns map to channels.

    Attributes:
        time_column: Column with the sample's time, by its name or as ``#2`` by its number; empty: samples are
            ``1 / rate_hz`` apart.
        time_columns: Columns that hold the time together, such as a date and a time of day.
        time_format: strptime format, ``iso``, ``epoch_s``, ``epoch_ms``, ``epoch_us`` or ``epoch_ns``; and
            what `edgeloop replay` alone reads: ``day_first``, ``month_first``, ``year_first``, ``written``,
            ``excel``, ``matlab``, ``julian``, ``mjd``, ``since_1904``, ``epoch_min``, ``filetime``,
            ``dotnet``, ``relative_s`` and other units.
        timezone: IANA zone of times without one.
        columns: Channel name to column name; any other channel reads the column of its own name.
        device_column: Column that names the devices; ``@file``: each file is one; empty: one device.
        decimals: Channel to its column's decimal mark, where that is not ``decimal``.
        sentinels: Channel to values that mean "no value"; of other channels `edgeloop replay` finds them.
        codes: Channel to the numbers that stand for its column's texts.
        missing: Cell texts that mean "no value", beside the empty cell.
        max_gap_steps: Longest step, in nominal steps, that a window may span (its samples are then
            missing); after a longer one a new window starts. Never more than the window's length.
    """

    time_column: str = ""
    time_columns: tuple[str, ...] = ()
    time_format: str = "iso"
    timezone: str = "UTC"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    columns: dict[str, str] = Field(default={})
    device_column: str = ""
    decimals: dict[str, Literal[".", ","]] = Field(default={})
    sentinels: dict[str, tuple[float, ...]] = Field(default={})
    codes: dict[str, dict[str, float]] = Field(default={})
    missing: tuple[str, ...] = ("NA", "NaN", "nan", "null", "None", "-", "?")
    max_gap_steps: PositiveFloat = 5.0


YOUNGER_REPLAY_KEYS = ("time_columns", "device_column", "decimals", "sentinels", "codes")
"""Keys of ``[replay]`` that release 0.2.0 does not know; each is empty by default."""
KEYED_BY_CHANNEL = ("columns", "decimals", "sentinels", "codes")
"""Keys of it that say something channel by channel."""
