"""Spans of time that a person states about a history: labelled faults, and what to leave out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from feature_store.labels import is_healthy
from schemas.absent_file import absent
from schemas.errors import SourceError
from schemas.instants import to_us

SEPARATOR = ".."
UNNAMED = "fault"
"""Label of a span whose line has none."""
_START, _END = ("span_start", "start", "from"), ("span_end", "end", "to")


@dataclass(frozen=True, slots=True)
class HistorySpan:
    """A span of event time.

    Attributes:
        device: Whose; empty: every device's.
        label: What it is called; empty: it has no label.
    """

    start_us: int
    end_us: int
    device: str = ""
    label: str = ""

    def overlaps(self, device: str, end_us: NDArray[np.int64], length_us: float) -> NDArray[np.bool_]:
        """Whether a sample of a device's windows lies in it, its ends included.

        Args:
            device: Its id.
            end_us: Time of each window's last sample, shape (n,).
            length_us: From a window's first sample to its last.
        """
        if self.device not in ("", device):
            return np.zeros(len(end_us), dtype=bool)
        return np.asarray((end_us >= self.start_us) & (end_us - length_us <= self.end_us))


def parse_excluded(texts: Sequence[str], zone: ZoneInfo) -> tuple[HistorySpan, ...]:
    """Spans of ``--exclude FROM..TO``.

    Args:
        texts: ISO times or dates; one without a zone is in ``zone``.
        zone: Of the recording.

    Raises:
        ValueError: Not such a span.
    """
    spans = []
    for text in texts:
        first, dots, last = text.partition(SEPARATOR)
        if not dots:
            raise ValueError(f"--exclude {text}: write FROM..TO, such as 2026-03-01T06:00..2026-03-01T09:30")
        start, end = _instant(first, zone), _instant(last, zone)
        if start >= end:
            raise ValueError(f"--exclude {text}: ends before it begins")
        spans.append(HistorySpan(start, end))
    return tuple(spans)


def read_fault_spans(path: Path, zone: ZoneInfo) -> tuple[HistorySpan, ...]:
    """Labelled faults of a CSV file: a line a span; labels that say healthy are left out.

    Args:
        path: With columns ``span_start`` and ``span_end`` (or start, end), and if need be ``device_id`` and
            ``label``; the format of `edgeloop label import` is read as well.
        zone: Of times that carry none.

    Raises:
        SourceError: It cannot be read, or a line is no span; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError as exc:
        raise SourceError(f"{path}: {absent(path)}") from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SourceError(f"{path}: cannot be read: {exc}") from exc
    columns = set(lines[0]) if lines else set()
    start, end = (next((n for n in names if n in columns), None) for names in (_START, _END))
    if start is None or end is None:
        raise SourceError(f"{path}: has no columns span_start and span_end with a line below them")
    spans = []
    for number, line in enumerate(lines, 2):
        label = (line.get("label") or "").strip() or UNNAMED
        if is_healthy(label):
            continue
        try:
            span = _instant(line[start] or "", zone), _instant(line[end] or "", zone)
        except ValueError as exc:
            raise SourceError(f"{path}: line {number}: {exc}") from exc
        if span[0] > span[1]:
            raise SourceError(f"{path}: line {number}: the span ends before it begins")
        spans.append(HistorySpan(*span, (line.get("device_id") or "").strip(), label))
    return tuple(spans)


def _instant(text: str, zone: ZoneInfo) -> int:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise ValueError(f"{text.strip()!r} is no ISO time") from exc
    return to_us(at if at.tzinfo is not None else at.replace(tzinfo=zone))
