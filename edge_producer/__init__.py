"""On the device: source, window, inference, decision, filter, summaries, spool, sender.

Runs without a network and without the lake; meets the rest of the project on the wire only. Consoles and
checks read the spool and the status of a process from outside, with the functions named here.
"""

from edge_producer.device_identity import DeviceIdentity, load_or_create
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import DeviceBooks, read_books
from edge_producer.spool.spool_reading import read_counters
from edge_producer.status_file import read_status
from edge_producer.window import Predictor, SourcePause, Window, WindowSource

__all__ = [
    "DeviceBooks",
    "DeviceIdentity",
    "EdgeSettings",
    "Predictor",
    "SourcePause",
    "Window",
    "WindowSource",
    "load_or_create",
    "read_books",
    "read_counters",
    "read_status",
]
