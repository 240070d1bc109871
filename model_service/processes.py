"""The processes of the model service, each with its own keys."""

from __future__ import annotations

PROCESSES: dict[str, str] = {
    "serve": "model_service.service.process",
    "engine": "model_service.rollout.engine_process",
    "guard": "model_service.rollout.guard_process",
    "trainer": "model_service.training.trainer_process",
    "gate": "model_service.gates.gate_process",
}
"""Module of each; it has ``run(settings, stop)``."""
