"""Intersections of a judged street as edgeloop's devices: source, alignment, graph, decision, actuator."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.traffic.road_nets import Signal
from benchmarks.judge.traffic.street_source import LockStep, Street, StreetSecond, StreetSource
from benchmarks.judge.traffic.sumo_run import Plans
from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.called_actuator import ActuatorRequest, CalledActuator
from edge_producer.decider import LocalDecision
from edge_producer.deciding.decision_parameters import HoldsParameters
from edge_producer.device import Device
from edge_producer.device_host import Host
from edge_producer.device_identity import SECRET_BYTES, DeviceIdentity
from edge_producer.metering import Meters
from edge_producer.sources.live_windows import LiveWindows
from edge_producer.sources.source_feed import SourceFeed
from edge_producer.verticals.traffic.signal_cabinet import FIXED, SignalCabinet
from edge_producer.window import Predictor, SourceWait, Window
from schemas.envelope import MessageSigner
from schemas.events import Alert
from schemas.profile import Profile
from schemas.verticals.traffic.discharge_watch import ALARM, DischargeWatch
from schemas.verticals.traffic.phase_control import SignalView, next_phase
from schemas.verticals.traffic.signal_plan import SignalPlan

ACTUATOR = "signal_head"
PATIENCE_S = 30.0
UPDATE_S = 60
"""Seconds between two updates of a device, as its process takes them."""
Array = NDArray[np.float32]
NO_PARAMETERS: Mapping[str, HoldsParameters] = {}


class WatchedCabinet(SignalCabinet):
    """The product's cabinet, whose heads can be looked at."""

    def view(self, name: str) -> SignalView:
        """What a head shows, as of its last step."""
        with self._lock:
            return self._heads[name].view


@dataclass
class StreetRecord:
    """What devices did in a run.

    Attributes:
        alarms: Device, second and action of each alert that a device would have sent.
        watched: Device and second at which the watch without a model began to alarm.
        counts: Of source, windows, functions and actuator.
        features: By device, rows of second, score and features.
    """

    alarms: list[tuple[str, int, str]] = field(default_factory=list)
    watched: list[tuple[str, int]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    features: dict[str, list[Array]] = field(default_factory=dict)


class StreetDevices:
    """One device for each signal, in lock step with the street.

    Args:
        street: Simulated.
        signals: Of the network.
        fixed: The fixed plan of each signal's head.
        profile: Of the devices.
        predictor: Its model.
        start: Event time of the first second.
        parameters: What the cloud has computed, by device.
    """

    def __init__(
        self,
        street: Street,
        signals: Mapping[str, Signal],
        fixed: Plans,
        profile: Profile,
        predictor: Predictor,
        start: datetime,
        parameters: Mapping[str, HoldsParameters] = NO_PARAMETERS,
    ) -> None:
        self._signals, self._fixed, self._profile, self._start = signals, fixed, profile, start
        self._step = LockStep(start)
        self._source = StreetSource(street, signals, self._step)
        self._cabinet = WatchedCabinet(None, fixed, self._step.clock)
        self._actuator = CalledActuator(ACTUATOR, lambda _: self._cabinet, ActuatorRequest({}, PATIENCE_S))
        host = Host(self._actuator.hand_over, Meters(profile), self._step.clock, parameters=parameters)
        self._devices = {name: Device(_identity(name), profile, predictor, host) for name in signals}
        self._watches = {name: DischargeWatch(s.junction) for name, s in signals.items()}
        self._standing: set[str] = set()
        self._shown: dict[str, str] = {}
        self._green = dict.fromkeys(signals, 0)
        self.record = StreetRecord(features={name: [] for name in signals})

    def run(self) -> StreetRecord:
        """Drive the street to the end of its run.

        Raises:
            RuntimeError: The source failed, or the actuator did not take an order.
        """
        clock = self._step.clock
        live = LiveWindows(
            SourceFeed(lambda: self._source, "sumo", clock), self._profile, tuple(self._signals), clock
        )
        self._actuator.open()
        for name in self._signals:  # until its first window is whole, a signal follows its fixed plan
            self._actuator.hand_over(ActionOrder(name, FIXED, cause="renewal"))
        try:
            self._follow(live)
        finally:
            self._source.close()
            self._actuator.close()
        self._take_updates()
        self.record.counts.update({name: n for name, n in live.counts.items() if n})
        for device in self._devices.values():
            status = device.function_status or {}
            for name in ("failed", "late"):
                self.record.counts[f"function_{name}"] += status.get(name, 0)
        return self.record

    def _follow(self, live: LiveWindows) -> None:
        taken = False
        for item in live.windows():
            if isinstance(item, Window):
                self._decide(item)
            elif isinstance(item, SourceWait):
                if live.state["error"]:
                    raise RuntimeError(live.state["error"])
                # Told before this wait and the one before: nothing of the second is still on its way.
                if taken:
                    self._end_second()
                taken = not taken and self._step.told.is_set()
                if not taken and not self._step.told.is_set():
                    item.wait(item.most_s)

    def _decide(self, window: Window) -> None:
        name = window.device_id
        view, told = self._cabinet.view(name), self._source.seen[name]
        decision = self._devices[name].process(window)
        self.record.counts["windows"] += 1
        self.record.counts["fail_safe"] += decision.fail_safe
        self._compare(name, view, told, decision)

    def _compare(self, name: str, view: SignalView, told: StreetSecond, decision: LocalDecision) -> None:
        """Count where the parts, driven directly, would have chosen the same from the same second."""
        signal, seen = self._signals[name], self._signals[name].by_approach(told.vehicles)
        plan: SignalPlan | None = self._fixed.get(name)
        hop_s = self._profile.sampling.hop_s
        direct = next_phase(signal.junction, view, seen, self._step.clock(), plan, hop_s)
        got = decision.numbers.get("phase")
        self.record.counts["same_choice"] += got == direct.phase
        if direct.phase != view.phase:
            self.record.counts["changes"] += 1
            self.record.counts["same_change"] += got == direct.phase

    def _end_second(self) -> None:
        """Carry out what was decided, and let the street go on."""
        if not self._actuator.wait_until_settled(tuple(self._signals), PATIENCE_S):
            raise RuntimeError(f"the actuator did not take an order: {self._actuator.status()['error']}")
        second = self._step.second
        self._watch(second)
        changed = {}
        for name, phase in self._cabinet.step().items():
            light = self._light(name, phase)
            if light != self._shown.get(name):
                changed[name] = self._shown[name] = light
        if second % UPDATE_S == 0:
            self._take_updates()
        self._step.go_on(changed)

    def _light(self, name: str, phase: int | None) -> str:
        """A phase's green; in the intergreen the yellow of the phase before."""
        if phase is not None:
            self._green[name] = phase
            return self._signals[name].greens[phase]
        return self._signals[name].yellows[self._green[name]]

    def _watch(self, second: int) -> None:
        for name, watch in self._watches.items():
            view, told = self._cabinet.view(name), self._source.seen[name]
            green = view.phase if view.green_s > 0 else None
            if watch.add(green, view.green_s, told.vehicles, told.passed) < ALARM:
                self._standing.discard(name)
            elif name not in self._standing:
                self._standing.add(name)
                self.record.watched.append((name, second))

    def _take_updates(self) -> None:
        begin_s = self._start.timestamp()
        for name, device in self._devices.items():
            update = device.take_update()
            self.record.counts.update({n: v for n, v in update.meters.items() if v and n != "windows"})
            for alert in map(Alert.model_validate_json, update.alerts):
                second = round(alert.event_time.timestamp() - begin_s)
                self.record.alarms.append((name, second, alert.action))
            for row in update.sensed:
                score = np.nan if row.score is None else row.score
                head = [row.event_us / 1e6 - begin_s, score]
                self.record.features[name].append(np.array([*head, *row.features], dtype=np.float32))


def _identity(name: str) -> DeviceIdentity:
    return DeviceIdentity(name, MessageSigner.generate(), secrets.token_bytes(SECRET_BYTES))
