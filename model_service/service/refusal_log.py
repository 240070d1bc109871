"""Logs refusals so that no caller can fill the log: each kind at once, its repeats as a sum. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

PERIOD_S: Final = 60.0
_LONGEST: Final = 300


class RefusalLog:
    """Decides which lines about refusals are written.

    >>> lines = RefusalLog()
    >>> lines.line("Report", "Report refused: too many calls", now=0.0)
    'Report refused: too many calls'
    >>> lines.line("Report", "Report refused: too many calls", now=1.0)
    >>> lines.sums(now=60.0)
    ['1 more in 60 s, the last: Report refused: too many calls']

    Attributes:
        counts: Refusals by kind since the start.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._began: dict[str, float] = {}
        self._more: dict[str, tuple[int, str]] = {}

    def line(self, kind: str, text: str, now: float) -> str | None:
        """The line to write for a refusal; None: it is summed.

        Args:
            kind: What counts as the same; the caller bounds how many there are.
            text: What happened.
            now: Seconds, of a clock that does not go back.
        """
        self.counts[kind] += 1
        text = text[:_LONGEST]
        if kind in self._began:
            self._more[kind] = (self._more.get(kind, (0, ""))[0] + 1, text)
            return None
        self._began[kind] = now
        return text

    def sums(self, now: float) -> list[str]:
        """Lines of the kinds whose period is over; the next refusal of such a kind is written at once."""
        over = [kind for kind, began in self._began.items() if now - began >= PERIOD_S]
        lines = []
        for kind in over:
            began = self._began.pop(kind)
            number, text = self._more.pop(kind, (0, ""))
            if number:
                lines.append(f"{number} more in {now - began:.0f} s, the last: {text}")
                self._began[kind] = now  # it goes on: sum up again
        return lines
