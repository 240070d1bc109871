"""Candidates and their verdicts in the registry, as the gate reads and writes them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from model_service.gates.verdict import GateVerdict
from model_service.registry.database import note
from model_service.registry.tables import candidates, gate_verdicts, runs

TRAINED, GATING, REFUSED, SIGNED = "trained", "gating", "refused", "signed"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A candidate that no verdict was given on, and the run that it came from.

    Attributes:
        cause: What the run found, and the question of its training set.
    """

    version: str
    family: str
    champion: str
    sha256: str
    run_id: str
    profile: str
    cut: int | None
    pin: str | None
    cause: Mapping[str, Any]


def all_waiting(connection: Connection) -> list[Waiting]:
    """Candidates to be judged, oldest first; those that were taken and not judged among them."""
    columns = (
        candidates.c.version, candidates.c.family, candidates.c.champion, candidates.c.sha256,
        candidates.c.run_id, runs.c.profile, runs.c.cut, runs.c.pin, runs.c.cause,
    )  # fmt: skip
    query = (
        select(*columns)
        .join(runs, runs.c.run_id == candidates.c.run_id)
        .where(candidates.c.state.in_((TRAINED, GATING)))
        .order_by(candidates.c.created_at, candidates.c.version)
    )
    return [Waiting(**{**row, "cause": row["cause"] or {}}) for row in connection.execute(query).mappings()]


def take(connection: Connection, version: str) -> bool:
    """Mark a candidate as being judged; False: it waits no longer."""
    mine = (candidates.c.version == version) & candidates.c.state.in_((TRAINED, GATING))
    values = {"state": GATING, "detail": "being judged", "updated_at": time.time()}
    return connection.execute(update(candidates).where(mine).values(**values)).rowcount == 1


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
    _move(connection, version, REFUSED, why)
    note(connection, f"{version}/refused", version, "refused", {"why": why})


def sign(connection: Connection, version: str, gates: Sequence[str]) -> None:
    """The candidate carries both signatures."""
    _move(connection, version, SIGNED, "")
    note(connection, f"{version}/gates_passed", version, "gates_passed", {"gates": ", ".join(gates)})


def _move(connection: Connection, version: str, state: str, detail: str) -> None:
    values = {"state": state, "detail": detail, "updated_at": time.time()}
    connection.execute(update(candidates).where(candidates.c.version == version).values(**values))
