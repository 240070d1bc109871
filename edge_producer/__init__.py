"""On the device: source, window, inference, decision, filter, summaries, spool, sender.

Runs without a network and without the lake; meets the rest of the project on the wire only. Consoles and
checks read the spool and the status of a process from outside, with the functions named here. Each name is
loaded when it is first used: what only reads a status needs no cryptography.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_producer.acting.action_order import ActionOrder as ActionOrder
    from edge_producer.acting.called_actuator import ActuatorRequest as ActuatorRequest
    from edge_producer.deciding.decision_function import DecisionAnswer as DecisionAnswer
    from edge_producer.deciding.decision_function import DecisionRequest as DecisionRequest
    from edge_producer.device_identity import DeviceIdentity as DeviceIdentity
    from edge_producer.device_identity import load_or_create as load_or_create
    from edge_producer.settings import EdgeSettings as EdgeSettings
    from edge_producer.sources.entry_point_sources import SourceRequest as SourceRequest
    from edge_producer.sources.samples import Sample as Sample
    from edge_producer.sources.samples import SampleSource as SampleSource
    from edge_producer.spool.spool import DeviceBooks as DeviceBooks
    from edge_producer.spool.spool import read_books as read_books
    from edge_producer.spool.spool_reading import read_counters as read_counters
    from edge_producer.status_file import read_status as read_status
    from edge_producer.window import Predictor as Predictor
    from edge_producer.window import SourcePause as SourcePause
    from edge_producer.window import Window as Window
    from edge_producer.window import WindowSource as WindowSource

_LOADED_FROM: dict[str, tuple[str, str]] = {
    "ActionOrder": ("edge_producer.acting.action_order", "ActionOrder"),
    "ActuatorRequest": ("edge_producer.acting.called_actuator", "ActuatorRequest"),
    "DecisionAnswer": ("edge_producer.deciding.decision_function", "DecisionAnswer"),
    "DecisionRequest": ("edge_producer.deciding.decision_function", "DecisionRequest"),
    "DeviceBooks": ("edge_producer.spool.spool", "DeviceBooks"),
    "DeviceIdentity": ("edge_producer.device_identity", "DeviceIdentity"),
    "EdgeSettings": ("edge_producer.settings", "EdgeSettings"),
    "Predictor": ("edge_producer.window", "Predictor"),
    "Sample": ("edge_producer.sources.samples", "Sample"),
    "SampleSource": ("edge_producer.sources.samples", "SampleSource"),
    "SourcePause": ("edge_producer.window", "SourcePause"),
    "SourceRequest": ("edge_producer.sources.entry_point_sources", "SourceRequest"),
    "Window": ("edge_producer.window", "Window"),
    "WindowSource": ("edge_producer.window", "WindowSource"),
    "load_or_create": ("edge_producer.device_identity", "load_or_create"),
    "read_books": ("edge_producer.spool.spool", "read_books"),
    "read_counters": ("edge_producer.spool.spool_reading", "read_counters"),
    "read_status": ("edge_producer.status_file", "read_status"),
}
"""Module and attribute that each name is loaded from."""

__all__ = [
    "ActionOrder",
    "ActuatorRequest",
    "DecisionAnswer",
    "DecisionRequest",
    "DeviceBooks",
    "DeviceIdentity",
    "EdgeSettings",
    "Predictor",
    "Sample",
    "SampleSource",
    "SourcePause",
    "SourceRequest",
    "Window",
    "WindowSource",
    "load_or_create",
    "read_books",
    "read_counters",
    "read_status",
]


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name not in _LOADED_FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LOADED_FROM[name]
    return getattr(importlib.import_module(module), attribute)
