"""Candidates and their verdicts in the registry, as the gate reads and writes them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert

from model_service.gates.verdict import GateVerdict
from model_service.registry import candidates
from model_service.registry.candidates import UNJUDGED, CandidateState
from model_service.registry.database import note
from model_service.registry.registry_tables import gate_verdicts
from model_service.training import run_store
from model_service.training.training_run import TrainingPlan


@dataclass(frozen=True, slots=True)
class PendingCandidate:
    """A candidate that no verdict was given on, and the run that it came from.

    Attributes:
        plan: What the run trained from; None: it does not say.
    """

    version: str
    family: str
    champion: str
    sha256: str
    run_id: str
    profile: str
    cut: int | None
    pin: str | None
    plan: TrainingPlan | None


def all_waiting(connection: Connection) -> list[PendingCandidate]:
    """Candidates to be judged, oldest first; those that were taken and not judged among them."""
    unjudged = candidates.in_states(connection, UNJUDGED)
    made = [(candidate, run_store.get(connection, candidate.run_id)) for candidate in unjudged]
    return [
        PendingCandidate(
            version=candidate.version,
            family=candidate.family,
            champion=candidate.champion,
            sha256=candidate.sha256,
            run_id=run.run_id,
            profile=run.profile,
            cut=run.cut,
            pin=run.pin,
            plan=run.plan,
        )
        for candidate, run in made
        if run is not None
    ]


def take(connection: Connection, version: str) -> bool:
    """Mark a candidate as being judged; False: it waits no longer."""
    return _advance(connection, version, CandidateState.GATING, "being judged")


def keep_verdicts(connection: Connection, version: str, verdicts: Sequence[GateVerdict]) -> None:
    """Replace the candidate's verdicts by these."""
    connection.execute(delete(gate_verdicts).where(gate_verdicts.c.version == version))
    for order, verdict in enumerate(verdicts):
        values = {
            name: getattr(verdict, name) for name in ("gate", "passed", "value", "bound", "low", "high")
        }
        detail = {**verdict.detail, "order": order}
        connection.execute(
            insert(gate_verdicts).values(version=version, detail=detail, evaluated_at=time.time(), **values)
        )


def refuse(connection: Connection, version: str, why: str) -> None:
    """The candidate stays, refused, with its reasons."""
    if _advance(connection, version, CandidateState.REFUSED, why):
        note(connection, f"{version}/refused", version, "refused", {"why": why})


def sign(connection: Connection, version: str, gates: Sequence[str]) -> None:
    """The candidate carries both signatures."""
    if _advance(connection, version, CandidateState.SIGNED, ""):
        note(connection, f"{version}/gates_passed", version, "gates_passed", {"gates": ", ".join(gates)})


def _advance(connection: Connection, version: str, state: CandidateState, detail: str) -> bool:
    """Move a candidate that waits for its verdict; False: it does not wait any longer."""
    candidate = candidates.get(connection, version)
    if candidate is None or candidate.state not in UNJUDGED:
        return False
    return candidates.advance(connection, candidate, state, time.time(), detail)
