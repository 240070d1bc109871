"""CommitAttempt marks: which batch a process was working on when it died.

Before a batch runs, ``<lake>/_attempts/<task>.json`` names it; afterwards, whether it went well or raised,
the mark is cleared. So only a process that was killed, ran out of memory or was ended by its watchdog leaves
one. Whoever opens the task next counts the death. After ``DEATHS_SUSPECTED`` deaths in a row over the same
offsets the messages that were in all of these batches are suspects: they are tried in a child process first.

A death may as well be an operator's kill -9: suspects that pass are processed as usual. Marks are not synced:
a power cut is no message's fault.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest
from stream_processors.engine.records import TaskState
from stream_processors.job import RawMessage

log = logging.getLogger(__name__)

FORMAT = 1
DEATHS_SUSPECTED = 2

Spans = Mapping[str, tuple[int, int]]
"""First offset and the one after the last, by topic; empty for a tick."""


@dataclass(frozen=True)
class CommitAttempt:
    """A batch that is, or was, being worked on.

    Attributes:
        n: Number of the commit that it was to become.
        spans: Its offsets.
        deaths: How many processes died in a row while they worked on this commit.
        common: Offsets that were in the batch at each of these deaths; None: no death yet.
        running: Some process works on it, or died while it did.
    """

    n: int
    spans: Spans = field(default_factory=dict)
    deaths: int = 0
    common: Spans | None = None
    running: bool = False

    def begun(self, spans: Spans) -> CommitAttempt:
        """The attempt with a batch under way."""
        return replace(self, spans=spans, running=True)

    def ended(self) -> CommitAttempt:
        """The attempt after its batch ended, well or by an exception."""
        return replace(self, running=False)

    def after_death(self) -> CommitAttempt:
        """The attempt as the next process finds it."""
        common = self.spans if self.common is None else _overlap(self.common, self.spans)
        if self.spans and not common:  # other messages than before: the count starts again
            return replace(self, deaths=1, common=self.spans, running=False)
        return replace(self, deaths=self.deaths + 1, common=common, running=False)

    @property
    def suspected(self) -> bool:
        """Whether so many processes died over it that its messages are tried elsewhere first."""
        return self.deaths >= DEATHS_SUSPECTED

    def suspects(self, messages: Sequence[RawMessage]) -> int:
        """How many messages at the start of a batch were in all batches over which a process died."""
        common = self.common or {}
        last = -1
        for i, message in enumerate(messages):
            start, end = common.get(message.topic, (0, 0))
            if start <= message.offset < end:
                last = i
        return last + 1


def spans_of(messages: Sequence[RawMessage]) -> Spans:
    """Offsets of a batch, by topic."""
    spans: dict[str, tuple[int, int]] = {}
    for topic, run in groupby(messages, attrgetter("topic")):
        offsets = [m.offset for m in run]
        start, _ = spans.get(topic, (offsets[0], 0))
        spans[topic] = (start, offsets[-1] + 1)
    return spans


def _overlap(one: Spans, other: Spans) -> Spans:
    both = {t: (max(one[t][0], other[t][0]), min(one[t][1], other[t][1])) for t in one if t in other}
    return {t: (start, end) for t, (start, end) in both.items() if start < end}


class AttemptMarks:
    """Marks of the tasks of this process, each in a file that the task's next owner finds.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / "_attempts"
        self._attempts: dict[str, CommitAttempt] = {}
        self._tried: set[tuple[str, int]] = set()

    def opened(self, state: TaskState) -> CommitAttempt:
        """Count the death, if the task's last process died over the commit that comes next."""
        found = self._read(state.task)
        if found is None or found.n != state.n + 1:
            found = CommitAttempt(state.n + 1)
        elif found.running:
            found = found.after_death()
        self._attempts[state.task] = found
        if found.deaths:
            self._write(state.task, found)
        return found

    def of(self, state: TaskState) -> CommitAttempt:
        """The attempt at the commit that comes next."""
        known = self._attempts.get(state.task)
        return known if known is not None and known.n == state.n + 1 else CommitAttempt(state.n + 1)

    def to_be_tried(self, state: TaskState) -> bool:
        """Whether the batch of the next commit is suspected and was not tried by this process yet."""
        return self.of(state).suspected and (state.task, state.n + 1) not in self._tried

    def tried(self, state: TaskState) -> None:
        """Note that the suspects of the next commit passed; another process would try them again."""
        self._tried.add((state.task, state.n + 1))

    def decided(self, state: TaskState) -> None:
        """Go on to the commit after this state: suspects that were not part of the last one stay suspects."""
        known = self._attempts.get(state.task)
        if known is None or not known.suspected or known.n != state.n or (state.task, known.n) in self._tried:
            return
        left = {t: (max(a, state.offsets.get(t, a)), b) for t, (a, b) in (known.common or {}).items()}
        left = {t: (a, b) for t, (a, b) in left.items() if a < b}
        if left:
            self._attempts[state.task] = replace(known, n=state.n + 1, common=left, running=False)

    def begin(self, state: TaskState, messages: Sequence[RawMessage]) -> None:
        """Mark a batch before any of it is worked on."""
        self._attempts[state.task] = begun = self.of(state).begun(spans_of(messages))
        self._write(state.task, begun)

    def end(self, state: TaskState) -> None:
        """Clear the mark: the process lives."""
        ended = self._attempts[state.task] = self.of(state).ended()
        if ended.deaths:
            self._write(state.task, ended)
        else:
            with suppress(OSError):
                self._path(state.task).unlink(missing_ok=True)

    def _read(self, task: str) -> CommitAttempt | None:
        """The mark; None where there is none, or none that can be read."""
        try:
            raw = checked(self._path(task).read_bytes(), str(self._path(task)))
            if raw.pop("format") != FORMAT:
                return None
            spans = {name: _tuples(raw.pop(name)) for name in ("spans", "common")}
            return CommitAttempt(**raw, spans=spans["spans"] or {}, common=spans["common"])
        except FileNotFoundError:
            return None
        except (OSError, DamagedLakeError, ValueError, TypeError, KeyError, AttributeError) as exc:
            log.warning("the attempt mark of %s is not used: %s; deaths are counted anew", task, exc)
            return None

    def _write(self, task: str, attempt: CommitAttempt) -> None:
        content = with_digest(json.dumps({"format": FORMAT, **asdict(attempt)}).encode())
        try:
            DISK.write(self._path(task), content, sync=False)
        except OSError as exc:  # a full disk must not end what may still work; only a death is not counted
            log.warning("no attempt mark for %s: %s", task, exc)

    def _path(self, task: str) -> Path:
        return self._root / f"{task}.json"


def _tuples(raw: Mapping[str, Sequence[int]] | None) -> Spans | None:
    return None if raw is None else {topic: (int(a), int(b)) for topic, (a, b) in raw.items()}
