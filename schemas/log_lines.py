"""How every process of ours writes its log: one form of a line, no control characters, storms summed.

What a line quotes may come from outside, so it is escaped: a message cannot add lines to the log, nor reach
the terminal of whoever reads it. A library that repeats one complaint many times a second (a Kafka client
whose broker is away does) gets a few lines, then one a minute that says how many there were.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

from schemas.escaping import escaped_block, escaped_line

log = logging.getLogger(__name__)

FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
AT_ONCE = 10
"""Lines of one kind that are written as they come, in each ``WINDOW_S``."""
WINDOW_S = 60.0
_KINDS = 256
"""How many kinds are remembered; a line's kind is its logger, level and words without their numbers."""
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
_KIND_CHARACTERS = 200


def log_to_stderr() -> None:
    """Send the log of this process, from INFO on, to standard error. Called once, at start."""
    handler = SummingHandler(sys.stderr)
    handler.setFormatter(EscapedFormatter(FORM))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.excepthook = _log_unforeseen
    threading.excepthook = lambda found: _log_unforeseen(found.exc_type, found.exc_value, found.exc_traceback)


def _log_unforeseen(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """Log an error that nobody catches: Python's own report would print what it quotes as it is."""
    if not issubclass(kind, SystemExit):
        found = error or kind()
        log.critical("ended by an unforeseen error", exc_info=(kind, found, trace))


class EscapedFormatter(logging.Formatter):
    """Formats a record so that its message stays on one line and nothing in it is a control character."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the library's name)
        """The line, without a traceback."""
        record.message = escaped_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The traceback, whose lines stay."""
        return escaped_block(super().formatException(ei))


@dataclass
class _Kind:
    """What was written of one kind of line since ``began`` (monotonic seconds)."""

    began: float
    left: int = AT_ONCE
    held: int = 0
    newest: logging.LogRecord | None = None


class SummingHandler(logging.StreamHandler[TextIO]):
    """Writes the first lines of each kind at once, and then one a minute with the number of the others.

    Args:
        stream: Where to.
        monotonic: Seconds.
    """

    def __init__(self, stream: TextIO, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._monotonic = monotonic
        self._kinds: OrderedDict[tuple[str, int, str], _Kind] = OrderedDict()
        self._due = float("inf")

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it."""
        now = self._monotonic()
        if now >= self._due:
            self._end_windows(now)
        kind = self._kind(record, now)
        if kind.left > 0:
            kind.left -= 1
            super().emit(record)
        else:
            kind.held += 1
            kind.newest = record

    def close(self) -> None:
        """Say what is still held, and close."""
        self.acquire()
        try:
            self._end_windows(float("inf"))
        finally:
            self.release()
        super().close()

    def _kind(self, record: logging.LogRecord, now: float) -> _Kind:
        try:
            words = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: the formatter reports it
            words = str(record.msg)
        key = (record.name, record.levelno, _NUMBERS.sub("#", words[:_KIND_CHARACTERS]))
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(now)
            self._due = min(self._due, now + WINDOW_S)
            if len(self._kinds) > _KINDS:
                self._tell(self._kinds.popitem(last=False)[1])
        return kind

    def _end_windows(self, now: float) -> None:
        """End each window that is over: while lines are held, a kind gets one line at once in each window."""
        for key, kind in list(self._kinds.items()):
            if now - kind.began < WINDOW_S:
                continue
            if kind.held:
                self._tell(kind)
                self._kinds[key] = _Kind(now, left=1)
            else:
                del self._kinds[key]
        self._due = min((k.began + WINDOW_S for k in self._kinds.values()), default=float("inf"))

    def _tell(self, kind: _Kind) -> None:
        """Write the newest line that was held, and how many there were."""
        if kind.newest is None:
            return
        record = logging.makeLogRecord(vars(kind.newest))
        record.msg, record.args = f"{kind.newest.getMessage()} [one of {kind.held} such lines]", None
        super().emit(record)
