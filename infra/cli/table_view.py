"""How tables are shown: times in UTC or short and local, rows wrapped or on one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from infra.printing import instant, local_instant


@dataclass(frozen=True)
class TableView:
    """How results are shown.

    Attributes:
        utc: Times as ISO 8601 in UTC; else short and local.
        wide: Nothing wraps.
    """

    utc: bool = False
    wide: bool = False


_DEFAULT_VIEW = TableView()
_view = ContextVar("view", default=_DEFAULT_VIEW)


@contextmanager
def viewed(*, utc: bool, wide: bool) -> Iterator[None]:
    """Show results in this way within the block."""
    token = _view.set(TableView(utc, wide))
    try:
        yield
    finally:
        _view.reset(token)


def view() -> TableView:
    """How results are shown now."""
    return _view.get()


def moment(at: datetime | str | float | None) -> str:
    """A point in time for people, as the options ask for."""
    return instant(at) if _view.get().utc else local_instant(at, datetime.now().astimezone())
