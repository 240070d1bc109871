"""How times, shares, sizes and counts are printed for people, one form each; `--json` prints raw values.

``None`` prints as nothing, so that a table keeps an empty cell; a sentence writes ``size(n) or UNKNOWN``.
"""

from __future__ import annotations

from datetime import UTC, datetime

from rich.filesize import decimal

from schemas.escaping import escaped_line

UNKNOWN = "n/a"
"""What a sentence says in place of a number that is not known."""

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def instant(at: datetime | str | float | None) -> str:
    """A point in time: ISO 8601 in UTC, to the second, so that it can be pasted into `--cut` or `label add`.

    Args:
        at: Aware; a text is ISO 8601, a number seconds since 1970.

    Examples:
        >>> instant(datetime(2026, 3, 1, 12, 0, 5, 999_000, UTC))
        '2026-03-01T12:00:05Z'
        >>> instant("2026-03-01T13:00:05.999+01:00")
        '2026-03-01T12:00:05Z'
        >>> instant(1772366405.9)
        '2026-03-01T12:00:05Z'
        >>> instant(None)
        ''
    """
    if at is None or at == "":
        return ""
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    elif not isinstance(at, datetime):
        at = datetime.fromtimestamp(at, UTC)
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def local_instant(at: datetime | str | float | None, now: datetime) -> str:
    """A point in time for a table: in the zone of ``now``, with the year only if it is another.

    No command takes it for an instant again, so that a local time is never read as one in UTC.

    Args:
        at: As for ``instant``.
        now: Aware; its zone is the reader's.

    Examples:
        >>> local_instant("2026-03-01T13:00:05.999+01:00", datetime(2026, 11, 28, tzinfo=UTC))
        '1 Mar 12:00:05'
        >>> local_instant("2025-12-31T23:59:59Z", datetime(2026, 1, 1, tzinfo=UTC))
        '31 Dec 2025 23:59:59'
    """
    if not (text := instant(at)):
        return ""
    here = datetime.fromisoformat(text).astimezone(now.tzinfo)
    year = "" if here.year == now.year else f" {here.year}"
    return f"{here.day} {_MONTHS[here.month - 1]}{year} {here:%H:%M:%S}"


def span(length_s: float | None) -> str:
    """A length of time in its two largest units, for waits and validities.

    Examples:
        >>> span(45), span(3600), span(5400), span(90_061)
        ('45 s', '1 h', '1 h 30 min', '1 d 1 h')
        >>> span(0.4)
        '0 s'
    """
    if length_s is None:
        return ""
    left, parts = round(length_s), []
    for unit, length in _UNITS:
        n, left = divmod(left, length)
        parts.append(f"{n} {unit}" if n else "")
    first = next((i for i, part in enumerate(parts) if part), len(parts) - 1)
    return " ".join(filter(None, parts[first : first + 2])) or "0 s"


def seconds(value: float | None, digits: int = 1) -> str:
    """A measured duration in seconds; below one second in milliseconds, to three digits.

    Args:
        value: Seconds.
        digits: Digits behind the point; 0: whole seconds, for a clock that ticks along.

    Examples:
        >>> seconds(12.34), seconds(0.002314), seconds(0.25)
        ('12.3 s', '2.31 ms', '250 ms')
        >>> seconds(0.25, 0), seconds(118.6, 0)
        ('0 s', '119 s')
    """
    if value is None:
        return ""
    if digits and abs(value) < 0.9995:
        return f"{value * 1e3:.3g} ms"
    return f"{value:,.{digits}f} s"


def share(value: float | None, *, signed: bool = False) -> str:
    """A part of a whole in per cent, to three digits.

    Args:
        value: 1.0 is the whole.
        signed: For a difference of two shares: with its sign.

    Examples:
        >>> share(0.3), share(1 / 3), share(0.9731), share(1.0)
        ('30%', '33.3%', '97.3%', '100%')
        >>> share(0.0012), share(0.0000001)
        ('0.12%', '0%')
        >>> share(0.0125, signed=True), share(-0.004, signed=True)
        ('+1.25%', '-0.4%')
    """
    if value is None:
        return ""
    percent = round(value * 100, 3) + 0.0  # + 0.0: a rounded -0.0 loses its sign
    return f"{percent:+.3g}%" if signed else f"{percent:.3g}%"


def size(n_bytes: float | None) -> str:
    """An amount of data in SI units: 1 kB is 1,000 bytes, on disk, in memory and on the wire.

    Examples:
        >>> size(1), size(999), size(30_000), size(5_368_709_120)
        ('1 byte', '999 bytes', '30.0 kB', '5.4 GB')
    """
    return "" if n_bytes is None else decimal(int(n_bytes))


def count(n: int | None, noun: str = "") -> str:
    """How many, with commas between thousands; ids and offsets are no counts and print as they are.

    Args:
        n: The count.
        noun: What is counted, one of it; the plural ends in s.

    Examples:
        >>> count(22683), count(0)
        ('22,683', '0')
        >>> count(1, "alarm"), count(1200, "alarm")
        ('1 alarm', '1,200 alarms')
    """
    if n is None:
        return ""
    return f"{n:,}" if not noun else f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def number(value: float | None) -> str:
    """A measured value without a unit of its own: four digits, whole from a thousand on.

    Examples:
        >>> number(0.123456), number(-12.0), number(12345.6)
        ('0.1235', '-12', '12,346')
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def cell(value: object) -> str:
    r"""A table cell, printed by its type; whole numbers stay as they are, because many are ids.

    Text may come from outside: control characters and line ends become escapes.

    Examples:
        >>> cell(None), cell(0.5), cell(7102938475610293), cell("pump")
        ('', '0.5', '7102938475610293', 'pump')
        >>> cell(datetime(2026, 3, 1, tzinfo=UTC)), cell("\x1b[2J")
        ('2026-03-01T00:00:00Z', '\\x1b[2J')
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return instant(value)
    return number(value) if isinstance(value, float) else escaped_line(str(value))
