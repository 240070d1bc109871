"""Plays three scenes on separate devices: a tampered model, a forged instruction, a model that fails.

In the first two the model service's public process was taken over: the attacker has the server's certificate
and everything that the process can read, but no signing key, because that process never holds one. In the
third, trainer and gate both sign a model by mistake that does not compute what it promises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from infra.demo.hostile import HostileService, forge_instruction, tamper_artifact
from infra.demo.mistake import sign_a_mistake, withdraw_mistakes
from infra.demo.stage import DemoStage
from infra.fleet_client import FleetClient
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from infra.stack.model_processes import PROBES
from model_service import Registry, TrustRepository, registry_tables
from schemas.errors import StackError
from schemas.updates import Attack, UpdateResult

_UPDATE_S = 60.0
_OFFER_S = 20.0
_POLL_S = 0.1


@dataclass(frozen=True)
class SceneResult:
    """How one scene ended.

    Attributes:
        title: What was tried.
        expected: What the device should have reported.
        reported: What it reported.
        before: Version that it ran before.
        runs: Version that it runs afterwards.
    """

    title: str
    expected: str
    reported: str
    before: str
    runs: str

    @property
    def as_it_should(self) -> bool:
        """Whether the device did what it should."""
        return self.reported == self.expected and self.runs == self.before != ""

    def line(self) -> str:
        """The result in one line."""
        judgement = "as it should" if self.as_it_should else f"WRONG: expected {self.expected}"
        return f"{self.title}: {self.reported or 'no report'}, runs {self.runs or 'unknown'} ({judgement})"


def play_scenes(stage: DemoStage, version: str, progress: Callable[[str], None]) -> list[SceneResult]:
    """Play all three.

    Args:
        stage: The demo, whose stack is up.
        version: A model that the service has published.
        progress: Receives each scene's line.
    """
    scenes = []
    for number, play in enumerate((_tampered_artifact, _forged_instruction, _failing_model)):
        scene = play(stage, _probe(stage, number), version)
        progress(scene.line())
        scenes.append(scene)
    _end_rollouts(stage)
    return scenes


def _probe(stage: DemoStage, number: int) -> EdgeProcess:
    """A device beside the fleet that only checks for updates."""
    spec = EdgeSpec(
        f"probe-{number}-{stage.run}",
        stage.request.profile,
        (f"probe-{stage.run}-{number}",),
        stage.stack.bootstrap_servers,
        stage.stack.namespace,
        site="probes",
        group=PROBES,
    )
    return EdgeProcess(spec, stage.edge_root, stage.stack.settings.logs_dir)


def _tampered_artifact(stage: DemoStage, probe: EdgeProcess, version: str) -> SceneResult:
    with HostileService(stage.models, artifact=tamper_artifact) as service:
        probe.join(stage.models, delivery=service.address)
        before = _joined(stage, probe)
        _offer(stage, version)
        probe.update_once(_UPDATE_S)
    return _ending(stage, probe, before, "tampered artifact", Attack.TAMPERED_ARTIFACT.value)


def _forged_instruction(stage: DemoStage, probe: EdgeProcess, version: str) -> SceneResult:
    with HostileService(stage.models, documents=forge_instruction(PROBES, version)) as service:
        probe.join(stage.models, delivery=service.address)
        before = _joined(stage, probe)
    return _ending(stage, probe, before, "unsigned instruction", Attack.UNSIGNED_INSTRUCTION.value)


def _failing_model(stage: DemoStage, probe: EdgeProcess, version: str) -> SceneResult:
    probe.join(stage.models)
    before = _joined(stage, probe)
    _offer(stage, sign_a_mistake(stage.models, version))
    probe.update_once(_UPDATE_S)
    return _ending(stage, probe, before, "model that fails its trial", UpdateResult.RESTORED.value)


def _joined(stage: DemoStage, probe: EdgeProcess) -> str:
    """Have the probe enrol and check for an update once; returns the version that it runs."""
    probe.update_once(_UPDATE_S)
    row = _status(stage, probe)
    return "" if row is None else _runs(stage, row)


def _offer(stage: DemoStage, version: str) -> None:
    """Have the real engine offer a version to the probes."""
    with FleetClient(stage.models, "operator") as client:
        client.start_rollout(version, PROBES)
    deadline = time.monotonic() + _OFFER_S
    while not _is_offered(stage, version):
        if time.monotonic() > deadline:
            raise StackError(
                f"{version} was not offered to the probes within {_OFFER_S:.0f} s: see the engine's log"
            )
        time.sleep(_POLL_S)


def _end_rollouts(stage: DemoStage) -> None:
    """Abort the probes' rollouts, and withdraw the model that was signed by mistake."""
    with FleetClient(stage.models, "operator") as client:
        for rollout in client.rollouts(group=PROBES):
            if rollout["state"] in ("draft", "running", "paused"):
                client.control_rollout(rollout["rollout_id"], "abort", "the demo's scenes are over")
    withdraw_mistakes(stage.models)


def _is_offered(stage: DemoStage, version: str) -> bool:
    found = TrustRepository(stage.models.repository, stage.models.proposals).channels(PROBES)
    return any(
        release.version == version for channel in found.values() for release in channel.target.values()
    )


def _ending(stage: DemoStage, probe: EdgeProcess, before: str, title: str, expected: str) -> SceneResult:
    """The scene's result, from the probe's newest report."""
    row = _status(stage, probe)
    if row is None:
        return SceneResult(title, expected, "", before, "")
    return SceneResult(title, expected, row["attack"] or row["result"], before, _runs(stage, row))


def _status(stage: DemoStage, probe: EdgeProcess) -> Mapping[str, Any] | None:
    registry = Registry(stage.models.database_url)
    try:
        with registry.reading() as connection:
            query = select(registry_tables.device_status).where(
                registry_tables.device_status.c.device_id == probe.spec.devices[0]
            )
            row = connection.execute(query).mappings().first()
    finally:
        registry.close()
    return None if row is None else dict(row)


def _runs(stage: DemoStage, row: Mapping[str, Any]) -> str:
    return str(row["installed"].get(stage.profile.model.name, {}).get("version", ""))
