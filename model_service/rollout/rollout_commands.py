"""Carries out people's commands on rollouts: rows of ``commands``, each answered once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from model_service.registry import candidates
from model_service.registry.database import Registry
from model_service.registry.registry_tables import commands, gate_verdicts
from model_service.rollout import rollout_states, rollout_store
from model_service.rollout.launch import draft, published, release_of
from model_service.rollout.observed import Observed
from model_service.rollout.rollout_record import ACTIVE, PROFILE, RolloutRecord
from model_service.rollout.transitions import Transition
from schemas.errors import RegistryError, RetryableError
from schemas.updates import Role

log = logging.getLogger(__name__)

KINDS = ("start_rollout", "control_rollout")
Observe = Callable[[Connection, RolloutRecord], Observed]
Groups = Callable[[Connection], Collection[str]]


@dataclass(frozen=True)
class RolloutCommands:
    """Carries out the commands that wait.

    Args:
        registry: Holds the commands.
        observe: Reads what is known of a rollout.
        lifetime_s: Lifetime of a channel document.
        highest_seq: From a group to its highest published seq.
        groups: Groups that have devices or that the policy names; None: any group is accepted.
    """

    registry: Registry
    observe: Observe
    lifetime_s: float
    highest_seq: Callable[[str], int]
    groups: Groups | None = None

    def step(self, now: float) -> int:
        """Answer all commands that wait, in their order; returns how many there were."""
        waiting = (
            select(commands.c.id)
            .where(commands.c.state == "waiting", commands.c.kind.in_(KINDS))
            .order_by(commands.c.id)
        )
        with self.registry.reading() as connection:
            ids = list(connection.execute(waiting).scalars())
        for command_id in ids:
            self._answer(command_id, now)
        return len(ids)

    def _answer(self, command_id: int, now: float) -> None:
        """Carry out one command and store its answer, in one transaction: after a crash both are repeated."""
        try:
            with self.registry.transaction() as connection:
                row = self._waiting(connection, command_id)
                if row is not None:
                    _close(connection, command_id, "done", self._do(connection, row, now))
        except RetryableError:
            raise
        except Exception as exc:  # noqa: BLE001  (whatever is wrong with a command, it gets an answer)
            log.info("command %d refused: %s", command_id, exc)
            with self.registry.transaction() as connection:
                _close(connection, command_id, "refused", {"reason": _reason(exc)})

    @staticmethod
    def _waiting(connection: Connection, command_id: int) -> RowMapping | None:
        query = select(commands).where(commands.c.id == command_id, commands.c.state == "waiting")
        return connection.execute(query).mappings().first()

    def _do(self, connection: Connection, row: RowMapping, now: float) -> dict[str, Any]:
        if row["kind"] == "start_rollout":
            return start(connection, row["body"], row["actor"], now, self.groups)
        return self._control(connection, row["body"], row["actor"], now)

    def _control(
        self, connection: Connection, body: Mapping[str, Any], actor: str, now: float
    ) -> dict[str, Any]:
        record = rollout_store.load(connection, body["rollout_id"])
        reason = str(body.get("reason", ""))
        outcome: Transition
        match body["action"]:
            case "pause":
                outcome = rollout_states.pause(record, actor, reason, now)
            case "resume":
                observed = self.observe(connection, record)
                approves = Role.APPROVER in body.get("roles", ())
                outcome = rollout_states.resume(record, actor, reason, observed, approves=approves)
            case "abort":
                outcome = rollout_states.abort(record, reason or f"{actor} asked", actor, now)
            case "back":
                _newest_and_alone(connection, record)
                outcome = rollout_states.back(record, reason or f"{actor} asked", actor, now)
            case other:
                raise RegistryError(f"no action '{other}': pause, resume, abort or back")
        if outcome.record != record or outcome.actions:
            highest_seq = self.highest_seq(record.group)
            rollout_store.apply(
                connection, outcome.record, outcome.actions, now, self.lifetime_s, highest_seq, actor
            )
        return answer_of(outcome.record)


def start(
    connection: Connection, body: Mapping[str, Any], actor: str, now: float, known: Groups | None = None
) -> dict[str, Any]:
    """Draft a rollout. A repeat is answered with the draft or active rollout of the same version.

    Args:
        connection: A transaction.
        body: The command's arguments.
        actor: Who asks.
        now: UTC seconds.
        known: Groups that exist; None: any group is accepted.

    Raises:
        RegistryError: The version is not published or has not passed its gates, the group is unknown, or its
            last completed rollout was of this version.
    """
    version, group, security = body["version"], body["group"], bool(body.get("security", False))
    candidate = published(connection, version)
    _passed(connection, version)
    if known is not None and group not in known(connection):
        raise RegistryError(f"no group '{group}'; there are: {', '.join(sorted(known(connection)))}")
    family, release = candidate.family, release_of(candidate)
    open_ones = rollout_store.in_states(connection, ("draft", *ACTIVE), group)
    open_ones = [r for r in open_ones if r.kind != PROFILE]
    same = [r for r in open_ones if (r.version, r.security) == (version, security) and r.state != "aborting"]
    if same:
        return answer_of(same[-1])
    if not open_ones and rollout_store.last_completed(connection, group).get(family) == release:
        raise RegistryError(f"group {group} runs {version} already")
    if candidate.is_config and (made_for := candidates.manifest_of(connection, version)["group"]) != group:
        raise RegistryError(f"{version} was computed for group {made_for}, not for {group}")
    record = draft(group, family, version, actor, security=security, config=candidate.is_config)
    return answer_of(rollout_store.create(connection, record, now))


def _newest_and_alone(connection: Connection, record: RolloutRecord) -> None:
    """Return if nothing came to the group after this rollout.

    Raises:
        RegistryError: Another rollout runs, or completed later: that one must be ended or taken back first.
    """
    running = rollout_store.active(connection, record.group)
    if running is not None and running.rollout_id != record.rollout_id:
        name = running.rollout_id
        raise RegistryError(f"rollout {name} is {running.state}: `edgeloop rollout abort {name}` first")
    newest = rollout_store.newest_completed(connection, record.group)
    if newest is not None and newest.rollout_id != record.rollout_id:
        raise RegistryError(f"rollout {newest.rollout_id} completed later: take that back first")


def _passed(connection: Connection, version: str) -> None:
    query = select(gate_verdicts.c.gate, gate_verdicts.c.passed).where(gate_verdicts.c.version == version)
    verdicts = [passed for _, passed in connection.execute(query)]
    if not all(verdicts) or not verdicts:
        raise RegistryError(f"model {version} has not passed its gates: `edgeloop model gates {version}`")


def answer_of(record: RolloutRecord) -> dict[str, Any]:
    """The answer to a command: the rollout in short, as JSON values."""
    return {
        "rollout_id": record.rollout_id,
        "group": record.group,
        "version": record.version,
        "state": record.state,
        "phase": record.phase,
        "security": record.security,
        "paused_because": record.pause.reason if record.pause is not None else "",
    }


def _close(connection: Connection, command_id: int, state: str, outcome: Mapping[str, Any]) -> None:
    connection.execute(
        update(commands)
        .where(commands.c.id == command_id, commands.c.state == "waiting")
        .values(state=state, outcome=dict(outcome))
    )


def _reason(error: Exception) -> str:
    return f"the command lacks {error}" if isinstance(error, KeyError) else str(error)
