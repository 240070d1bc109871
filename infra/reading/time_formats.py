"""Finds the strptime format of written times, as a profile keeps it. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

import numpy as np
import pyarrow as pa

from infra.reading.time_forms import OPEN_FORMS, ORDERS, PATTERNS, Ints, as_bools

SAMPLE = 2000
WRITTEN = "written"
"""The format of times that `edgeloop replay` reads by itself and a strptime format does not describe."""


def profile_format(form: str, order: str, text: pa.Array, read: Ints) -> str:
    """The strptime format that reads every sampled cell alike; ``written`` or the order: there is none."""
    cells = [str(c) for c in sample_of(text).slice(0, 300).to_pylist()]
    fallback = order if form in OPEN_FORMS else WRITTEN
    valid = as_bools(text.is_valid())
    places = np.flatnonzero(valid)
    step = max(1, len(places) // SAMPLE)
    expected = read[places[::step][: len(cells)]]
    if form == "ymd" and all(_iso(c, us) for c, us in zip(cells, expected, strict=False)):
        return "iso"
    found = re.match(rf"^{PATTERNS[form]}$", cells[0], re.IGNORECASE) if cells else None
    if found is None:
        return fallback
    made = directives(found, order, cells[0])
    try:
        same = all(_us(datetime.strptime(c, made)) == us for c, us in zip(cells, expected, strict=False))  # noqa: DTZ007
    except ValueError:
        return fallback
    return made if same else fallback


def directives(found: re.Match[str], order: str, cell: str) -> str:
    """The strptime format of one cell, by the groups that its form found in it."""
    short_year = len(found.groupdict().get("y") or found.groupdict().get("c") or "0000") == 2
    year = "%y" if short_year else "%Y"
    abc = {
        "day_first": ("%d", "%m", year),
        "month_first": ("%m", "%d", year),
        "year_first": ("%y", "%m", "%d"),
    }
    a, b, c = abc.get(order, abc["day_first"])
    half = bool(found.groupdict().get("ap"))
    words = {
        "a": a,
        "b": b,
        "c": c,
        "y": year,
        "m": "%m",
        "d": "%d",
        "doy": "%j",
        "h": "%I" if half else "%H",
    }
    words |= {"mi": "%M", "s": "%S", "f": "%f", "ap": "%p", "z": "%z"}
    words["mon"] = "%b" if len(found.groupdict().get("mon") or "") <= 3 else "%B"
    pieces, at = [], 0
    spans = sorted((found.span(g), g) for g, v in found.groupdict().items() if v and g in words)
    for (start, end), group in spans:
        pieces += [cell[at:start].replace("%", "%%"), words[group]]
        at = end
    return "".join([*pieces, cell[at:].replace("%", "%%")])


def without_halves(form: str) -> str:
    """A format under which the halves of the day are decided anew: an order of day and month, or ``written``.

    >>> without_halves("%d/%m/%Y %H:%M"), without_halves("month_first"), without_halves("iso")
    ('day_first', 'month_first', 'written')
    """
    if form in ORDERS or "%" not in form:
        return form if form in ORDERS else WRITTEN
    return WRITTEN if 0 <= form.find("%Y") < form.find("%d") else order_of(form) or WRITTEN


def order_of(said: str) -> str:
    """The order of day and month in a strptime format."""
    place = {d: said.find(d) for d in ("%d", "%m", "%y", "%Y")}
    if place["%d"] < 0 or place["%m"] < 0:
        return ""
    if place["%y"] >= 0 and place["%y"] < place["%d"]:
        return "year_first"
    return "day_first" if place["%d"] < place["%m"] else "month_first"


def sample_of(text: pa.Array) -> pa.Array:
    """Some cells that hold something, from the whole column."""
    given = text.drop_null()
    step = max(1, len(given) // SAMPLE)
    return given.take(pa.array(range(0, len(given), step)[:SAMPLE], pa.int64()))


def _iso(cell: str, us: int) -> bool:
    try:
        return _us(datetime.fromisoformat(cell)) == us
    except ValueError:
        return False


def _us(at: datetime) -> int:
    zone: tzinfo = at.tzinfo or UTC
    delta = at.replace(tzinfo=zone) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
