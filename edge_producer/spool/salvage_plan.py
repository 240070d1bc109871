"""What of a damaged spool may be taken over: read once, each record checked, the books made to agree.

A message counts if its digest holds, and its signature where the signer is known. A row, a summary and a
device's state count if their checksum holds, a line of the books if its counts add up. The rows of a line are
taken over only if no more wait than the line says: a page of another moment may have brought back rows that
were sent.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from edge_producer.books import BookKey
from edge_producer.device_update import BootTerms
from edge_producer.sensed_rows import StoredRow, parted_decision
from edge_producer.spool.boot_terms import terms_in
from edge_producer.spool.checksums import device_checksum, row_checksum, summary_checksum
from edge_producer.spool.damaged_file import DamagedSpoolFile
from edge_producer.spool.spool_file import AS_SAMPLED
from edge_producer.summaries import Summary
from schemas.envelope import Envelope, MessageVerifier, SealedMessage, read_envelope, verify
from schemas.errors import PipelineError
from schemas.row_schemas import Stratum
from schemas.topics import TELEMETRY, Lane

_COUNTS = ("sensed", "acked", "filtered", "evicted", "refused")
_SANE = 2**62


class FoundMessage(NamedTuple):
    """A sealed message of the copy.

    Attributes:
        books: Rows inside, by id of the copy's line that counts them.
    """

    id: int
    device_id: str
    lane: Lane
    message: SealedMessage
    headers: str
    books: Mapping[int, int]


class FoundLine(NamedTuple):
    """A line of the copy's books whose counts add up."""

    id: int
    device_id: str
    key: BookKey
    counts: tuple[int, int, int, int, int]
    pending: int
    closed: bool
    revision: int
    stated: bool


class FoundRow(NamedTuple):
    """An unsealed row of the copy, with what the spool stores beside it."""

    device_id: str
    row: StoredRow
    pi: float
    u: float


class FoundSummary(NamedTuple):
    """A closed summary of the copy."""

    device_id: str
    summary: Summary


class FoundState(NamedTuple):
    """A device of the copy."""

    device_id: str
    boot_id: int
    next_seq: int
    newest_us: int
    state: str | None
    held: int
    decision: str
    opened: Summary | None
    whole: bool


@dataclass
class SalvagePlan:
    """What was found. Rows, summaries and messages are only counted: there may be many, they are read again.

    Attributes:
        names: Device id by number.
        rows: Unsealed rows that hold, by line; 0 where none of the line may be taken over.
        message_rows: Rows in the messages that hold, by line.
        messages_damaged: Messages that do not hold.
        boots: Terms of the boots in it.
    """

    names: dict[int, str] = field(default_factory=dict)
    spool_id: str = ""
    states: list[FoundState] = field(default_factory=list)
    lines: dict[int, FoundLine] = field(default_factory=dict)
    rows: Counter[int] = field(default_factory=Counter)
    message_rows: Counter[int] = field(default_factory=Counter)
    totals: dict[str, tuple[int, ...]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    taus: dict[tuple[str, int, str], float] = field(default_factory=dict)
    messages_damaged: int = 0
    boots: Mapping[int, BootTerms] = field(default_factory=dict)

    def lost(self, line: FoundLine) -> int:
        """Rows that the line counts as waiting, and that are not there."""
        return max(line.pending - self.rows[line.id] - self.message_rows[line.id], 0)


def plan_salvage(
    file: DamagedSpoolFile, device_ids: Sequence[str], verifiers: Mapping[str, MessageVerifier]
) -> SalvagePlan:
    """Read a copy and check everything in it.

    Args:
        file: The copy.
        device_ids: All devices of the process.
        verifiers: Public key of each device whose key is known, by device id.
    """
    # A new spool numbers its devices in the order of their ids: that helps where the table is damaged.
    names = dict(enumerate(sorted(device_ids), 1))
    names |= {no: name for no, name in file.all("devices", "no, device_id") if name in names.values()}
    plan = SalvagePlan(names)
    meta = {str(key): str(value) for key, value in file.all("meta", "key, value")}
    plan.spool_id, plan.boots = meta.get("spool_id", ""), terms_in(meta.items())
    plan.states = list(_states(file))
    for line in _lines(file, names):
        plan.lines[line.id] = line
    for _, message in found_messages(file, names, verifiers):
        if message is None:
            plan.messages_damaged += 1
        else:
            plan.message_rows.update(message.books)
    plan.rows.update(found.row.book for _, found in found_rows(file, names, plan.lines) if found is not None)
    for id_, line in plan.lines.items():
        if plan.rows[id_] + plan.message_rows[id_] > line.pending:
            del plan.rows[id_]
    _small_tables(file, names, plan)
    return plan


def found_messages(
    file: DamagedSpoolFile, names: Mapping[int, str], verifiers: Mapping[str, MessageVerifier], after: int = 0
) -> Iterator[tuple[int, FoundMessage | None]]:
    """Messages with an id above ``after``, by id; None in the place of one that does not hold."""
    by_key = {verifier.key_id: (name, verifier) for name, verifier in verifiers.items()}
    for id_, device, *values in file.by_id("messages", "device, lane, topic, headers, value, books", after):
        try:
            yield id_, _message(id_, names.get(device), values, by_key)
        except (PipelineError, ValueError, TypeError, KeyError, AttributeError):
            yield id_, None


def _message(
    id_: int, device_id: str | None, values: list[Any], by_key: Mapping[str, tuple[str, MessageVerifier]]
) -> FoundMessage:
    """One message, checked.

    Raises:
        PipelineError, ValueError, TypeError, KeyError, AttributeError: It does not hold.
    """
    lane, topic, headers, value, books = values
    pairs = [(str(name), bytes.fromhex(text)) for name, text in json.loads(headers)]
    # The signer says whose message it is. Where its key is gone, the column must do: the cloud checks again.
    signer = dict(pairs)["signer"].decode("ascii")
    producer, verifier = by_key.get(signer, (device_id, None))
    if producer is None:
        raise ValueError("no device of ours sealed it")
    key = producer.encode()
    envelope, proof = read_envelope(key, pairs)
    if verifier is not None:
        verify(topic, key, pairs, value, envelope, proof, verifier)
    elif sha256(value).digest() != envelope.digest or envelope.lane != lane:
        raise ValueError("its digest does not hold")
    counted = _counted(books, envelope, topic)
    message = SealedMessage(topic, key, pairs, value)
    return FoundMessage(id_, producer, envelope.lane, message, headers, counted)


def _counted(books: str, envelope: Envelope, topic: str) -> dict[int, int]:
    """Rows by line; all in line 0, which stands for the totals, where the column does not agree."""
    if topic != TELEMETRY.base:
        return {}
    try:
        counted = {int(line): int(n) for line, n in json.loads(books)}
    except (ValueError, TypeError):
        counted = {}
    if sum(counted.values()) != envelope.n_rows or any(n <= 0 for n in counted.values()):
        return {0: envelope.n_rows}
    return counted


def _lines(file: DamagedSpoolFile, names: Mapping[int, str]) -> Iterator[FoundLine]:
    columns = (
        "device, boot_id, period_us, model, stratum, sensed, acked, filtered, evicted, refused, pending,"
        " closed, dirty, revision, statement"
    )
    strata = {stratum.value for stratum in Stratum}
    for id_, device, boot, period, model, stratum, *counts, closed, dirty, revision, statement in file.by_id(
        "books", columns
    ):
        numbers = (*counts, boot, period, revision)
        if not all(isinstance(n, int) and -_SANE < n < _SANE for n in numbers) or min(counts) < 0:
            continue
        *counted, pending = counts
        if device in names and stratum in strata and counted[0] == sum(counted[1:]) + pending and id_ > 0:
            key = BookKey(boot, period, str(model), stratum)
            stated = not dirty and statement == 0
            yield FoundLine(id_, names[device], key, tuple(counted), pending, bool(closed), revision, stated)


def found_rows(
    file: DamagedSpoolFile, names: Mapping[int, str], lines: Mapping[int, FoundLine], after: int = 0
) -> Iterator[tuple[int, FoundRow | None]]:
    """Unsealed rows with an id above ``after``, by id; None in the place of one that does not hold."""
    columns = (
        "device, book, seq, event_us, mono_ns, time_quality, features, score, decision, reasons, sample_p,"
        " pi, u, sensed_s, crc"
    )
    for id_, device, book, *values, stored_pi, u, sensed_s, crc in file.by_id("rows", columns, after):
        line, found = lines.get(book), None
        if line is not None and names.get(device) == line.device_id and isinstance(crc, int):
            seq, event_us, mono_ns, quality, features, score, decided, reasons, sample_p = values
            decision, own = parted_decision(str(decided))
            pi = sample_p if stored_pi == AS_SAMPLED else stored_pi
            with suppress(TypeError, ValueError, OverflowError):
                row = StoredRow(
                    id_, book, line.key.boot_id, seq, event_us, mono_ns, quality, features, score, decision,
                    reasons, sample_p, pi, line.key.model_version, float(sensed_s), own,
                )  # fmt: skip
                if crc == row_checksum(device, row, features, pi, u) and math.isfinite(row.sensed_s):
                    found = FoundRow(line.device_id, row, pi, u)
        yield id_, found


def found_summaries(
    file: DamagedSpoolFile, names: Mapping[int, str], after: int = 0
) -> Iterator[tuple[int, FoundSummary | None]]:
    """Closed summaries with an id above ``after``, by id; None in the place of one that does not hold."""
    columns = "device, crc, boot_id, model, period_us, period_s, part, value, raw_bytes"
    for id_, device, crc, *values in file.by_id("summaries", columns, after):
        found = None
        with suppress(TypeError, ValueError, OverflowError):
            summary = Summary(*values)
            if device in names and crc == summary_checksum(summary):
                found = FoundSummary(names[device], summary)
        yield id_, found


def _states(file: DamagedSpoolFile) -> Iterator[FoundState]:
    columns = (
        "device_id, boot_id, next_seq, newest_us, state, held, decision, crc,"
        " open_boot, open_model, open_period_us, open_period_s, open_part, open_value, open_raw"
    )
    for line in file.all("devices", columns):
        (name, *numbers), (state, held, decision, crc), opened = line[:4], line[4:8], line[8:]
        try:
            whole = crc == device_checksum(state, held, opened)
            summary = Summary(*opened) if whole and opened[5] is not None else None
        except (TypeError, ValueError, AttributeError, OverflowError):
            whole, summary = False, None
        sane = all(isinstance(n, int) and abs(n) <= 2**62 for n in numbers)
        lost = held if isinstance(held, int) and 0 <= held < 10**6 else 0
        if isinstance(name, str):
            boot, seq, newest = numbers if sane else (0, 0, 0)
            kept = str(state) if whole and state is not None else None
            yield FoundState(name, boot, seq, newest, kept, lost, str(decision), summary, whole)


def _small_tables(file: DamagedSpoolFile, names: Mapping[int, str], plan: SalvagePlan) -> None:
    for device, *counts in file.all("totals", f"device, {', '.join(_COUNTS)}"):
        sane = device in names and all(isinstance(n, int) and 0 <= n < _SANE for n in counts)
        if sane and counts[0] == sum(counts[1:]):
            plan.totals[names[device]] = tuple(counts)
    for name, value in file.all("counters", "name, value"):
        if isinstance(name, str) and name.isidentifier() and isinstance(value, int) and 0 <= value < _SANE:
            plan.counters[name] = value
    for device, period_us, stratum, tau in file.all("blocks", "device, period_us, stratum, tau"):
        if device in names and isinstance(period_us, int) and isinstance(tau, float) and 0.0 <= tau < 1.0:
            plan.taus[names[device], period_us, str(stratum)] = tau
