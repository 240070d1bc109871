"""On the device: source, window, inference, decision, filter, summaries, spool, sender.

Runs with no network and without the lake; meets the rest of the project on the wire only. Consoles and
checkers read a process's spool and status from outside, with the functions named here.
"""

from edge_producer.identity import DeviceIdentity, load_or_create
from edge_producer.settings import EdgeSettings
from edge_producer.spool import DeviceBooks, read_books, read_counters
from edge_producer.status import read_status
from edge_producer.window import Pause, Predictor, Source, Window

__all__ = [
    "DeviceBooks",
    "DeviceIdentity",
    "EdgeSettings",
    "Pause",
    "Predictor",
    "Source",
    "Window",
    "load_or_create",
    "read_books",
    "read_counters",
    "read_status",
]
