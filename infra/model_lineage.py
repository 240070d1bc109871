"""Lineage both ways, read from the lake: from a model or an alarm to training rows, from a row to models."""

# ruff: noqa: S608  # `duck.text` quotes the texts, the rest are numbers

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from feature_store import connect, duck
from schemas.errors import QueryError


class RowId(NamedTuple):
    """Identity of one window of a device."""

    device_id: str
    boot_id: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> RowId:
        """From ``device:boot:seq``.

        Raises:
            QueryError: The text has another form.
        """
        parts = text.strip().rsplit(":", 2)
        if len(parts) != 3 or not parts[0] or not all(p.lstrip("-").isdigit() for p in parts[1:]):
            raise QueryError(
                f"'{text}' names no row: write DEVICE:BOOT_ID:SEQ, as alarms and telemetry have them"
            )
        return cls(parts[0], int(parts[1]), int(parts[2]))

    @property
    def condition(self) -> str:
        """SQL condition that selects the row."""
        return f"device_id = {duck.text(self.device_id)} AND boot_id = {self.boot_id} AND seq = {self.seq}"


def rows_behind(lake_root: Path, version: str) -> list[dict[str, Any]]:
    """Training and holdout rows of a model, summarised by part."""
    sql = f"""
        SELECT part, count(*) AS "rows", count(DISTINCT device_id) AS devices, min(event_time) AS event_from,
            max(event_time) AS event_to, sum(weight) AS weight, count(label) AS labelled,
            sum(weight) ** 2 / sum(weight ** 2) AS effective_rows, any_value(cut) AS cut,
            any_value(pin) AS pin
        FROM lineage WHERE model_version = {duck.text(version)} GROUP BY part ORDER BY part DESC"""
    return _query(lake_root, sql)


def models_of_row(lake_root: Path, row: RowId) -> list[dict[str, Any]]:
    """Models that a row trained or tested, oldest first."""
    sql = f"""
        SELECT model_version, run_id, part, weight, label, cut, event_time, scored_by, score, decision
        FROM lineage WHERE {row.condition} ORDER BY known_at, model_version"""
    return _query(lake_root, sql)


def model_of_alarm(lake_root: Path, row: RowId) -> dict[str, Any]:
    """The alarm that began with a row, and the model that raised it.

    Raises:
        QueryError: No alarm began there.
    """
    columns = "device_id, event_time, action, score, model_version, fail_safe"
    sql = f"SELECT {columns} FROM alarms WHERE {row.condition}"
    found = _query(lake_root, sql)
    if not found:
        raise QueryError(
            f"no alarm began with {row.device_id}:{row.boot_id}:{row.seq}; "
            '`edgeloop sql "SELECT device_id, boot_id, seq FROM alarms"` lists those that did'
        )
    return found[0]


def _query(lake_root: Path, sql: str) -> list[dict[str, Any]]:
    with closing(connect(lake_root, comments=False)) as connection:
        found: list[dict[str, Any]] = duck.query(connection, sql).to_pylist()
    return found
