"""Decides which rows are worth sending, and with what probability. Pure.

A row is selected if and only if its permanent u is below its inclusion probability pi: 1 where a rule selects
the row, else the sampling rate p that was fixed before the row was sensed. No rule may read the u of the row
that it judges, or estimates would be biased: threshold, uncertainty, burst, transition and fail-safe depend
on scores alone; the deadband depends on the u of earlier rows only.

A selected row leaves at once. The others wait for a few windows: if a trigger comes, they are sent as
*context*, to be looked at. Which rows become context depends on later scores and on u, so they are in no
estimate; a sampled row before a trigger keeps its q = p, and stands for them there.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from edge_producer.decider import LocalDecision
from edge_producer.sensed_rows import Period, Row
from schemas.profile import FilterPolicy
from schemas.row_schemas import CONTEXT, RULES, Reason

_HOUR_US = 3_600_000_000
_SAMPLE, _THRESHOLD, _UNCERTAIN = int(Reason.SAMPLE), int(Reason.THRESHOLD), int(Reason.UNCERTAIN)
_DEADBAND, _BURST = int(Reason.DEADBAND), int(Reason.BURST)
_TRANSITION, _FAIL_SAFE = int(Reason.TRANSITION), int(Reason.FAIL_SAFE)
_OUT_OF_RANGE, _REPEATED = int(Reason.OUT_OF_RANGE), int(Reason.REPEATED)
# As plain ints: arithmetic on enum flags costs more than the rest of the filter.
_ROW_KEY = struct.Struct("<qq")


def permanent_u(secret: bytes, boot_id: int, seq: int) -> float:
    """The row's permanent number in [0, 1): the first 53 bits of a keyed hash of boot and ``seq``."""
    digest = blake2b(_ROW_KEY.pack(boot_id, seq), key=secret, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


@dataclass
class RateBudget:
    """Lowers p so that the expected number of sampled rows in a UTC hour stays within the budget.

    The rate for the next row is fixed before that row is sensed, and the budget is spent by expectation (p),
    not by outcome: so p never depends on a u.

    Attributes:
        hour_us: Start of the hour being spent.
        spent: Sum of p over the hour's sampled rows.
        p: Rate for the next row.
    """

    policy: FilterPolicy
    hop_s: float
    hour_us: int = 0
    spent: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        """Start at the policy's rate, or at the rate that an even spread over the hour allows."""
        self.p = self._rate(_HOUR_US)

    def spend(self, event_us: int, sampled: bool) -> None:
        """Count a row and fix the rate for the next one."""
        if self.policy.budget_rows_per_hour is None:
            return
        hour = event_us - event_us % _HOUR_US
        if hour != self.hour_us:
            self.hour_us, self.spent = hour, 0.0
        if sampled:
            self.spent += self.p
        self.p = self._rate(hour + _HOUR_US - event_us)

    def _rate(self, left_us: int) -> float:
        budget = self.policy.budget_rows_per_hour
        if budget is None:
            return self.policy.p
        # Spread what is left of the budget evenly over the windows that are left in the hour.
        windows_left = max(left_us / 1e6 / self.hop_s, 1.0)
        return min(self.policy.p, max(self.policy.p_min, (budget - self.spent) / windows_left))


class RowFilter:
    """One device's filter.

    A row that is selected is released at once. Another one is held until ``pretrigger`` later windows have
    come, because a trigger among those makes it context.

    Args:
        policy: The profile's filter policy.
        feature_names: Columns of ``Row.features``, in order.
        hop_s: Seconds of event time between two windows.
        secret: The device's secret.
        state: From ``export`` before a restart.

    Example:
        A score above the threshold selects its own row, and the row before it is sent as context.

        >>> policy = FilterPolicy(p=0.01, p_min=0.01, threshold=0.8, burst_after=0, pretrigger=1)
        >>> rows = RowFilter(policy, ("load",), hop_s=1.0, secret=bytes(32))
        >>> steady = LocalDecision("none", started=False, alert=False, fail_safe=False)
        >>> for seq, score in enumerate([0.1, 0.2, 0.9]):
        ...     row = Row(1, seq, seq * 10**6, 0, 0, 1, np.float32([score]), score, "none", "m-1", 0.0)
        ...     for released in rows.offer(row, steady):
        ...         print(released.seq, released.selected, [r.name for r in Reason(released.reasons)])
        0 False []
        1 True ['CONTEXT']
        2 True ['THRESHOLD']
    """

    def __init__(
        self,
        policy: FilterPolicy,
        feature_names: Sequence[str],
        hop_s: float,
        secret: bytes,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._policy = policy
        self._secret = secret
        columns = [*feature_names, "score"]
        self._band_columns = np.array([columns.index(n) for n in policy.deadband], dtype=np.intp)
        self._bands = np.array(list(policy.deadband.values()))
        self._budget = RateBudget(policy, hop_s)
        self._held: deque[Row] = deque()
        self._burst_left = 0
        self._last_sent: np.ndarray | None = None
        if state is not None:
            self._restore(state)

    @property
    def held(self) -> int:
        """Number of rows that are not released yet."""
        return len(self._held)

    @property
    def p(self) -> float:
        """Sampling rate for the next row."""
        return self._budget.p

    @property
    def periods(self) -> set[Period]:
        """Periods of the rows that are not released yet."""
        return {row.period for row in self._held}

    def offer(self, row: Row, decision: LocalDecision) -> list[Row]:
        """Judge a new row; returns the rows that are now released: earlier ones first, in order."""
        row.u = permanent_u(self._secret, row.boot_id, row.seq)
        row.sample_p = self._budget.p
        row.reasons |= self._rules(row, decision)
        released: list[Row] = []
        if row.reasons & _THRESHOLD:
            self._burst_left = self._policy.burst_after
            released = self._release_all(triggered=True)
        elif self._burst_left:
            self._burst_left -= 1
        self._budget.spend(row.event_us, not row.reasons & RULES)
        if self._bands.size and row.selected:
            self._last_sent = self._band_values(row)
        released += self._release_past(row)
        if row.selected:
            released.append(_final(row))
        elif self._policy.pretrigger:
            self._held.append(row)
        else:
            released.append(row)
        return released

    def flush(self) -> list[Row]:
        """Release all held rows, because no later row will trigger them."""
        return self._release_all(triggered=False)

    def export(self) -> dict[str, Any]:
        """State as a JSON value, held rows included."""
        return {
            "held": [row.to_json() for row in self._held],
            "burst_left": self._burst_left,
            "last_sent": None if self._last_sent is None else self._last_sent.tobytes().hex(),
            "hour_us": self._budget.hour_us,
            "spent": self._budget.spent,
            "p": self._budget.p,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._held = deque(Row.from_json(v) for v in state["held"])
        self._burst_left = state["burst_left"]
        if state["last_sent"] is not None:
            last = np.frombuffer(bytes.fromhex(state["last_sent"]))
            self._last_sent = last if last.shape == self._bands.shape else None
        self._budget.hour_us, self._budget.spent = state["hour_us"], state["spent"]
        if self._policy.budget_rows_per_hour is not None:  # else it is the policy's, which may have changed
            self._budget.p = min(self._policy.p, max(self._policy.p_min, state["p"]))

    def _rules(self, row: Row, decision: LocalDecision) -> int:
        policy, score, reasons = self._policy, row.score, 0
        if score is not None:
            if policy.threshold is not None and score >= policy.threshold:
                reasons |= _THRESHOLD
            if policy.uncertain is not None and policy.uncertain[0] <= score < policy.uncertain[1]:
                reasons |= _UNCERTAIN
        if self._burst_left:
            reasons |= _BURST
        if decision.started:
            reasons |= _TRANSITION
        if decision.fail_safe:
            reasons |= _FAIL_SAFE
        if decision.out_of_range and decision.started:
            reasons |= _OUT_OF_RANGE
        if decision.repeated:
            reasons |= _REPEATED
        if self._bands.size and self._left_band(row):
            reasons |= _DEADBAND
        return reasons

    def _left_band(self, row: Row) -> bool:
        if self._last_sent is None:
            return True
        now = self._band_values(row)
        appeared_or_vanished = np.isnan(now) != np.isnan(self._last_sent)
        return bool((appeared_or_vanished | (np.abs(now - self._last_sent) > self._bands)).any())

    def _band_values(self, row: Row) -> np.ndarray:
        score = np.nan if row.score is None else row.score
        return np.append(row.features, score)[self._band_columns].astype(np.float64)

    def _release_all(self, *, triggered: bool) -> list[Row]:
        released = [_final(row, triggered=triggered) for row in self._held]
        self._held.clear()
        return released

    def _release_past(self, newest: Row) -> list[Row]:
        """Rows so far back that a trigger in the next window would not reach them."""
        released = []
        held, reach = self._held, newest.seq - self._policy.pretrigger
        while held and (held[0].seq <= reach or held[0].boot_id != newest.boot_id):
            released.append(_final(held.popleft()))
        return released


def _final(row: Row, *, triggered: bool = False) -> Row:
    """The row with the reason for which it leaves, if it does.

    A held row may be selected all the same: release 0.2.0 held those too, and left them in its state.
    """
    if row.reasons & RULES:
        return row
    if row.u < row.sample_p:
        row.reasons |= _SAMPLE
    elif triggered:
        row.reasons |= CONTEXT
    return row
