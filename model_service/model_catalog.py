"""Models of the registry as people read them: which there are, the state of each, and the reasons."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from model_service.registry import candidates
from model_service.registry.bundle_store import factory_bundle_of, factory_families
from model_service.registry.candidates import Candidate
from model_service.registry.registry_tables import gate_verdicts, trainer_marks
from model_service.training import run_store
from schemas.bundle_archive import pack
from schemas.errors import RegistryError

Facts = dict[str, Any]

_HEAVY = {"parameters", "bin_edges", "baselines"}
"""Parts of a manifest that are too long for a terminal."""


def models(connection: Connection, family: str = "") -> list[Facts]:
    """Every version: the factory's first, then candidates by family, oldest first.

    Args:
        connection: To the registry.
        family: Versions of this family only; empty: all.
    """
    cuts = {run.run_id: run.cut for run in run_store.every_run(connection)}
    made = sorted(candidates.every_candidate(connection), key=lambda c: c.family)
    found = [_factory(name) for name in factory_families()]
    found += [_candidate(candidate, cuts.get(candidate.run_id)) for candidate in made]
    return [facts for facts in found if family in ("", facts["family"])]


def model(connection: Connection, version: str) -> Facts:
    """Everything on one version, with its run and its manifest.

    Raises:
        RegistryError: There is no such version; the message names all versions.
    """
    listed = {facts["version"]: facts for facts in models(connection)}
    if version not in listed:
        raise RegistryError(f"no model {version}; there are: {', '.join(listed)}")
    facts, candidate = listed[version], candidates.get(connection, version)
    if candidate is None:
        manifest = factory_bundle_of(facts["family"]).manifest.model_dump(mode="json", exclude=_HEAVY)
        return {**facts, "run": None, "manifest": manifest}
    stated = candidates.manifest_of(connection, version).items()
    manifest = {name: value for name, value in stated if name not in _HEAVY}
    run = _run(connection, candidate.run_id)
    return {**facts, "sha256": candidate.sha256, "run": run, "manifest": manifest}


def configs(connection: Connection, family: str = "") -> list[Facts]:
    """Every configuration, oldest first, with its group, instant and cut; and what came of the last attempt.

    Args:
        connection: To the registry.
        family: Of this family only; empty: all.
    """
    found = []
    for candidate in candidates.every_candidate(connection, family):
        if candidate.is_config:
            stated = candidates.manifest_of(connection, candidate.version)
            own = {k: stated[k] for k in ("profile", "group", "unit", "valid_from", "lead_s", "trainer")}
            found.append({**_candidate(candidate, stated["lineage"]["cut"]), **own})
    return found


def config_attempts(connection: Connection) -> list[Facts]:
    """What came of the last computation of each family and group: what it made, or why it made nothing."""
    marks = connection.execute(select(trainer_marks).where(trainer_marks.c.name.like("config/%"))).mappings()
    found = []
    for mark in marks:
        _, family, group = mark["name"].split("/", 2)
        value = mark["value"]
        at = _instant(value["at"]) if "at" in value else None
        under_way = value.get("plan") is not None or bool(value.get("requested"))
        said = "under way" if under_way else value.get("said", "")
        found.append({"family": family, "group": group, "at": at, "says": said})
    return sorted(found, key=lambda f: (f["family"], f["group"]))


def verdicts(connection: Connection, version: str) -> list[Facts]:
    """The verdict of each gate on a candidate, in the order in which the gates ran.

    Raises:
        RegistryError: There is no such version, or no gate has judged it.
    """
    known = model(connection, version)
    query = select(gate_verdicts).where(gate_verdicts.c.version == version)
    rows = sorted(connection.execute(query).mappings(), key=lambda r: r["detail"].get("order", 0))
    if not rows:
        raise RegistryError(f"no gate has judged {version} yet: its state is {known['state']}")
    return [_verdict(row) for row in rows]


def _verdict(row: RowMapping) -> Facts:
    detail = {k: v for k, v in row["detail"].items() if k not in ("says", "order")}
    shown = {name: row[name] for name in ("gate", "passed", "value", "bound", "low", "high")}
    return {
        **shown,
        "says": row["detail"].get("says", ""),
        "detail": detail,
        "evaluated_at": _instant(row["evaluated_at"]),
    }


def _factory(family: str) -> Facts:
    bundle = factory_bundle_of(family)
    return {
        "version": bundle.manifest.version,
        "family": family,
        "state": "factory",
        "kind": bundle.manifest.kind,
        "bytes": len(pack(bundle.files)),
        "champion": None,
        "run_id": None,
        "cut": None,
        "created": None,
        "detail": "ships with every device",
    }


def _candidate(candidate: Candidate, cut: int | None) -> Facts:
    return {
        "version": candidate.version,
        "family": candidate.family,
        "state": candidate.state,
        "kind": candidate.kind,
        "bytes": candidate.length,
        "champion": candidate.champion,
        "run_id": candidate.run_id,
        "cut": cut,
        "created": _instant(candidate.created_at),
        "detail": candidate.detail,
    }


def _run(connection: Connection, run_id: str) -> Facts | None:
    run = run_store.get(connection, run_id)
    if run is None:
        return None
    row, cause = run.row(), run.cause_json() or {}
    return {
        **{
            k: row[k] for k in ("run_id", "state", "reason", "requested_by", "seed", "cut", "pin", "verdicts")
        },
        "onset": None if row["onset"] is None else _instant(row["onset"]),
        "cause": cause.get("kind"),
        **{k: cause.get(k) for k in ("says", "moved", "evidence", "wanted")},
    }


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
