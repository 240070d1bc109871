"""What people may read of the fleet: rows of the registry as JSON documents (shapes in docs/grpc.md)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, func, select

from model_service.fleet import permit_store
from model_service.fleet.certificate_ledger import of_people, valid_until
from model_service.fleet.device_reports import profile_states, statuses, twin_reports
from model_service.fleet.devices import devices_of
from model_service.identity import tokens
from model_service.registry import candidates
from model_service.registry.registry_tables import (
    channel_requests,
    gate_verdicts,
    public_name,
    reports,
    rollout_events,
    rollouts,
)
from model_service.rollout.outcome_store import outcome_of
from model_service.service.refusals import UnknownNameError
from model_service.training import run_store
from schemas.proto.delivery_pb2 import ProfileState

Json = dict[str, Any]
_TIMES = ("at", "last_seen", "onset", "_from", "_until")
_DEFAULT_LIMIT, _MAX_LIMIT = 200, 10000
_STATUS = ("last_seen", "state", "result", "channel_seq", "rollout_id", "installed", "attack")


def bounded(limit: int) -> int:
    """Largest number of rows that a list returns for a caller's limit; 0: the default."""
    return min(limit, _MAX_LIMIT) if limit > 0 else _DEFAULT_LIMIT


def list_devices(
    connection: Connection,
    group: str,
    limit: int,
    watching: Mapping[str, int] | None,
    twins: Mapping[str, int],
) -> list[Json]:
    """Devices with what they last reported.

    Args:
        connection: Reads the registry.
        group: Only devices of this group; empty: of all groups.
        limit: Largest number of devices; 0: the default.
        watching: Number of open watch streams of the service, by device; None: it does not run, so nobody
            can tell.
        twins: Number of reports of a twin that are not recorded yet, by device.
    """
    reported = {row["device_id"]: row for row in statuses(connection, group)}
    profiles = {row["device_id"]: state for row, state in profile_states(connection, group)}
    ends, recorded = valid_until(connection), twin_reports(connection)
    found = []
    for row in devices_of(connection, group)[: bounded(limit)]:
        name = row["device_id"]
        status = reported.get(name)
        plain = _plain({k: v for k, v in row.items() if k != "public_key"})
        plain.update(_plain({k: None if status is None else status[k] for k in _STATUS}))
        plain.update(_plain({"certificate_until": ends.get(name)}))
        cloned = recorded.get(name, 0) + twins.get(name, 0)
        watches = None if watching is None else watching.get(name, 0) > 0
        runs = {"profile_state": _profile_state(profiles.get(name))}
        found.append({**plain, **runs, "watching": watches, "cloned_reports": cloned})
    return found


def _profile_state(state: ProfileState | None) -> Json | None:
    """What a device reports of its profile; None: nothing, as a device of release 0.2.0."""
    if state is None or not state.digest:
        return None
    names = ("number", "digest", "seq", "wanted", "outcome", "attack", "detail")
    return {name: getattr(state, name) for name in names}


def list_models(connection: Connection, family: str, limit: int) -> list[Json]:
    """Candidates, newest first, each with which gates it passed."""
    found = [_plain(c.row()) for c in candidates.newest(connection, family, bounded(limit))]
    passed = _gates(connection, [row["version"] for row in found])
    return [{**row, "gates": passed.get(row["version"], {})} for row in found]


def show_model(connection: Connection, version: str) -> Json:
    """A candidate with manifest, verdicts, run and rollouts.

    Raises:
        UnknownNameError: There is none.
    """
    candidate = candidates.get(connection, version)
    if candidate is None:
        raise UnknownNameError(f"no model {version}: `edgeloop model list`")
    model = {**_plain(candidate.row()), "manifest": candidates.manifest_of(connection, version)}
    verdicts = select(gate_verdicts).where(gate_verdicts.c.version == version).order_by(gate_verdicts.c.gate)
    model["gates"] = [_plain(row) for row in connection.execute(verdicts).mappings()]
    run = run_store.get(connection, candidate.run_id)
    model["run"] = None if run is None else _plain(run.row())
    query = select(rollouts.c.rollout_id, rollouts.c.grp, rollouts.c.state, rollouts.c.phase)
    found = connection.execute(query.where(rollouts.c.version == version)).mappings()
    model["rollouts"] = [_plain(row) for row in found]
    return model


def list_permits(connection: Connection, device_id: str, permit_id: str, limit: int) -> list[Json]:
    """Permits for excerpts, newest first, with what the device last said of its consent.

    Raises:
        UnknownNameError: There is none of this id.
    """
    if permit_id:
        row = permit_store.get(connection, permit_id)
        if row is None:
            raise UnknownNameError(f"no permit {permit_id[:32]}: `edgeloop excerpt list`")
        rows = [row]
    else:
        rows = permit_store.newest(connection, device_id, bounded(limit))
    consents = permit_store.consents(connection)
    return [permit_as_json(row, consents.get(row["device_id"])) for row in rows]


def permit_as_json(row: RowMapping, consent: RowMapping | None = None) -> Json:
    """A permit's row, without its signed bytes."""
    plain = _plain({k: v for k, v in row.items() if k not in ("signed", "permit")})
    wanted = {k: v for k, v in row["permit"].items() if k not in plain}
    said = None if consent is None else _plain({k: consent[k] for k in ("given", "changes", "seen_at")})
    return {**plain, **wanted, "consent": said}


def list_runs(connection: Connection, family: str, limit: int) -> list[Json]:
    """Training runs, newest first."""
    return [_plain(run.row()) for run in run_store.newest(connection, family, bounded(limit))]


def list_rollouts(connection: Connection, family: str, group: str, limit: int) -> list[Json]:
    """Rollouts, newest first, without their records."""
    columns = [c for c in rollouts.c if c.name != "record"]
    query = select(*columns).order_by(rollouts.c.created_at.desc()).limit(bounded(limit))
    if family:
        query = query.where(rollouts.c.family == family)
    if group:
        query = query.where(rollouts.c.grp == group)
    return [_plain(row) for row in connection.execute(query).mappings()]


def show_rollout(connection: Connection, rollout_id: str) -> Json:
    """A rollout with its record, events, documents, counts of what devices reported, and what it brought.

    Raises:
        UnknownNameError: There is none.
    """
    rollout = _one(connection, rollouts, rollout_id, f"no rollout {rollout_id}: `edgeloop rollout history`")
    for name, table in (("events", rollout_events), ("channels", channel_requests)):
        rows = select(table).where(table.c.rollout_id == rollout_id).order_by(table.c.id)
        rollout[name] = [_plain(row) for row in connection.execute(rows).mappings()]
    counted = (
        select(reports.c.state, reports.c.result, func.count(reports.c.device_id.distinct()).label("devices"))
        .where(reports.c.rollout_id == rollout_id)
        .group_by(reports.c.state, reports.c.result)
    )
    rollout["outcome"] = outcome_of(connection, rollout_id)
    rollout["reports"] = [dict(row) for row in connection.execute(counted).mappings()]
    return rollout


def list_people(connection: Connection, limit: int) -> list[Json]:
    """People's certificates, by name, the newest first."""
    return [
        _plain(
            {
                "name": row["subject"],
                "roles": row["role"].split(","),
                "serial": row["serial"],
                "valid_from": row["not_before"],
                "valid_until": row["not_after"],
                "revoked_at": row["revoked_at"],
            }
        )
        for row in of_people(connection, bounded(limit))
    ]


def list_tokens(connection: Connection, limit: int) -> list[Json]:
    """Join tokens, newest first, without their secret."""
    return [_plain(row) for row in tokens.tokens(connection, bounded(limit))]


def _gates(connection: Connection, versions: list[str]) -> dict[str, Json]:
    rows = select(gate_verdicts.c.version, gate_verdicts.c.gate, gate_verdicts.c.passed)
    found: dict[str, Json] = {}
    for version, gate, passed in connection.execute(rows.where(gate_verdicts.c.version.in_(versions))):
        found.setdefault(version, {})[gate] = bool(passed)
    return found


def _one(connection: Connection, table: Table, name: str, missing: str) -> Json:
    [key] = table.primary_key.columns
    found = connection.execute(select(table).where(key == name)).mappings().first()
    if found is None:
        raise UnknownNameError(missing)
    return _plain(found)


def _plain(row: Mapping[Any, Any]) -> Json:
    """Columns under their public names, times as ISO 8601 in UTC."""
    return {
        public_name(name): _time(value) if name.endswith(_TIMES) else value for name, value in row.items()
    }


def _time(value: Any) -> Any:
    if isinstance(value, float):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds")
    return value
