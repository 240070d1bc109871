"""The processes of the model service, each with keys of its own: their wiring, and the loop that all run."""

from __future__ import annotations

PROCESSES: dict[str, str] = {
    "serve": "model_service.processes.serve_process",
    "engine": "model_service.processes.engine_process",
    "guard": "model_service.processes.guard_process",
    "trainer": "model_service.processes.trainer_process",
    "gate": "model_service.processes.gate_process",
}
"""Module of each process, by name; it has ``run(settings, stop)``."""
