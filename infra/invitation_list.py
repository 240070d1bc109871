"""Who is to be invited: one device, several of one name, or the rows of a CSV file. Pure but for the file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from schemas.errors import OperatorError

MOST = 10_000
"""Most devices of one command."""


@dataclass(frozen=True)
class InvitedDevice:
    """One row; what the file does not say is as the command's options say."""

    device_id: str
    profile: str
    site: str
    group: str
    hardware: str
    gateway: str


def numbered(one: InvitedDevice, number: int) -> list[InvitedDevice]:
    """So many devices: ``pump-1``, ``pump-2``, … behind the given name; zeros in front where there are ten.

    Raises:
        OperatorError: There are too many.
    """
    if number > MOST:
        raise OperatorError(f"at most {MOST} devices at once")
    width = len(str(number))
    return [replace(one, device_id=f"{one.device_id}-{i:0{width}}") for i in range(1, number + 1)]


def listed(path: Path, usual: InvitedDevice) -> list[InvitedDevice]:
    """The devices of a CSV file with a header line; ``device_id`` is the only column that must be there.

    Args:
        path: The file.
        usual: What stands where a row says nothing.

    Raises:
        OperatorError: It cannot be read, has no such column or an unknown one, or names a device twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(_rows(csv.reader(file), path, usual))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise OperatorError(f"{path} cannot be read: {exc}") from exc
    if not found:
        raise OperatorError(f"{path} names no device")
    names = [one.device_id for one in found]
    if twice := sorted({n for n in names if names.count(n) > 1} if len(names) <= MOST else names[MOST:]):
        raise OperatorError(f"{path}: {twice[0]} is named twice, or is one device too many")
    return found


def _rows(lines: Iterator[Sequence[str]], path: Path, usual: InvitedDevice) -> Iterator[InvitedDevice]:
    header = [name.strip().lower() for name in next(lines, ())]
    known = [field.name for field in fields(InvitedDevice)]
    if "device_id" not in header or set(header) - set(known):
        raise OperatorError(
            f"{path}: the first line must name columns of {', '.join(known)}: device_id at least"
        )
    for number, line in enumerate(lines, start=2):
        if not any(line):
            continue
        if len(line) > len(header):
            raise OperatorError(f"{path}, line {number}: more fields than columns")
        said = {name: text.strip() for name, text in zip(header, line, strict=False) if text.strip()}
        if "device_id" not in said:
            raise OperatorError(f"{path}, line {number}: no device_id")
        yield replace(usual, **said)
