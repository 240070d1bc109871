"""Where windows come from: seeded generators (`simulate`) and recordings (`replay`).

Both are a ``Source`` (`edge_producer/window.py`); one contract test runs on both.
"""

from edge_producer.sources.opening import open_source
from edge_producer.sources.replay import ReplaySource
from edge_producer.sources.scenario import Injection, Scenario, Span, load_scenario, truth
from edge_producer.sources.simulate import SimulateSource

__all__ = [
    "Injection",
    "ReplaySource",
    "Scenario",
    "SimulateSource",
    "Span",
    "load_scenario",
    "open_source",
    "truth",
]
