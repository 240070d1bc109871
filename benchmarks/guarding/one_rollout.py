"""One rollout: the real state machine and judge, with time jumping from one report to the next."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from benchmarks.guarding.simulated_fleet import DAY_S, HOP_S, Cell, ReportingDevice, devices_of, predict
from edge_producer.updates.shadow_comparison import BOUND, REPORT_GROWTH
from model_service.rollout import rollout_states, transitions
from model_service.rollout.cohort_draw import CohortDraw, draw
from model_service.rollout.observed import (
    PENDING,
    AlarmRates,
    DeviceReport,
    GroupMember,
    Observed,
    PairedShadow,
    SentDocument,
)
from model_service.rollout.rollout_record import RolloutRecord
from schemas.channel_documents import Release
from schemas.learning_policy import RolloutPolicy

OLD = Release(version="machine-1.00000001", sha256="1" * 64)
NEW = Release(version="machine-2.00000002", sha256="2" * 64)
SETTINGS = RolloutPolicy()
DRAWS = 32
"""Draws of cohorts that rollouts of one size share: a draw takes longer than its rollout."""
FETCH_S = 60.0
START = 1_700_000_000.0


@dataclass(frozen=True)
class Ending:
    """How a rollout ended.

    Attributes:
        how: ``completed``, ``aborted`` or ``asked``: a person was asked.
        share: Largest share of the group that ran the model at a time.
        days: From its start to that end.
        phase: Phase in which it ended; 0 is the canary ring.
        reason: Why it was aborted, or a person was asked.
    """

    how: str
    share: float
    days: float
    phase: int
    reason: str = ""


def run(cell: Cell, seed: int) -> Ending:
    """One rollout of the cell's model; the same seed gives the same."""
    rng = np.random.default_rng([seed, cell.devices, round(cell.rate * 10), *cell.kind.encode()])
    return _Rollout(cell, rng, seed).run()


@lru_cache(maxsize=1024)
def _drawn(devices: int, number: int) -> tuple[dict[str, GroupMember], CohortDraw]:
    members = {
        f"d{i:03d}": GroupMember(f"d{i:03d}", f"site-{i % 2}", f"board-{i // 2 % 2}", pool=True)
        for i in range(devices)
    }
    return members, draw(f"line-{number}", list(members.values()), SETTINGS)


@dataclass
class _Cohort:
    """Devices that took the offer together."""

    devices: list[str]
    due: float
    step: str = "trial"
    windows: int = 0
    """Windows until then."""


@dataclass
class _Rollout:
    cell: Cell
    rng: np.random.Generator
    seed: int
    now: float = START
    sent: list[SentDocument] = field(default_factory=list)
    reports: dict[str, list[DeviceReport]] = field(default_factory=lambda: defaultdict(list))
    cohorts: list[_Cohort] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    offered: set[str] = field(default_factory=set)
    most: int = 0
    number: int = 0

    def __post_init__(self) -> None:
        self.members, drawn = _drawn(self.cell.devices, self.seed % DRAWS)
        self.predicted = predict(self.cell, self.rng)
        made = devices_of(self.cell, self.predicted, self.rng)
        self.devices: dict[str, ReportingDevice] = dict(zip(self.members, made, strict=True))
        draft = RolloutRecord(
            rollout_id="line-1", group="line", family="machine", version=NEW.version, created_by="engine",
            target={"machine": NEW}, baseline={"machine": OLD}, settings=SETTINGS, canary=drawn.canary,
            salt=drawn.salt, holdout=drawn.holdout,
        )  # fmt: skip
        self.record = draft
        self._take(rollout_states.begin(draft))

    def run(self) -> Ending:
        """Until it has ended, or a person is asked."""
        while True:
            due = self._advance()
            if self.record.state == "aborting":
                return self._ending("aborted", self.record.ended_because)
            if self.record.pause is not None:
                return self._ending("asked", self.record.pause.reason)
            if self.record.state.startswith("completed"):
                return self._ending("completed")
            times = [c.due for c in self.cohorts] + ([due] if due is not None and due > self.now else [])
            self.now = min(times)
            for cohort in [c for c in self.cohorts if c.due <= self.now]:
                self._report(cohort)

    def _ending(self, how: str, reason: str = "") -> Ending:
        share = self.most / len(self.members)
        return Ending(how, share, (self.now - START) / DAY_S, self.record.phase, reason)

    def _advance(self) -> float | None:
        """Advance until nothing changes; the guard agrees, and documents are out at once."""
        while True:
            before = self.record, len(self.sent)
            outcome = rollout_states.advance(self.record, self._observed(), self.now)
            self._take(outcome)
            self.sent = [
                replace(s, state="published", at=self.now) if s.state in PENDING else s for s in self.sent
            ]
            self._offer()
            if before == (self.record, len(self.sent)):
                return outcome.due

    def _observed(self) -> Observed:
        return Observed(
            self.members, self.reports, sent=self.sent, predicted=self.predicted, rates=self._rates()
        )

    def _rates(self) -> AlarmRates | None:
        """What the lake knows: windows of treated devices, and as many of those held out."""
        if not self.record.holdout.share or not self.running:
            return None
        held = self._held()
        new = [p.new_share for d in sorted(self.running) if (p := self.devices[d]).windows]
        old = [p.old_share for d in held if (p := self.devices[d]).windows]
        return AlarmRates(new, old, dict.fromkeys(self.members, self.now))

    def _held(self) -> list[str]:
        """Devices that are held out now."""
        held = self.record.held_out(self.record.phase)
        return [d for d in self.members if held.includes(d)]

    def _take(self, outcome: transitions.Transition) -> None:
        self.record = outcome.record
        for action in outcome.actions:
            if isinstance(action, transitions.Withdraw):
                self.sent = [replace(s, state="withdrawn") if s.state in PENDING else s for s in self.sent]
            elif isinstance(action, transitions.Propose):
                new = SentDocument(
                    len(self.sent) + 1, action.ring, action.purpose, action.phase, "proposed", self.now
                )
                self.sent.append(new)

    def _offer(self) -> None:
        """Devices that the published phases treat take the offer."""
        record = self.record
        if record.state != "running" or not any(s.phase == record.phase for s in self.sent):
            return
        treats = record.treated(record.phase)
        new = [d for d in self.members if d not in self.offered and treats(d, True)]
        if new:
            self.offered |= set(new)
            trial_s = SETTINGS.trial_windows * HOP_S
            self.cohorts.append(_Cohort(new, self.now + FETCH_S + trial_s))

    def _report(self, cohort: _Cohort) -> None:
        if cohort.step == "trial":
            cohort.devices = [d for d in cohort.devices if self._tried(d)]
            self.most = max(self.most, len(self.running))
            cohort.step, windows = "watch", SETTINGS.watch_windows
        else:
            self._compare(cohort)
            cohort.devices = [d for d in cohort.devices if self._watched(d, first=cohort.step == "watch")]
            before = self.devices[cohort.devices[0]].windows if cohort.devices else 0
            left = round(SETTINGS.soak_limit_s / HOP_S) - before
            cohort.step, windows = "soak", min(round(before * (REPORT_GROWTH - 1)), left)
        cohort.windows, cohort.due = windows, self.now + windows * HOP_S
        if not cohort.devices or not windows:
            self.cohorts.remove(cohort)

    def _compare(self, cohort: _Cohort) -> None:
        """Have the cohort's devices score their windows; those held out score as many as the first cohort."""
        for device in cohort.devices:
            self.devices[device].compare(cohort.windows)
        if cohort is self.cohorts[0]:
            for device in self._held():
                self.devices[device].compare(cohort.windows)

    def _tried(self, device: str) -> bool:
        """Whether the device commits after its trial."""
        found = self.devices[device].trial(SETTINGS.trial_windows)
        if found.late > BOUND * found.windows:
            self._deliver(device, "restored", "restored", found)
            return False
        self.running.add(device)
        self._deliver(device, "committed", "committed", found)
        return True

    def _watched(self, device: str, *, first: bool) -> bool:
        """Whether the device keeps the model: a watch may restore the old one."""
        found = self.devices[device].paired()
        if first and found.late > BOUND * found.windows:
            self.running.discard(device)
            self._deliver(device, "restored", "restored", found)
            return False
        self._deliver(device, "idle", "committed", found)
        return True

    def _deliver(self, device: str, state: str, result: str, found: PairedShadow) -> None:
        """A report arrives. Those between the first and the newest say nothing that these do not."""
        self.number += 1
        report = DeviceReport(
            self.number, self.now, state, result, NEW.version, paired=found, runtime="simulated"
        )
        known = self.reports[device]
        if len(known) > 2 and known[-1].state == state:
            known.pop()
        known.append(report)
