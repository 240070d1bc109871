"""Reads labels from CSV: one label a line; bad lines are refused one by one, each with its reason."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from feature_store.labels import label_id
from schemas.errors import SourceError
from schemas.events import Label

NEEDED = ("device_id", "span_start", "span_end", "label", "source")
OPTIONAL = ("confidence", "label_probability", "supersedes", "label_id")


class RefusedLine(NamedTuple):
    """A line of the file that holds no valid label.

    Attributes:
        line: Number in the file, the header being 1.
    """

    line: int
    reason: str


class ParsedLabels(NamedTuple):
    """The content of a file.

    Attributes:
        labels: By line number.
    """

    labels: dict[int, Label]
    refused: list[RefusedLine]


def read_labels(path: Path, now: datetime, signer: str, devices: Collection[str]) -> ParsedLabels:
    """Labels of a CSV file with a header.

    Args:
        path: The file, UTF-8.
        now: When the labels became known.
        signer: Producer whose key will sign the labels; it becomes the prefix of the sources' names.
        devices: Ids of the registered devices.

    Raises:
        SourceError: The file cannot be read, or its columns are not those of labels.
    """
    labels: dict[int, Label] = {}
    refused: list[RefusedLine] = []
    for line, row in _rows(path):
        if row is None:
            refused.append(RefusedLine(line, "not as many cells as the header"))
            continue
        try:
            label = make_label(row, now, signer)
        except (ValidationError, ValueError) as exc:
            refused.append(RefusedLine(line, _reason(exc)))
            continue
        if label.device_id not in devices:
            refused.append(RefusedLine(line, f"device {label.device_id!r} is not registered"))
        elif (twice := _line_of(labels, label)) is not None:
            refused.append(RefusedLine(line, f"the same label_id as line {twice}"))
        else:
            labels[line] = label
    return ParsedLabels(labels, refused)


def make_label(row: Mapping[str, str], now: datetime, signer: str) -> Label:
    """A label from texts by column; an empty text counts as absent.

    Raises:
        ValueError: A text does not fit its column, or a time has no zone.
    """
    given = {name: text.strip() for name, text in row.items() if text.strip()}
    if missing := [name for name in NEEDED if name not in given]:
        raise ValueError(f"{', '.join(missing)}: empty")
    start, end = _instant("span_start", given["span_start"]), _instant("span_end", given["span_end"])
    if start >= end:
        raise ValueError("span_start must be before span_end")
    source = given["source"]
    if source != signer and not source.startswith(f"{signer}/"):
        source = f"{signer}/{source}"
    known = label_id(given["device_id"], start, end, given["label"], source)
    return Label.model_validate(
        {"label_id": known, **given, "span_start": start, "span_end": end, "source": source, "known_at": now}
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Number and cells of each line; None: the line has not as many cells as the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames or ())
            for row in reader:
                whole = None not in row and None not in row.values()  # as many cells as the header
                yield reader.line_num, row if whole else None
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SourceError(f"{path}: cannot be read as CSV in UTF-8: {exc}") from exc


def _check_columns(path: Path, found: Collection[str]) -> None:
    missing = [name for name in NEEDED if name not in found]
    unknown = [name for name in found if name not in (*NEEDED, *OPTIONAL)]
    if missing or unknown:
        raise SourceError(
            f"{path}: columns {', '.join(missing) or 'none'} are missing and {', '.join(unknown) or 'none'} "
            f"are unknown; labels have {', '.join(NEEDED)} and may have {', '.join(OPTIONAL)}"
        )


def _line_of(labels: Mapping[int, Label], label: Label) -> int | None:
    return next((n for n, other in labels.items() if other.label_id == label.label_id), None)


def _instant(name: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ValueError(f"{name}: {text!r} is not an instant in ISO 8601") from exc
    if at.tzinfo is None:
        raise ValueError(f"{name}: {text!r} has no time zone; write {text}Z for UTC")
    return at


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return str(error)
