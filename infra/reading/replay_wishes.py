"""What a profile's ``[replay]`` and a person's options say about a recording, together. Pure."""

from __future__ import annotations

from infra.reading.measured_column import ColumnWishes
from infra.reading.reading_options import ReadingOptions
from infra.reading.recording_reader import ReadingWishes
from infra.reading.said_format import check_time_format
from infra.reading.time_choice import NONE, TimeWishes
from schemas.profile import Profile


def init_wishes(said: ReadingOptions) -> ReadingWishes:
    """What is decided before a profile is drafted: what a person says."""
    columns: tuple[str, ...] | None = said.time_columns or None
    return ReadingWishes(
        time=TimeWishes(() if said.no_time else columns, check_time_format(said.time_format)),
        timezone=said.timezone or "UTC",
        zone_said=bool(said.timezone),
        device_column=said.device_column,
        columns=ColumnWishes(decimal=said.decimals(), missing=said.missing, keep=said.keep),
        rate_hz=said.rate_hz or 1.0,
    )


def replay_wishes(profile: Profile, said: ReadingOptions, *, starts_now: bool = False) -> ReadingWishes:
    """What is decided before a replay: a person's options, else the profile's ``[replay]``."""
    replay = profile.replay
    given = replay.model_fields_set
    header = {c: replay.columns.get(c, c) for c in profile.channel_names}
    time: tuple[str, ...] | None = replay.time_columns or (
        (replay.time_column,) if replay.time_column else None
    )
    time_format = replay.time_format if "time_format" in given and time else ""
    if replay.time_format == NONE or said.no_time:
        time = ()
    elif said.time_columns:
        time, time_format = said.time_columns, ""
    decimal = {"": replay.decimal} if "decimal" in given else {}
    decimal |= {header[c]: mark for c, mark in replay.decimals.items()}
    return ReadingWishes(
        time=TimeWishes(time, check_time_format(said.time_format or time_format)),
        timezone=said.timezone or replay.timezone,
        zone_said=bool(said.timezone),
        device_column=said.device_column or replay.device_column,
        columns=ColumnWishes(
            decimal=decimal | said.decimals(),
            missing=(*replay.missing, *said.missing),
            sentinels={header[c]: values for c, values in replay.sentinels.items()},
            only=tuple(header.values()),
            units={header[c.name]: c.unit for c in profile.channels},
            codes={header[c]: codes for c, codes in replay.codes.items()},
        ),
        encoding=replay.encoding if "encoding" in given else "",
        delimiter=replay.delimiter if "delimiter" in given else "",
        rate_hz=said.rate_hz or profile.sampling.rate_hz,
        starts_now=starts_now,
    )
