"""The way of a reflex on this machine, measured: window, range watch, graph, rules, socket, receipt."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.actuator import SERVER
from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.newest_orders import SentOrder
from edge_producer.acting.receipt_times import ReceiptTimes
from edge_producer.acting.resident_actuator import ResidentActuator
from edge_producer.acting.socket_actuator import SocketActuator
from edge_producer.decider import Decider, LocalDecision
from edge_producer.window import Predictor, Window
from edge_producer.window_scoring import WindowScorer
from schemas.profile import Profile
from schemas.row_schemas import TimeQuality

DEVICE = "arm-1"
START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_S = 5.0


class WatchedReceipts(ReceiptTimes):
    """Receipts that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._came, self._at_ns = threading.Event(), 0

    def expect(self) -> None:
        """The next receipt is the one that is waited for."""
        self._came.clear()

    def received(self, sent: SentOrder, at_ns: int) -> None:
        """See ``ReceiptTimes``."""
        super().received(sent, at_ns)
        self._at_ns = at_ns
        self._came.set()

    def wait_ns(self) -> int:
        """Monotonic clock at which the actuator had the order, by its word.

        Raises:
            TimeoutError: It does not answer.
        """
        if not self._came.wait(PATIENCE_S):
            raise TimeoutError(f"no receipt within {PATIENCE_S} s")
        return self._at_ns


class ReflexPath:
    """The parts of a device that decide, put one behind the other as the device does.

    Args:
        profile: Whose rules count.
        predictor: Its model.
        columns: Place of each channel among what the arm tells, shape (C,).
        actuator: Open; every action that starts is handed to it, and its receipt waited for.
    """

    def __init__(
        self,
        profile: Profile,
        predictor: Predictor,
        columns: NDArray[np.int_],
        actuator: ResidentActuator,
    ) -> None:
        self._profile, self._predictor = profile, predictor
        self._columns, self._actuator = columns, actuator
        actuator.times = self._receipts = WatchedReceipts()
        self.begin()

    def begin(self) -> None:
        """Forget the run before."""
        self._scorer, self._decider = WindowScorer(DEVICE, self._profile), Decider(self._profile.decision)

    def decide(self, samples: NDArray[np.float32], at_s: float) -> tuple[LocalDecision, float]:
        """What follows from a window, and the seconds until it was decided, or the actuator had it.

        Raises:
            TimeoutError: The actuator does not answer.
        """
        end = START + timedelta(seconds=at_s)
        given = Window(DEVICE, samples[:, self._columns], end, round(at_s * 1e9), TimeQuality.SYNCHRONISED)
        began = time.monotonic_ns()
        window = self._scorer.begin(given)
        features, score = self._scorer.score(self._predictor, window)
        further = self._scorer.further(features)
        decision = self._decider.decide(
            window.end, score, out_of_range=self._scorer.out_of_range, further=further
        )
        now = time.monotonic_ns()
        if not decision.started:
            return decision, (now - began) / 1e9
        order = ActionOrder(DEVICE, decision.action, score, "decision", decision.numbers, began, now)
        self._receipts.expect()
        self._actuator.hand_over(order)
        return decision, (self._receipts.wait_ns() - began) / 1e9


@contextmanager
def open_actuator() -> Iterator[ResidentActuator]:
    """An actuator behind a Unix socket, which a process of its own answers."""
    with TemporaryDirectory(prefix="edgeloop-arm-") as folder:
        path = Path(folder) / "arm.sock"
        with subprocess.Popen([sys.executable, "-c", SERVER, str(path)]) as server:
            actuator = SocketActuator(str(path), PATIENCE_S, None)
            try:
                while not path.exists():
                    time.sleep(0.01)
                actuator.open()
                yield actuator
            finally:
                actuator.close()
                server.terminate()
