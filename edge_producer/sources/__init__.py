"""Where windows come from: seeded generators (`simulate`) and recordings (`replay`).

Both are a ``WindowSource`` (`edge_producer/window.py`); one contract test runs on both. Replay is loaded when
it is first used: it reads files with pyarrow, which a device with sensors does without.
"""

from typing import TYPE_CHECKING, Any

from edge_producer.sources.opening import open_source
from edge_producer.sources.scenario import FaultSpan, Injection, Scenario, load_scenario, truth
from edge_producer.sources.simulate_source import SimulateSource

if TYPE_CHECKING:
    from edge_producer.sources.replay_source import ReplaySource

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


def __getattr__(name: str) -> Any:
    """Load replay (PEP 562)."""
    if name != "ReplaySource":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edge_producer.sources.replay_source import ReplaySource  # noqa: PLC0415  (heavy: see above)

    return ReplaySource
