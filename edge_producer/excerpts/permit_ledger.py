"""What a device has made of permits: durable, so that each counts once and a day's seconds are kept to.

Written before anything of an excerpt is sealed. Entries are forgotten once their permit has expired by a time
that never goes back, their outcome is reported, and their seconds count for no day any more.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from schemas.durable import Disk
from schemas.errors import DamagedLakeError, PermitError
from schemas.excerpt_permit import ExcerptPermit
from schemas.excerpt_words import PermitRefusal, PermitState
from schemas.instants import EPOCH
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

FILE = "permits.json"
MOST_ENTRIES = 512
"""Entries that are kept; with so many that still count, further permits are refused."""
DAY = timedelta(days=1)
_SPENT = {PermitState.CLAIMED, PermitState.TAKEN, PermitState.WITHDRAWN}
"""States whose seconds count: what was taken may have left before it was withdrawn."""


@dataclass(frozen=True)
class LedgerEntry:
    """One permit.

    Attributes:
        state: ``claimed`` until it is known how it ended.
        at: When it got that state, by the device's trusted time.
        expires_at: Of the permit.
        seconds: Length of its span.
        samples: Instants that were sealed.
        refusal: Why it was refused; empty: it was not.
        detail: In words.
        reported: The service knows it.
    """

    state: PermitState
    at: datetime
    expires_at: datetime
    seconds: float = 0.0
    samples: int = 0
    refusal: str = ""
    detail: str = ""
    reported: bool = False


class PermitLedger:
    """One device's. Of one thread; ``status`` from any.

    Args:
        folder: The device's own.
        disk: Reads and writes it.
        now: Trusted time, UTC.
    """

    def __init__(self, folder: Path, disk: Disk, now: datetime) -> None:
        self._path, self._disk = folder / FILE, disk
        self._entries: Mapping[str, LedgerEntry] = {}
        self._floor, self._latest, self._counts = EPOCH, EPOCH, Counter[str]()
        try:
            self._load()
        except (OSError, DamagedLakeError, KeyError, TypeError, ValueError, AttributeError) as exc:
            log.error("%s is damaged: no permit counts that was issued before now: %s", self._path, exc)  # noqa: TRY400
            self._floor = now
            lost = LedgerEntry(PermitState.TAKEN, now, now + DAY, seconds=DAY.total_seconds(), reported=True)
            self._entries = {"lost": lost}

    def time(self, now: datetime) -> datetime:
        """The later of a time and all that was ever noted: it never goes back."""
        return max([now, self._latest, *(e.at for e in self._entries.values())])

    def known(self, permit_id: str) -> LedgerEntry | None:
        """The entry of a permit; None: there is none."""
        return self._entries.get(permit_id)

    def check(self, permit: ExcerptPermit, per_day_s: float, now: datetime) -> None:
        """Return if the permit may be followed now, as far as earlier ones decide.

        Raises:
            PermitError: It is spent, was issued before the ledger was lost, or the day's seconds are spent.
        """
        if permit.permit_id in self._entries or permit.issued_at <= self._floor:
            raise PermitError("this permit was followed or refused before", PermitRefusal.REPLAYED)
        since = self.time(now) - DAY
        spent = sum(e.seconds for e in self._entries.values() if e.state in _SPENT and e.at > since)
        if spent + permit.seconds > per_day_s:
            raise PermitError(
                f"{spent:g} s left within 24 hours; {permit.seconds:g} s more would exceed {per_day_s:g} s",
                PermitRefusal.DAY_SPENT,
            )
        if len(self._entries) >= MOST_ENTRIES:
            raise PermitError(f"{MOST_ENTRIES} permits are not settled yet", PermitRefusal.DAY_SPENT)

    def claim(self, permit: ExcerptPermit, now: datetime) -> None:
        """Spend a permit: on the disk when this returns.

        Raises:
            OSError: The disk does not take it; nothing may leave by it.
        """
        entry = LedgerEntry(PermitState.CLAIMED, self.time(now), permit.expires_at, permit.seconds)
        self._write({**self._entries, permit.permit_id: entry})

    def refuse(self, permit_id: str, expires_at: datetime, error: PermitError, now: datetime) -> None:
        """Note that a permit was refused; what is known of it already stays.

        With too many entries nothing is noted: it is refused again, and reported once there is room.

        Raises:
            OSError: The disk does not take it.
        """
        if permit_id in self._entries or len(self._entries) >= MOST_ENTRIES:
            return
        detail = str(error)[:512]
        entry = LedgerEntry(
            PermitState.REFUSED, self.time(now), expires_at, refusal=str(error.refusal), detail=detail
        )
        self._write({**self._entries, permit_id: entry}, refused=1)

    def settle(
        self, permit_id: str, state: PermitState, now: datetime, *, samples: int = 0, refusal: str = "",
        detail: str = "",
    ) -> None:  # fmt: skip
        """Note how a claimed permit ended.

        Raises:
            OSError: The disk does not take it.
        """
        before = self._entries.get(permit_id)
        if before is None or before.state == state:
            return
        after = replace(
            before, state=state, at=max(before.at, now), samples=samples or before.samples, refusal=refusal,
            detail=detail[:512], reported=False,
        )  # fmt: skip
        self._write({**self._entries, permit_id: after}, **{state.value: 1})

    def unreported(self, limit: int) -> dict[str, LedgerEntry]:
        """Ended permits that the service does not know of, the oldest first."""
        ended = [
            (e.at, i, e)
            for i, e in self._entries.items()
            if not e.reported and e.state != PermitState.CLAIMED
        ]
        return {i: e for _, i, e in sorted(ended, key=lambda found: found[:2])[:limit]}

    def claimed(self) -> list[str]:
        """Permits of which it is not known how they ended."""
        return [i for i, e in self._entries.items() if e.state == PermitState.CLAIMED]

    def note_reported(self, told: Mapping[str, LedgerEntry], now: datetime) -> None:
        """The service has taken these outcomes; what counts no more is forgotten.

        Raises:
            OSError: The disk does not take it: they are reported again.
        """
        told_ids = {i for i, e in told.items() if self._entries.get(i) == e}
        entries = {i: replace(e, reported=e.reported or i in told_ids) for i, e in self._entries.items()}
        at = self.time(now)
        kept = {
            i: e for i, e in entries.items() if not (e.reported and e.expires_at < at and e.at < at - DAY)
        }
        if kept != self._entries:
            # Time that went back to before this would bring what is forgotten back to life.
            gone = [t for i, e in entries.items() if i not in kept for t in (e.expires_at, e.at + DAY)]
            self._latest = max([self._latest, *gone])
            self._write(kept)

    def status(self) -> dict[str, int]:
        """How many permits ended how, since there is a ledger."""
        return {state.value: self._counts[state.value] for state in _COUNTED}

    def _write(self, entries: Mapping[str, LedgerEntry], **counted: int) -> None:
        counts = self._counts + Counter(counted)
        raw = {
            "floor": self._floor.isoformat(),
            "latest": self._latest.isoformat(),
            "counts": dict(counts),
            "entries": {i: _to_json(e) for i, e in entries.items()},
        }
        self._disk.write(self._path, with_digest(json.dumps(raw).encode()), private=True)
        self._entries, self._counts = dict(entries), counts

    def _load(self) -> None:
        data = self._disk.read(self._path)
        if data is None:
            return
        raw = checked(data, FILE)
        self._floor = datetime.fromisoformat(raw["floor"])
        self._latest = datetime.fromisoformat(raw.get("latest", EPOCH.isoformat()))
        self._counts = Counter({str(k): int(v) for k, v in raw["counts"].items()})
        self._entries = dict(_from_json(raw["entries"].items()))


_COUNTED = (PermitState.TAKEN, PermitState.REFUSED, PermitState.WITHDRAWN, PermitState.LOST)


def _to_json(entry: LedgerEntry) -> dict[str, Any]:
    return asdict(entry) | {"at": entry.at.isoformat(), "expires_at": entry.expires_at.isoformat()}


def _from_json(entries: Iterable[tuple[str, dict[str, Any]]]) -> Iterable[tuple[str, LedgerEntry]]:
    for permit_id, raw in entries:
        times = {name: datetime.fromisoformat(raw[name]).astimezone(UTC) for name in ("at", "expires_at")}
        yield permit_id, LedgerEntry(**{**raw, **times, "state": PermitState(raw["state"])})
