"""Checks a time format that a person or a profile names: one that nobody knows must not pass unseen. Pure."""

from __future__ import annotations

import re

from infra.reading.number_times import EPOCHS, RELATIVE
from infra.reading.other_epochs import OTHER_EPOCHS
from infra.reading.time_formats import WRITTEN
from infra.reading.time_forms import ORDERS
from schemas.errors import SourceError

_KNOWN = ("iso", *ORDERS, *EPOCHS, *OTHER_EPOCHS, *(f"relative_{unit}" for unit in RELATIVE), WRITTEN, "none")
_YEARS = re.compile(r"%-?[YyGcxsD]")
_DATES = re.compile(r"%-?[dmbBjUWVeh]")


def check_time_format(said: str) -> str:
    """The format, if it is one.

    Raises:
        SourceError: It is none; the message lists them.
    """
    if said and "%" not in said and said not in _KNOWN:
        raise SourceError(
            f"--time-format {said}: no such format; there are {', '.join(_KNOWN[:-1])}, and strptime formats "
            "such as '%d.%m.%Y %H:%M'"
        )
    return said


def tells_no_year(said: str) -> bool:
    """Whether a strptime format has dates without a year: they would lie in 1900.

    >>> tells_no_year("%d.%m. %H:%M"), tells_no_year("%d.%m.%y"), tells_no_year("%H:%M"), tells_no_year("iso")
    (True, False, False, False)
    """
    return bool(_DATES.search(said)) and not _YEARS.search(said)
