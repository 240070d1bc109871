"""The actuator ``signal_head``: the signals of a process's intersections, each stepped once a second.

Entry point of ``edgeloop.actuators``. Whatever it is told, the heads keep shortest and longest greens and
intergreens; an intersection that is told nothing for a while, or told ``fixed_plan``, follows its fixed plan.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.called_actuator import ActuatorRequest
from edge_producer.verticals.traffic.signal_decision import ACTION
from schemas.durable import DISK
from schemas.verticals.traffic.signal_head import SignalHead
from schemas.verticals.traffic.signal_plan import SignalPlan, infeasible
from schemas.verticals.traffic.standard_junction import NAMES, standard_junction

STEP_S = 1.0
OPTIONS = ("lights", "plans")
FIXED = "fixed_plan"


class SignalCabinet:
    """Signal heads by intersection; made when an intersection's first order comes.

    Args:
        lights: Folder in which ``INTERSECTION.json`` always says what is green; None: nothing is written.
        plans: Fixed plan of each intersection; others have one of equal greens.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        lights: Path | None = None,
        plans: Mapping[str, SignalPlan] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._junction = standard_junction()
        self._lights, self._plans, self._clock = lights, plans or {}, clock
        self._heads: dict[str, SignalHead] = {}
        self._shown: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._failed: OSError | None = None

    def carry_out(self, order: ActionOrder) -> None:
        """Tell an intersection's head what it is to show next.

        Raises:
            ValueError: The action is none of an intersection, or names no phase.
            OSError: The lights could not be written since the last order.
        """
        with self._lock:
            failed, self._failed = self._failed, None
            head = self._heads.get(order.device_id)
            if head is None:
                head = SignalHead(self._junction, self._clock(), self._plans.get(order.device_id))
                self._heads[order.device_id] = head
            if order.action == ACTION:
                head.tell(self._phase_of(order))
            elif order.action == FIXED:
                head.release()
                self._step()
        if failed is not None:
            raise failed

    def step(self) -> dict[str, int | None]:
        """Step every head; the phase that is green of each, None in the intergreen."""
        with self._lock:
            return self._step()

    def run(self) -> None:
        """Step once a second until it is closed."""
        while not self._closed.wait(STEP_S - self._clock() % STEP_S):
            self.step()

    def close(self) -> None:
        """Stop stepping. A real signal follows its fixed plan from then on."""
        self._closed.set()

    def _phase_of(self, order: ActionOrder) -> int:
        phase = order.numbers.get("phase")
        if phase is None or phase != int(phase) or not 0 <= phase < len(NAMES):
            raise ValueError(f"{order.action} of {order.device_id} names no phase: {dict(order.numbers)}")
        return int(phase)

    def _step(self) -> dict[str, int | None]:
        now_s = self._clock()
        green = {name: head.step(now_s) for name, head in self._heads.items()}
        for name, phase in green.items():
            light = None if phase is None else NAMES[phase]
            said = {"green": light, "by_fixed_plan": self._heads[name].falls_back}
            if said != self._shown.get(name):
                self._shown[name] = said
                self._write(name, said)
        return green

    def _write(self, name: str, said: Mapping[str, Any]) -> None:
        if self._lights is None:
            return
        try:
            DISK.write(self._lights / f"{name}.json", json.dumps(said).encode(), sync=False)
        except OSError as exc:  # the signals go on; the next order fails, which is counted and shown
            self._failed = exc


def open_cabinet(request: ActuatorRequest) -> SignalCabinet:
    """The cabinet of a device's file of actions, stepped in a thread of its own.

    Options: ``lights``: a folder; ``plans``: a JSON file, by intersection ``cycle_s``, ``offset_s`` and
    ``splits``.

    Raises:
        ValueError: An option is unknown, or a plan is none that the junction can run.
        OSError: The plans cannot be read.
    """
    if unknown := sorted(set(request.options) - set(OPTIONS)):
        raise ValueError(f"actuator signal_head: unknown options {unknown}; known: {', '.join(OPTIONS)}")
    lights, plans = (request.options.get(name) for name in OPTIONS)
    cabinet = SignalCabinet(Path(lights) if lights else None, _read_plans(Path(plans)) if plans else None)
    threading.Thread(target=cabinet.run, name="signals", daemon=True).start()
    return cabinet


def _read_plans(path: Path) -> dict[str, SignalPlan]:
    found = {}
    for name, value in json.loads(path.read_text(encoding="utf-8")).items():
        try:
            plan = SignalPlan(float(value["cycle_s"]), float(value["offset_s"]), tuple(value["splits"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"{path}: {name} is no plan: {exc!r}") from exc
        if why := infeasible(plan, standard_junction()):
            raise ValueError(f"{path}: {name}: {'; '.join(why)}")
        found[str(name)] = plan
    return found
