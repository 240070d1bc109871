"""Where windows come from: seeded generators (`simulate`) and recordings (`replay`).

Both are a ``WindowSource`` (`edge_producer/window.py`); one contract test runs on both.
"""

from edge_producer.sources.opening import open_source
from edge_producer.sources.replay_source import ReplaySource
from edge_producer.sources.scenario import FaultSpan, Injection, Scenario, load_scenario, truth
from edge_producer.sources.simulate_source import SimulateSource

__all__ = [
    "FaultSpan",
    "Injection",
    "ReplaySource",
    "Scenario",
    "SimulateSource",
    "load_scenario",
    "open_source",
    "truth",
]
