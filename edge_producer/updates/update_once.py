"""``python -m edge_producer update --once``: check for instructions, carry them out, print the outcome.

Nothing is sensed: the trial runs on the golden vectors and on synthetic windows instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

import numpy as np

from edge_producer.model_switch import ModelSwitch, ScoredWindow
from edge_producer.settings import EdgeSettings
from edge_producer.sources.scenario import Scenario
from edge_producer.sources.simulate_source import SimulateSource
from edge_producer.updates.agent import UpdateAgent
from edge_producer.updates.update_states import UNCHANGED
from edge_producer.updates.updater import Updater
from edge_producer.window import Predictor, Samples, Window
from edge_producer.window_scoring import further_outputs
from schemas.alarm_bounds import AlarmBounds
from schemas.errors import BundleError
from schemas.profile import Profile
from schemas.row_schemas import TimeQuality
from schemas.updates import UpdateResult, UpdateState

WHOLE_S = 300.0
"""Longest time for all devices."""
_SEED = 7
_UNDER_WAY = UNCHANGED | {UpdateState.COMMITTED, UpdateState.WATCH}
_GOOD = ("", UpdateResult.COMMITTED.value)


def update_once(settings: EdgeSettings, profile: Profile, print_line: Callable[[str], object]) -> bool:
    """Update all devices once.

    Args:
        settings: Devices and folders.
        profile: Profile of all devices.
        print_line: Called with one line per device.

    Returns:
        Whether every device did what its instruction wants.

    Raises:
        OperatorError: Another process updates these devices.
        SpoolError: A device has no model that loads.
    """
    updater = Updater(settings, profile)
    pumps = {name: synthetic_windows(profile, name) for name in updater.agents}
    updater.start()
    try:
        deadline = time.monotonic() + WHOLE_S
        while time.monotonic() < deadline and not all(settled(a) for a in updater.agents.values()):
            for name, agent in updater.agents.items():
                _pump(agent.switch, next(pumps[name]), profile)
            time.sleep(0.02)
    finally:
        updater.stop()
    good = [_print_outcome(name, agent, print_line) for name, agent in updater.agents.items()]
    return all(good)


def synthetic_windows(profile: Profile, device_id: str) -> Iterator[Window]:
    """Windows without a sensor: the profile's generator, or noise in the middle of what is usual."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    if profile.simulate is not None:
        yield from SimulateSource(profile, [device_id], Scenario(seed=_SEED, start=start), start).windows()
    rng = np.random.default_rng(_SEED)
    low, high = np.array([c.usual for c in profile.channels]).T
    shape = (profile.sampling.window_samples, len(profile.channels))
    for k in count():
        samples: Samples = rng.normal((low + high) / 2, (high - low) / 100, shape).astype(np.float32)
        yield Window(device_id, samples, start, k, TimeQuality.UNKNOWN)


def _pump(switch: ModelSwitch, window: Window, profile: Profile) -> None:
    """Do with a window what the sensing loop does, as far as models are concerned."""
    models = switch.models
    switch.in_use = models
    if models.observer is None:
        return
    begun = time.perf_counter()
    score, alarm = _score(models.active, window, profile)
    took_s = time.perf_counter() - begun
    shadow, other = (None, False) if models.shadow is None else _score(models.shadow, window, profile)
    outcome = ScoredWindow(models.active.version, score, took_s, shadow, alarm=alarm, shadow_alarm=other)
    models.observer.observe(window, outcome)


def _score(model: Predictor, window: Window, profile: Profile) -> tuple[float | None, bool]:
    """The score, and whether any output that a rule reads raises an alarm."""
    try:
        numbers, score = model.score(window.device_id, window.samples, window.end)
    except BundleError:
        return None, False
    further = further_outputs(profile.model.outputs, numbers)
    return score, AlarmBounds.of(profile.decision).raised(score, further)


def settled(agent: UpdateAgent) -> bool:
    """Whether nothing is under way, and the device has checked since anything was."""
    if agent.installer.record.state in _UNDER_WAY:
        agent.checked.clear()  # the agent checks again when an attempt ends: there may be newer instructions
        return False
    return agent.checked.is_set() or agent.blocked


def _print_outcome(name: str, agent: UpdateAgent, print_line: Callable[[str], object]) -> bool:
    status: Mapping[str, Any] = agent.status
    good = agent.checked.is_set() and status["result"] in _GOOD
    parts = [f"{name}: {status['version']} {status['state']}"]
    parts += [str(status[key]) for key in ("result", "attack") if status[key]]
    detail = status["detail"] if agent.checked.is_set() else agent.last_error or "the service did not answer"
    parts += [f"({detail})"] if detail and not good else []
    print_line(" ".join(parts))
    return good
