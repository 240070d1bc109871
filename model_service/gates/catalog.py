"""What people ask of the registry about models: which there are, what became of each, and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from model_service.registry.tables import candidates, gate_verdicts, runs
from model_service.training.artifacts import factory_bundle_of, factory_families
from schemas.bundle_archive import pack
from schemas.errors import RegistryError

Facts = dict[str, Any]

_HEAVY = {"parameters", "bin_edges", "baselines"}
"""Parts of a manifest that nobody reads in a terminal."""


def models(connection: Connection, family: str = "") -> list[Facts]:
    """Every version, the factory's first, then candidates from the oldest to the newest.

    Args:
        connection: To the registry.
        family: Only its; empty: all.
    """
    query = (
        select(candidates, runs.c.cut, runs.c.reason)
        .join(runs, runs.c.run_id == candidates.c.run_id, isouter=True)
        .order_by(candidates.c.family, candidates.c.created_at, candidates.c.version)
    )
    found = [_factory(name) for name in factory_families()]
    found += [_candidate(row) for row in connection.execute(query).mappings()]
    return [facts for facts in found if family in ("", facts["family"])]


def model(connection: Connection, version: str) -> Facts:
    """Everything on one version: also its run, its cause and its manifest.

    Raises:
        RegistryError: Nobody knows it; names those that somebody does.
    """
    listed = {facts["version"]: facts for facts in models(connection)}
    if version not in listed:
        raise RegistryError(f"no model {version}; there are: {', '.join(listed)}")
    facts = listed[version]
    if facts["state"] == "factory":
        manifest = factory_bundle_of(facts["family"]).manifest.model_dump(mode="json", exclude=_HEAVY)
        return {**facts, "run": None, "manifest": manifest}
    row = connection.execute(select(candidates).where(candidates.c.version == version)).mappings().one()
    manifest = {k: v for k, v in row["manifest"].items() if k not in _HEAVY}
    return {**facts, "sha256": row["sha256"], "run": _run(connection, row["run_id"]), "manifest": manifest}


def verdicts(connection: Connection, version: str) -> list[Facts]:
    """What each gate said of a candidate, in the order they were asked.

    Raises:
        RegistryError: Nobody knows the version, or no gate has judged it.
    """
    known = model(connection, version)
    query = select(gate_verdicts).where(gate_verdicts.c.version == version)
    rows = sorted(connection.execute(query).mappings(), key=lambda r: r["detail"].get("order", 0))
    if not rows:
        raise RegistryError(f"no gate has judged {version} yet: it is {known['state']}")
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


def _candidate(row: RowMapping) -> Facts:
    return {
        "version": row["version"],
        "family": row["family"],
        "state": row["state"],
        "kind": row["kind"],
        "bytes": row["length"],
        "champion": row["champion"],
        "run_id": row["run_id"],
        "cut": row["cut"],
        "created": _instant(row["created_at"]),
        "detail": row["detail"],
    }


def _run(connection: Connection, run_id: str) -> Facts | None:
    row = connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().one_or_none()
    if row is None:
        return None
    cause: Mapping[str, Any] = row["cause"] or {}
    return {
        **{k: row[k] for k in ("run_id", "state", "reason", "requested_by", "seed", "cut", "pin")},
        "verdicts": list(row["verdicts"]),
        "onset": None if row["onset"] is None else _instant(row["onset"]),
        "cause": cause.get("kind"),
        "says": cause.get("says"),
        "moved": cause.get("moved"),
        "evidence": cause.get("evidence"),
        "wanted": cause.get("wanted"),
    }


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
