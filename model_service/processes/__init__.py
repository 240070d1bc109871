"""The processes of the model service, each with its own keys: wiring, and the loop that all of them run."""

from __future__ import annotations

PROCESSES: dict[str, str] = {
    "serve": "model_service.processes.serve",
    "engine": "model_service.processes.engine",
    "guard": "model_service.processes.guard",
    "trainer": "model_service.processes.trainer",
    "gate": "model_service.processes.gate",
}
"""Module of each; it has ``run(settings, stop)``."""
