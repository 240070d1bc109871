"""The gate's process: judges candidates and countersigns those that pass; holds the gate's keys alone."""

from __future__ import annotations

import threading
from contextlib import closing

from model_service.gates.config_gates import GateOfConfigs
from model_service.gates.gate import Gate
from model_service.processes.process_loop import ProcessJob, ProcessLoop
from model_service.registry.database import Registry
from model_service.settings import ModelSettings


def run(settings: ModelSettings, stop: threading.Event) -> None:
    """Judge until ``stop`` is set. After a kill, the next start judges again with the same result.

    Args:
        settings: Settings of the model service.
        stop: Ends the loop after the current step.

    Raises:
        OperatorError: A family's key is missing.
    """
    with closing(Registry.open(settings.database_url, settings.root)) as registry:
        gate = Gate(settings, registry)
        configs = GateOfConfigs(settings, registry)
        jobs = [ProcessJob("candidates", gate.step), ProcessJob("configurations", configs.step)]
        ProcessLoop(jobs, settings.tick_s).run(stop)
