"""Candidates in front of the gate, and their verdicts, in the registry. In the caller's transaction."""

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
    """A candidate without a verdict, and the run that made it.

    Attributes:
        sha256: Of the artifact.
        plan: What the run trained on; None: it has no plan on record.
        asked_by: Who asked for the run, or decided on its drift; empty: no person did.
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
    asked_by: str = ""


def pending_candidates(connection: Connection) -> list[PendingCandidate]:
    """Candidates to be judged, oldest first; also those whose judgement a crash interrupted."""
    unjudged = candidates.in_states(connection, UNJUDGED)
    runs = run_store.by_id(connection, {candidate.run_id for candidate in unjudged})
    made = [(candidate, runs.get(candidate.run_id)) for candidate in unjudged]
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
            asked_by=run.requested_by if run.by_person else "",
        )
        for candidate, run in made
        if run is not None
    ]


def start_judging(connection: Connection, version: str) -> bool:
    """Mark a candidate as being judged; False: it is not pending any more."""
    return _advance(connection, version, CandidateState.GATING, "being judged")


def replace_verdicts(connection: Connection, version: str, verdicts: Sequence[GateVerdict]) -> None:
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


def mark_refused(connection: Connection, version: str, reason: str) -> None:
    """Mark a candidate as refused, with the reason; it stays in the registry."""
    if _advance(connection, version, CandidateState.REFUSED, reason):
        note(connection, f"{version}/refused", version, "refused", {"why": reason})


def mark_signed(connection: Connection, version: str, gates: Sequence[str]) -> None:
    """Mark a candidate as signed: its proposal carries both signatures now."""
    if _advance(connection, version, CandidateState.SIGNED, ""):
        note(connection, f"{version}/gates_passed", version, "gates_passed", {"gates": ", ".join(gates)})


def _advance(connection: Connection, version: str, state: CandidateState, detail: str) -> bool:
    """Change the state of a pending candidate; False: it is not pending any more."""
    candidate = candidates.get(connection, version)
    if candidate is None or candidate.state not in UNJUDGED:
        return False
    return candidates.advance(connection, candidate, state, time.time(), detail)
