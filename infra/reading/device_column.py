"""Finds the column that tells several devices of one file apart. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.reading.time_forms import Ints

MOST_DEVICES = 10_000
_ROWS_EACH = 3
MIXED = 0.2
"""Share of the rows with the time of another row from which devices are likely to be mixed."""
_NAMED = re.compile(
    r"device|sensor|machine|unit|node|station|asset|engine|pump|tag|serial|mac|meter|logger|turbine|gerät|maschine|"
    r"anlage|site|channel|probe|robot|vehicle|^id$|_id$|^name$",
    re.IGNORECASE,
)
SURELY = re.compile(
    r"(^|[\W_])(device|sensor|machine|node|station|asset|engine|pump|logger|turbine|robot|vehicle|gerät|"
    r"maschine|anlage|mac|serial)s?([\W_]?(id|nr|no|name|number|key|serial|address|mac))?$|^id$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"(^|[\W_])(device|sensor|machine|unit|node|station|asset|engine|pump|tag|serial|mac|meter|logger|turbine|"
    r"gerät|maschine|anlage|site|channel|probe|robot|vehicle|zone|room|line|id|nr|no)s?"
    r"([\W_]?(id|nr|no|name|number|key|serial|address|mac))?$",
    re.IGNORECASE,
)
"""Names under which numbers may tell devices apart; others are measured."""
_FLAGGED = re.compile(r"engine|pump|machine|maschine|robot|turbine|vehicle|anlage", re.IGNORECASE)
_NOMINAL = re.compile(r"(id|nr|no|name|number|key|serial|address|mac)$", re.IGNORECASE)
_RESTLESS, _EACH = 0.5, 0.9
_FLAGS = frozenset(("0", "1", "0.0", "1.0"))
_ANSWERS = frozenset(("true", "false", "yes", "no", "on", "off", ""))
ONE = "none"
"""What a person writes for "all rows are of one device"."""


@dataclass(frozen=True, slots=True)
class DeviceProposal:
    """A column that explains why times repeat.

    Attributes:
        values: The devices that it names.
        evidence: Why it is likely.
    """

    column: str
    values: tuple[str, ...]
    evidence: str


def propose_device_column(
    us: Ints, columns: Sequence[tuple[str, pa.Array]], repeats: float
) -> DeviceProposal | None:
    """The column within whose values times no longer repeat; None: they repeat for another reason.

    Args:
        us: Times of all rows.
        columns: Names and cells of columns that may name devices: few different values.
        repeats: Share of the rows whose time another row has.
    """
    if repeats < MIXED:
        return None
    best: tuple[float, bool, str, tuple[str, ...]] | None = None
    for name, cells in columns:
        coded = pc.fill_null(cells.cast(pa.string()), "").dictionary_encode()
        values = [str(v) for v in coded.dictionary.to_pylist()]
        if not 2 <= len(values) <= min(MOST_DEVICES, max(2, len(us) // 3)):
            continue
        left = _repeats_within(us, coded.indices.to_numpy(zero_copy_only=False))
        named = bool(_NAMED.search(name))
        codes = coded.indices.to_numpy(zero_copy_only=False)
        if _is_flag(name, values, codes):
            continue
        if _numeric(values) and not _NUMBERED.search(name) and not _numbers_rows(us, codes, len(values)):
            continue
        if left > (0.3 if named else 0.1) * repeats:
            continue
        key = (-left, named, name, tuple(values))
        if best is None or key[:2] > best[:2]:
            best = key
    if best is None:
        return None
    left, _, name, named_values = best
    why = (
        f"{repeats:.0%} of the rows share their time with another; within each of the "
        f"{len(named_values)} values of '{name}' {-left:.0%} do"
    )
    return DeviceProposal(name, named_values, why)


def named_devices(columns: Sequence[tuple[str, pa.Array]]) -> DeviceProposal | None:
    """A column that by its name tells devices apart, whose rows share no times; None: there is none."""
    for name, cells in columns:
        if not SURELY.search(name):
            continue
        values = pc.value_counts(cells.cast(pa.string()).drop_null()).to_pylist()
        often = [str(v["values"]) for v in values if int(v["counts"]) >= _ROWS_EACH]
        codes = cells.cast(pa.string()).drop_null().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        if {v.strip().lower() for v in often} <= _ANSWERS or _is_flag(name, often, codes):
            continue
        if 2 <= len(often) <= MOST_DEVICES and len(often) >= len(values) / 2:
            return DeviceProposal(name, tuple(often), f"'{name}' names {len(often)} of them")
    return None


def _is_flag(name: str, values: Sequence[str], codes: NDArray[np.int32]) -> bool:
    """Whether a column says that a machine runs: 0 and 1 for a while, under its name and no number's."""
    flags = {v.strip() for v in values} <= _FLAGS
    holds = not len(codes) or (np.diff(codes) != 0).mean() < _RESTLESS
    return flags and bool(holds) and bool(_FLAGGED.search(name)) and not _NOMINAL.search(name)


def _numbers_rows(us: Ints, codes: NDArray[np.int32], values: int) -> bool:
    """Whether nearly every time has each of the values once: no measurement does."""
    times = len(np.unique(us))
    counts = np.bincount(codes, minlength=values)
    return len(us) >= _EACH * times * values and bool((counts <= times).all())


def _numeric(values: Sequence[str]) -> bool:
    """Whether all values but the blank ones are numbers."""
    given = [v.strip() for v in values if v.strip()]
    return bool(given) and all(re.fullmatch(r"[+-]?\d+([.,]\d+)?", v) for v in given)


def device_ids(values: Iterable[str], prefix: str = "") -> dict[str, str]:
    """An id that is allowed for each name, all different.

    >>> device_ids(["dev0", "Kühlraum Süd", "a b", "a_b"])
    {'dev0': 'dev0', 'Kühlraum Süd': 'Kuehlraum-Sued', 'a b': 'a-b', 'a_b': 'a_b'}
    """
    made: dict[str, str] = {}
    for value in values:
        base = ascii_id(f"{prefix}{value}")
        name, n = base, 2
        while name in made.values():
            name, n = f"{base[:58]}-{n}", n + 1
        made[value] = name
    return made


def ascii_id(text: str) -> str:
    """A device's id made of letters, digits and ``._-`` of ASCII.

    >>> ascii_id("Kuehlraum Süd"), ascii_id("温度"), ascii_id("-x-")
    ('Kuehlraum-Sued', 'recording', 'x')
    """
    for letter, plain in (
        ("ä", "ae"),
        ("ö", "oe"),
        ("ü", "ue"),
        ("Ä", "Ae"),
        ("Ö", "Oe"),
        ("Ü", "Ue"),
        ("ß", "ss"),
    ):
        text = unicodedata.normalize("NFC", text).replace(letter, plain)
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    kept = "".join(c if c.isalnum() or c in "_.-" else "-" for c in plain)
    return re.sub(r"-{2,}", "-", kept).strip("-_.")[:64] or "recording"


def _repeats_within(us: Ints, codes: np.ndarray) -> float:
    """Share of rows that share time and code with another row."""
    pairs = np.rec.fromarrays([us, codes])
    return 1.0 - len(np.unique(pairs)) / max(len(pairs), 1)


def repeats_of(us: Ints) -> float:
    """Share of rows whose time an earlier row has."""
    return 1.0 - len(np.unique(us)) / max(len(us), 1)
