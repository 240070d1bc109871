"""Asks one device's decision function after its rules: whatever it does, there is an action, and in time."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from typing import Any

from edge_producer.decider import NO_NUMBERS, Incident, LocalDecision
from edge_producer.deciding.answer_check import (
    MOST_COUNTS,
    CheckedAnswer,
    check_answer,
    revision_of,
)
from edge_producer.deciding.decision_function import (
    DecisionFunction,
    DecisionRequest,
    load_decision_function,
)
from edge_producer.deciding.decision_parameters import HoldsParameters
from edge_producer.deciding.timed_calls import TimedCall, TimedCalls
from edge_producer.window import Floats
from schemas.decision_policy import DecisionPolicy
from schemas.errors import ProfileError
from schemas.profile import Profile

log = logging.getLogger(__name__)

DETAIL = 300
"""Characters of what is wrong that are kept: it is in the status, and may be a user's text."""


def _ask(
    function: DecisionFunction, policy: DecisionPolicy, request: DecisionRequest, state: str
) -> CheckedAnswer:
    return check_answer(policy, function(replace(request, state=json.loads(state))))


class FunctionDecider:
    """One device's decision function.

    Where it raises, answers what cannot be carried out, or is late, the rules' action is in force; where they
    have chosen none, the fail-safe. That is counted, and logged once for each kind of failure. The state
    stays that of the last good answer. Without a usable score the fail-safe is in force, and it is not asked.

    Args:
        device_id: Named in requests and logs.
        profile: Names the function, and what it may choose.
        parameters: What the cloud has computed for it.
        calls: Makes the calls.
        kept: From ``export`` before a restart.
        secret: The device's: names what the function has learnt.

    Attributes:
        problem: Why it failed last; empty: it has not, or does again.
    """

    def __init__(
        self,
        device_id: str,
        profile: Profile,
        parameters: HoldsParameters,
        calls: TimedCalls,
        kept: Mapping[str, Any] | None = None,
        secret: bytes = b"",
    ) -> None:
        self._device_id = device_id
        self._policy = policy = profile.decision
        self._name = policy.function or ""
        self._feature_names = profile.feature_names
        self._parameters = parameters
        self._calls = calls
        self._secret = secret
        self._call: TimedCall[CheckedAnswer] | None = None
        self._severities = {rule.action: rank for rank, rule in enumerate(policy.rules)}
        self._action, self._incident, self._state = policy.idle, Incident(), "null"
        if kept is not None:
            self._action, self._incident = kept["action"], Incident(**kept["incident"])
            if kept["name"] == self._name:  # a state of another function would mean something else
                self._state = json.dumps(kept["state"], separators=(",", ":"))
        self._counts: Counter[str] = Counter()
        self._total: Counter[str] = Counter()
        self._clipped: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._logged: set[str] = set()
        self.problem = ""
        self._function: DecisionFunction | None = None
        try:
            self._function = load_decision_function(self._name, device_id, profile)
        except ProfileError as exc:
            self._note_failure(exc)

    @property
    def action(self) -> str:
        """Name of the action in force."""
        return self._action

    @property
    def clipped(self) -> dict[str, int]:
        """How often each number was clipped to its bounds since the start, by ``action.number``."""
        return dict(self._clipped.copy())

    def decide(
        self,
        chosen: LocalDecision,
        event_time: datetime,
        features: Floats,
        scores: Mapping[str, float | None],
    ) -> LocalDecision:
        """The decision after a window.

        Args:
            chosen: What the rules decided.
            event_time: UTC end of the window.
            features: Of the profile's features, in their order; what stands behind them is left out.
            scores: By output; ``score`` is the primary one.
        """
        if chosen.fail_safe:
            return self._final(chosen, chosen.action, chosen.numbers)
        try:
            answer = self._answer(chosen.action, event_time, features, scores)
        except Exception as exc:  # noqa: BLE001  (whatever a user's code does: the device decides on)
            self._note_failure(exc)
            return self._without(chosen)
        self.problem, self._state = "", answer.state
        self._parameters.decided(well=True)
        self._count("function_answered")
        self._count("numbers_clipped", len(answer.clipped))
        self._clipped.update(f"{answer.action}.{name}" for name in answer.clipped)
        self._told.update({n: k for n, k in answer.counts.items() if self._has_room_for(n)})
        named = revision_of(self._secret, answer.calibration) if answer.calibration else None
        return self._final(replace(chosen, calibration=named), *self._allowed(chosen, answer))

    def begin_anew(self) -> None:
        """Count that its state from before could not be read."""
        self._count("function_states_lost")

    def export(self) -> dict[str, Any]:
        """State as a JSON value."""
        return {
            "name": self._name,
            "state": json.loads(self._state),
            "action": self._action,
            "incident": asdict(self._incident),
        }

    def take_counts(self) -> Counter[str]:
        """What was counted since the last call, by name; without zeros."""
        counts, self._counts = self._counts, Counter()
        return counts

    def status(self) -> dict[str, Any]:
        """For the status file: counts since the start, clips by ``action.number``, and the problem."""
        counts = self._total.copy()
        return {
            "name": self._name,
            "answered": counts["function_answered"],
            "failed": counts["function_failed"],
            "late": counts["function_late"],
            "overruled": counts["function_overruled"],
            "states_lost": counts["function_states_lost"],
            "clipped": self.clipped,
            "counts": dict(self._told.copy()),
            "parameters": self._parameters.in_use,
            "problem": self.problem,
        }

    def _answer(
        self, action: str, event_time: datetime, features: Floats, scores: Mapping[str, float | None]
    ) -> CheckedAnswer:
        names = self._feature_names
        values = dict(zip(names, features[: len(names)].tolist(), strict=True))
        parameters = self._parameters.at(event_time)
        request = DecisionRequest(self._device_id, event_time, values, scores, action, parameters)
        if self._function is None:
            raise ProfileError(self.problem)
        if self._call is not None and self._call.running:
            raise TimeoutError("an earlier call has not come to an end")
        work = partial(_ask, self._function, self._policy, request, self._state)
        self._call = self._calls.begin(TimedCall(work))
        return self._call.result(self._policy.function_timeout_s)

    def _allowed(self, chosen: LocalDecision, answer: CheckedAnswer) -> tuple[str, Mapping[str, float]]:
        """Action and numbers of an answer, unless a rule in force stands that is more severe."""
        standing = chosen.standing
        if not standing or self._severities.get(answer.action, -1) >= self._severities[standing]:
            return answer.action, answer.numbers
        self._count("function_overruled")
        return standing, self._policy.numbers_of(standing)

    def _has_room_for(self, name: str) -> bool:
        return name in self._told or len(self._told) < MOST_COUNTS

    def _without(self, chosen: LocalDecision) -> LocalDecision:
        """The decision without the function: the rules' action, or the fail-safe where they chose none."""
        if chosen.action != self._policy.idle:
            return self._final(chosen, chosen.action, chosen.numbers)
        safe = self._policy.fail_safe
        numbers = self._policy.numbers_of(safe)
        return self._final(chosen, safe, numbers, fail_safe=True)

    def _final(
        self, chosen: LocalDecision, action: str, numbers: Mapping[str, float], *, fail_safe: bool = False
    ) -> LocalDecision:
        """What the device does; an alarm of the function's own begins an incident of its own."""
        policy, before = self._policy, self._action
        self._action = action
        own = action != chosen.action and action not in policy.resting
        severity = self._severities.get(action, 0) if own else None
        grows = self._incident.note(severity, policy.refractory_windows)
        begins = own and action != before
        ends = action != before and before not in policy.resting
        wanted = action not in self._severities or policy.rules[self._severities[action]].alert
        return replace(
            chosen,
            action=action,
            numbers=numbers or NO_NUMBERS,
            started=chosen.started or begins or ends,
            alert=chosen.alert or (begins and grows and wanted),
            fail_safe=chosen.fail_safe or fail_safe,
            repeated=chosen.repeated or (begins and not grows),
            alarm="" if own or action == chosen.action else chosen.action,
        )

    def _note_failure(self, error: Exception) -> None:
        late = isinstance(error, TimeoutError)
        if self._function is not None:
            self._parameters.decided(well=False)
            self._count("function_late" if late else "function_failed")
        elif self.problem:  # what could not be loaded fails with every window
            self._count("function_failed")
        text = str(error) if isinstance(error, ProfileError) else f"{type(error).__name__}: {error}"
        self.problem = text[:DETAIL]
        if type(error).__name__ not in self._logged:
            self._logged.add(type(error).__name__)
            said = "decision function '%s' failed, and the rules decide, or the fail-safe: %s"
            log.error(said, self._name, self.problem, extra={"device_id": self._device_id})

    def _count(self, name: str, n: int = 1) -> None:
        if n:
            self._counts[name] += n
            self._total[name] += n
