"""How long actions take from the sample's arrival to the actuator's receipt, and what became of them."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from datasketches import kll_floats_sketch

from edge_producer.acting.newest_orders import SentOrder

LATENCY_K = 400
RANKS = {"p50": 0.5, "p99": 0.99, "max": 1.0}


class ReceiptTimes:
    """Written by the threads of an actuator, read by any.

    Attributes:
        counts: By name: ``received``, ``refused``, ``timed_out``, ``failed`` (connections, or calls that
            raised), ``garbled`` answers, ``unexpected`` answers, ``connected``, ``renewed``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decided = kll_floats_sketch(LATENCY_K)
        self._received = kll_floats_sketch(LATENCY_K)
        self.counts: Counter[str] = Counter()

    def count(self, name: str) -> None:
        """Count something."""
        with self._lock:
            self.counts[name] += 1

    def received(self, sent: SentOrder, at_ns: int) -> None:
        """Record a receipt.

        Args:
            sent: What was received.
            at_ns: Monotonic clock at the receipt. A renewal is counted, but no sample led to it.
        """
        order = sent.order
        with self._lock:
            self.counts["received"] += 1
            if order.cause == "decision" and order.arrived_ns:
                self._decided.update(max(order.decided_ns - order.arrived_ns, 0) / 1e6)
                self._received.update(max(at_ns - order.arrived_ns, 0) / 1e6)

    def status(self) -> dict[str, Any]:
        """Counts, and quantiles in ms since the sample's arrival, since the start."""
        with self._lock:
            return {
                "counts": dict(self.counts),
                "decided_ms": _quantiles(self._decided),
                "receipt_ms": _quantiles(self._received),
            }


def _quantiles(sketch: kll_floats_sketch) -> dict[str, Any]:
    known = {} if sketch.is_empty() else {n: round(sketch.get_quantile(r), 4) for n, r in RANKS.items()}
    return {"n": sketch.n, **known}
