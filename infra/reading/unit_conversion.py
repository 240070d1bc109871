"""Units of measure that convert into each other."""

from __future__ import annotations

import re

_MILLI = re.compile(r"m(Pa|Wh?|[vV]ar|VA|J|Hz|N|Nm|Ohm|Ω)$")
_TEMPERATURES = {"c": (1.0, 0.0), "f": (5 / 9, -160 / 9), "k": (1.0, -273.15)}
_LINEAR = (
    {"pa": 1.0, "hpa": 100.0, "mbar": 100.0, "kpa": 1e3, "bar": 1e5, "mpa": 1e6, "psi": 6894.757293168},
    {"uv": 1e-6, "mv": 1e-3, "v": 1.0, "kv": 1e3},
    {"ua": 1e-6, "ma": 1e-3, "a": 1.0, "ka": 1e3},
    {"w": 1.0, "kw": 1e3},
    {"wh": 1.0, "kwh": 1e3},
    {"um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "km": 1e3},
    {"mm/s": 1e-3, "m/s": 1.0, "km/h": 1 / 3.6},
    {"g": 1e-3, "kg": 1.0, "t": 1e3},
    {"l/s": 1.0, "l/min": 1 / 60, "m3/h": 1 / 3.6},
    {"hz": 1.0, "khz": 1e3},
    {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
)
_SAME = {
    "degc": "c", "°c": "c", "deg c": "c", "celsius": "c", "℃": "c", "grad c": "c", "degf": "f",
    "°f": "f", "deg f": "f",
    "fahrenheit": "f", "℉": "f", "degk": "k", "kelvin": "k", "°k": "k", "µv": "uv", "µa": "ua", "µm": "um",
    "m³/h": "m3/h", "percent": "%", "pct": "%", "volt": "v", "ampere": "a", "amps": "a",
}  # fmt: skip


def plain_unit(unit: str) -> str:
    """One spelling of each unit.

    >>> plain_unit("°C") == plain_unit("degC"), plain_unit(" M³/h"), plain_unit("mW") == plain_unit("MW")
    (True, 'm3/h', False)
    """
    bare = unit.strip()
    if _MILLI.match(bare):  # the capital tells mega from milli
        return f"milli {bare[1:].lower()}"
    short = bare.lower()
    return _SAME.get(short, short)


def conversion(unit: str, wanted: str) -> tuple[float, float] | None:
    """Factor and offset that turn a value in ``unit`` into ``wanted``; None: they measure different things.

    >>> factor, offset = conversion("degF", "°C")
    >>> round(212 * factor + offset, 6), conversion("bar", "kPa"), conversion("bar", "V")
    (100.0, (100.0, 0.0), None)
    """
    a, b = plain_unit(unit), plain_unit(wanted)
    if a == b:
        return 1.0, 0.0
    if a in _TEMPERATURES and b in _TEMPERATURES:
        (fa, oa), (fb, ob) = _TEMPERATURES[a], _TEMPERATURES[b]
        return fa / fb, (oa - ob) / fb
    for family in _LINEAR:
        if a in family and b in family:
            return family[a] / family[b], 0.0
    return None


_KNOWN = (
    frozenset(_TEMPERATURES)
    | frozenset(_SAME)
    | frozenset(u for family in _LINEAR for u in family)
    | frozenset(
        ("%", "rpm", "1/min", "ppm", "ppb", "g", "n", "nm", "db", "dba", "deg", "°", "rad", "lux", "lx", "va")
    )
    | frozenset(
        (
            "m/s2",
            "m/s^2",
            "m/s²",
            "kj",
            "j",
            "kvar",
            "kva",
            "w/m2",
            "w/m²",
            "w/m^2",
            "mg/m3",
            "µg/m3",
            "µg/m³",
        )
    )
    | frozenset(
        ("us/cm", "ph", "mol", "l", "m3", "m³", "count", "counts", "-", "unix", "iso", "ts", "rn", "us", "ns")
    )
    | frozenset(
        ("mw", "mwh", "mvar", "ohm", "kohm", "n/a", "mm/h", "degrees", "degree", "knots", "kn", "mph", "psia")
    )
)


def is_unit(text: str) -> bool:
    """Whether a text is a known unit, brackets aside.

    >>> is_unit("[degC]"), is_unit("mm/s"), is_unit("temperature")
    (True, True, False)
    """
    bare = text.strip().strip("[]()").strip().lower()
    return bare in _KNOWN and bool(bare)
