"""Decides the local action in force from scores: hysteresis, hold, severity, fail-safe. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from schemas.decision_policy import DecisionPolicy, DecisionRule
from schemas.output_names import PRIMARY

_NONE: Mapping[str, float | None] = {}

NO_NUMBERS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LocalDecision:
    """What the device does after one window.

    Attributes:
        action: Name of the action in force.
        started: Another action was in force after the window before.
        alert: Whether to send an alert at once, because an incident began or became more severe.
        fail_safe: The action is in force because there is no usable score.
        out_of_range: There are samples outside their range, in a row or too many.
        repeated: An action started that is no alarm, because its incident has had one as severe.
        numbers: What the action carries, within the profile's bounds.
        alarm: Action that the alert names, where that is another one; empty: ``action``.
        standing: Action of the most severe rule in force that stands whatever a function says; empty: none.
        calibration: Revision of what the device had learnt for itself when it decided; None: it went by none.
    """

    action: str
    started: bool
    alert: bool
    fail_safe: bool
    out_of_range: bool = False
    repeated: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)
    alarm: str = ""
    standing: str = ""
    calibration: str | None = None


@dataclass(slots=True)
class Incident:
    """Alarms that belong together.

    Attributes:
        severity: The highest since it began; -1: there is none.
        quiet: Windows without an action.
    """

    severity: int = -1
    quiet: int = 0

    def note(self, severity: int | None, refractory: int) -> bool:
        """Take a window's severity (None: no action); whether the incident begins or grows with it."""
        if severity is None:
            self.quiet += 1
            if self.quiet > refractory:
                self.severity = -1
            return False
        grows = severity > self.severity
        self.severity, self.quiet = max(severity, self.severity), 0
        return grows


@dataclass(slots=True)
class _RuleState:
    """``run``: consecutive windows at or above ``enter``; ``since``: ISO start while the rule is in force."""

    run: int = 0
    since: str | None = None


class Decider:
    """One device's decisions. Rules are ordered by severity; the most severe one in force wins.

    A rule in force ends when the score is below ``leave`` and its hold has passed. Without a usable score a
    rule in force lasts to the end of its hold; then ``fail_safe`` applies. Where nothing of this is in force,
    samples outside their range bring ``out_of_range`` into force. One incident gives one alert for each
    severity that it reaches on its way up; the lack of a score is an incident of its own.

    Args:
        policy: The profile's rules.
        state: From ``export`` before a restart: an action in force stays in force.
    """

    def __init__(self, policy: DecisionPolicy, state: Mapping[str, Any] | None = None) -> None:
        self._policy = policy
        self._rules = {rule.action: _RuleState() for rule in policy.rules}
        mildest = policy.rules[0].action if policy.rules else "inspect"
        self._range_action = policy.out_of_range or mildest
        self._action = policy.idle
        self._incidents = {"score": Incident(), "fail_safe": Incident()}
        if state is not None:
            self._action = state["action"]
            for name, kept in state.get("incidents", {}).items():  # 0.2.0 kept none
                self._incidents[name] = Incident(**kept)
            for name, kept in state["rules"].items():
                if name in self._rules:
                    self._rules[name] = _RuleState(**kept)

    @property
    def action(self) -> str:
        """Name of the action in force."""
        return self._action

    def decide(
        self,
        event_time: datetime,
        score: float | None,
        *,
        out_of_range: bool = False,
        further: Mapping[str, float | None] = _NONE,
    ) -> LocalDecision:
        """The decision after a window.

        Args:
            event_time: UTC end of the window; may step back, which restarts a hold.
            score: In [0, 1]; None where there is no usable one.
            out_of_range: Samples are outside their range, in a row or too many.
            further: Further outputs of the model by name, as ``score``; what is not named is None.
        """
        winner, severity, standing = None, None, ""
        for rank, rule in enumerate(self._policy.rules):
            value = score if rule.output == PRIMARY else further.get(rule.output)
            if self._in_force(rule, self._rules[rule.action], event_time, value):
                winner, severity = rule, rank
                standing = rule.action if rule.stands else standing
        safe = self._policy.fail_safe
        # Where the fail-safe is to do nothing, what is out of range still has to be looked at.
        ranged = out_of_range and winner is None and (score is not None or safe == self._policy.idle)
        fail_safe = winner is None and score is None and not ranged
        if winner is not None:
            action, alert = winner.action, winner.alert
        else:
            action = self._range_action if ranged else safe if fail_safe else self._policy.idle
            alert = action != self._policy.idle
        started = action != self._action
        self._action = action
        grows = self._grows(0 if ranged else severity, fail_safe=fail_safe)
        repeated = started and action != self._policy.idle and not grows
        numbers = self._policy.numbers_of(action) if action in self._policy.numbers else NO_NUMBERS
        alert = started and alert and grows
        return LocalDecision(
            action, started, alert, fail_safe, out_of_range, repeated, numbers, standing=standing
        )

    def export(self) -> dict[str, Any]:
        """State as a JSON value."""
        return {
            "action": self._action,
            "rules": {name: asdict(s) for name, s in self._rules.items()},
            "incidents": {name: asdict(s) for name, s in self._incidents.items()},
        }

    def _grows(self, severity: int | None, *, fail_safe: bool) -> bool:
        """Whether an incident begins, or becomes more severe, with this window."""
        refractory = self._policy.refractory_windows
        scored = self._incidents["score"].note(severity, refractory)
        return self._incidents["fail_safe"].note(0 if fail_safe else None, refractory) or scored

    @staticmethod
    def _in_force(rule: DecisionRule, state: _RuleState, at: datetime, score: float | None) -> bool:
        high = score is not None and score >= rule.enter
        state.run = state.run + 1 if high else 0
        if state.since is None:
            if state.run >= rule.after_windows:
                state.since = at.isoformat()
            return state.since is not None
        if score is None or score < rule.leave:
            since = datetime.fromisoformat(state.since)
            if at < since:
                state.since = at.isoformat()
            elif at - since >= timedelta(seconds=rule.hold_s):
                state.since = None
        return state.since is not None
