"""Doubts times without a zone where their name, or a column beside them, names one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from zoneinfo import available_timezones

import pyarrow as pa

from infra.reading.decision_record import Doubt
from infra.reading.number_forms import is_text
from infra.reading.time_forms import offset_s

_NAMED = re.compile(r"(?i)^(tz|time ?_?zone|zone|utc ?_?offset|gmt ?_?offset|offset|zeitzone|tz ?_?offset)$")
_OFFSET = re.compile(r"^(UTC|GMT)?\s?[+-]\d{1,2}(:?[0-5]\d)?$", re.IGNORECASE)
_UTC = re.compile(r"^(utc|gmt|z|etc/utc|(utc|gmt)?\s?[+-]?0{1,2}(:?00)?)$", re.IGNORECASE)
_IN_NAME = re.compile(r"\b(?:UTC|GMT)\s?[+-]\s?\d{1,2}(?::?[0-5]\d)?(?!\d)", re.IGNORECASE)
_BRACKETS = re.compile(r"[\[(]\s*([A-Za-z]{3,4}|[A-Z][a-z]+/[\w/]+)\s*[\])]")
_SEVERAL = ("cst", "ist", "bst")
_MOST, _PROBE = 50, 100_000


def zone_in_name(names: Iterable[str]) -> Doubt | None:
    """A doubt where the name of a column of times names a zone other than UTC."""
    for name in names:
        found, inside = _IN_NAME.search(name.replace("_", " ")), _BRACKETS.search(name)
        zone = found[0].replace(" ", "") if found else inside[1] if inside else ""
        if not zone or _UTC.match(zone) or (found is None and not _is_zone(zone)):
            continue
        what = f"the times carry no zone, and their name '{name}' says {zone}"
        return Doubt(what, (f"--timezone {_zone(zone)}", "--timezone UTC (as it stands)"))
    return None


def zone_beside(columns: Iterable[tuple[str, pa.Array]]) -> Doubt | None:
    """A doubt where one of these columns names the zone of the times, row by row, and it is not UTC.

    Args:
        columns: Names and cells of columns that are neither time nor device.
    """
    for name, cells in columns:
        named = bool(_NAMED.match(name.strip()))
        if not (is_text(cells.type) or (named and pa.types.is_integer(cells.type))):
            continue
        values = [
            str(v).strip() for v in cells.slice(0, 100_000).cast(pa.string()).unique().drop_null().to_pylist()
        ]
        zones = [v for v in values if v]
        if not zones or len(zones) > _MOST or all(map(_UTC.match, zones)):
            continue
        offsets = all(_OFFSET.match(v) for v in zones)
        if not (offsets or set(zones) <= available_timezones() or (named and all(map(str.isalpha, zones)))):
            continue
        if not named and not (offsets and all(":" in v or len(v) >= 5 for v in zones)):
            continue
        options = (
            (f"--timezone {_zone(zones[0])}",) if len(zones) == 1 else ("times that carry their offset",)
        )
        what = f"the times carry no zone, and '{name}' beside them names one"
        return Doubt(what, (*options, "--timezone UTC (as it stands)"), tuple(zones[:3]))
    return None


def _is_zone(word: str) -> bool:
    short = word.lower()
    return word in available_timezones() if "/" in word else short in _SEVERAL or bool(offset_s(short))


def _zone(text: str) -> str:
    """The IANA zone of a fixed offset of whole hours, else the text itself.

    >>> _zone("+02:00"), _zone("-5"), _zone("Europe/Berlin")
    ('Etc/GMT-2', 'Etc/GMT+5', 'Europe/Berlin')
    """
    if text.isalpha() and (seconds := offset_s(text.lower())):
        text = f"{seconds // 3600:+d}"
    found = re.fullmatch(r"(?:UTC|GMT)?\s?([+-])(\d{1,2})(?::?00)?", text, re.IGNORECASE)
    if found is None:
        return text
    return f"Etc/GMT{'-' if found[1] == '+' else '+'}{int(found[2])}"
