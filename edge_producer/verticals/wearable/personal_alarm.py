"""The decision function ``personal_alarm``: entry point of ``edgeloop.decisions``, made once a device.

Beside the rules, which all stand, it alarms where a wearer at rest deviates from the own baseline. The
baseline is learnt here, from quiet windows, and never leaves the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_producer.deciding.decision_function import DecisionAnswer, DecisionRequest
from edge_producer.verticals.wearable.wearer_calibration import WearerCalibration, deviates_from_population
from schemas.decision_policy import DecisionPolicy
from schemas.instants import to_us
from schemas.profile import Profile
from schemas.verticals.wearable.wearer_prior import WearerPrior, prior_of

AFTER_WINDOWS = 3
"""Quiet windows in a row that deviate before it is an alarm."""
LEAVE_SHARE = 0.8
"""Share of ``alarm_z`` below which a quiet window ends it."""
ANEW = "calibrations_begun_anew"
NO_PRIOR = "windows_without_prior"


@dataclass
class _Deviation:
    """``run``: deviating quiet windows in a row; ``since_us``: since when it is an alarm, or None."""

    run: int = 0
    since_us: int | None = None


class PersonalAlarm:
    """The alarm of one wearer.

    It answers what the rules chose wherever a rule is in force: a baseline silences none of them. Only
    where none is, a deviation from the own baseline starts the action of the mildest rule on the primary
    score, and keeps it until a quiet window is back near the baseline, or none has come for the rule's
    hold.

    Args:
        device_id: Of the wearer.
        profile: Gives rules, feature set and hold.

    Raises:
        ValueError: The profile has no rule on the primary score.
    """

    def __init__(self, device_id: str, profile: Profile) -> None:
        self.device_id = device_id
        self._policy: DecisionPolicy = profile.decision
        self._featureset = profile.featureset
        rules = profile.decision.score_rules
        if not rules:
            raise ValueError("personal_alarm needs a rule on the primary score: its action is the alarm")
        self._action, self._hold_us = rules[0].action, round(rules[0].hold_s * 1e6)
        self._read: tuple[Mapping[str, Any], WearerPrior | None] | None = None

    def check_parameters(self, values: Mapping[str, Any]) -> None:
        """Refuse a prior that no baseline can be shrunk towards.

        Raises:
            ValueError: There is none, or it is inconsistent; says what.
        """
        if prior_of(values) is None:
            raise ValueError("the parameters hold no prior of a feature")

    def __call__(self, request: DecisionRequest) -> DecisionAnswer:
        """The rules' action, or the alarm where they chose none and the wearer deviates."""
        counts: Counter[str] = Counter()
        own, deviation = self._restored(request.state, counts)
        prior = self._prior_in(request.parameters)
        if prior is None:
            # Without a prior there are no bounds: what is learnt is kept, and the rules decide.
            counts[NO_PRIOR] += 1
            return DecisionAnswer(request.action, {}, self._state(own, _Deviation()), None, counts)
        counts += own.follow(prior)
        named = own.in_force()  # by which this window is judged
        quiet = self._is_quiet(request, prior)
        self._judge(request, own, prior, deviation, quiet=quiet)
        if quiet and self._may_learn(request, own, prior, deviation):
            counts += own.learn(request.features, request.event_time, prior)
        action = request.action
        if action == self._policy.idle and deviation.since_us is not None:
            action = self._action
            counts["windows_of_personal_alarm"] += 1
        return DecisionAnswer(action, {}, self._state(own, deviation), named, counts)

    def _prior_in(self, parameters: Mapping[str, Any]) -> WearerPrior | None:
        """The prior in force, read once: parameters are read-only, so the same ones hold the same."""
        if self._read is None or self._read[0] is not parameters:
            self._read = parameters, prior_of(parameters)
        return self._read[1]

    def _is_quiet(self, request: DecisionRequest, prior: WearerPrior) -> bool:
        """Good quality, at rest, no rule in force, and no score that would keep one in force."""
        low = all(
            (score := request.scores.get(rule.output)) is None or score < rule.leave
            for rule in self._policy.rules
        )
        return request.action == self._policy.idle and low and prior.is_quiet(request.features)

    def _judge(
        self,
        request: DecisionRequest,
        own: WearerCalibration,
        prior: WearerPrior,
        deviation: _Deviation,
        *,
        quiet: bool,
    ) -> None:
        """Begin, keep or end the alarm with this window."""
        at_us = to_us(request.event_time)
        if not quiet:
            since = deviation.since_us
            if since is not None and not since <= at_us < since + self._hold_us:
                deviation.run, deviation.since_us = 0, None
            return
        size = own.deviation(request.features)
        deviation.run = deviation.run + 1 if size >= prior.alarm_z else 0
        if deviation.run >= AFTER_WINDOWS or (deviation.since_us is not None and size >= self._leave(prior)):
            deviation.since_us = at_us
        elif size < self._leave(prior):
            deviation.since_us = None

    @staticmethod
    def _leave(prior: WearerPrior) -> float:
        return LEAVE_SHARE * prior.alarm_z

    @staticmethod
    def _may_learn(
        request: DecisionRequest, own: WearerCalibration, prior: WearerPrior, deviation: _Deviation
    ) -> bool:
        """Not what deviates, unless the population would call it usual: a wrong baseline heals by that."""
        deviates = deviation.since_us is not None or own.deviation(request.features) >= prior.alarm_z
        return not deviates or not deviates_from_population(request.features, prior)

    def _restored(self, state: Any, counts: Counter[str]) -> tuple[WearerCalibration, _Deviation]:
        """What was learnt until now; anew, and counted, where it is damaged or of other features."""
        if state is None:
            return WearerCalibration(), _Deviation()
        try:
            since = state["since_us"]
            deviation = _Deviation(int(state["run"]), None if since is None else int(since))
            own = WearerCalibration.from_json(state["calibration"])
            is_known = state["featureset"] == self._featureset
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
            is_known = False
        if not is_known:
            counts[ANEW] += 1
            return WearerCalibration(), _Deviation()
        return own, deviation

    def _state(self, own: WearerCalibration, deviation: _Deviation) -> dict[str, Any]:
        return {
            "featureset": self._featureset,
            "calibration": own.to_json(),
            "run": deviation.run,
            "since_us": deviation.since_us,
        }
