"""What views and their columns mean, as SQL comments: units and meanings are where the query is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from feature_store import duck
from schemas.excerpt_table import excerpts_table
from schemas.profile import Profile
from schemas.row_schemas import Reason
from schemas.tables import BOOKS, DAY_DOC, FIXED_TABLES, TELEMETRY_COMMON, telemetry_table
from schemas.view_specs import BOOKS_STATEMENTS, DERIVED_VIEWS

HOW_TO_OPEN = "how_to_open"
_HOW = (
    "Start the client in the folder of catalog.duckdb, or run SET file_search_path = '/path/to/lake' first.",
    "For a lake that is mounted elsewhere: edgeloop catalog --root MOUNTED/lake -o FILE",
    "This file shows one cut. Open it again for newer rows.",
)
TELEMETRY_DOC = "Telemetry of all profiles: the columns they share."


def comment_statements(columns: Mapping[str, Iterable[str]], profiles: Mapping[str, Profile]) -> list[str]:
    """``COMMENT ON`` statements for views.

    Args:
        columns: The columns of each view that there is; others get no comment.
        profiles: Registered profiles, by name: their telemetry tables are described too.
    """
    found: list[str] = []
    for view, (doc, docs) in _meanings(profiles).items():
        there = set(columns.get(view, ()))
        if not there:
            continue
        found.append(f"COMMENT ON VIEW {duck.name(view)} IS {duck.text(doc)}")
        found += [
            f"COMMENT ON COLUMN {duck.name(view)}.{duck.name(column)} IS {duck.text(meaning)}"
            for column, meaning in docs.items()
            if column in there
        ]
    return found


def macro_statements() -> list[str]:
    """``CREATE MACRO`` statements: weighted averages, and ``reasons`` in words."""
    bits = " ".join(f"WHEN {duck.text(r.name or '')} THEN {int(r)}" for r in Reason)
    names = ", ".join(
        f"CASE WHEN reasons & {int(r)} != 0 THEN {duck.text((r.name or '').lower())} END" for r in Reason
    )
    weight = "1.0 / inclusion_probability"
    return [
        f"CREATE MACRO weighted_count(inclusion_probability) AS sum({weight})",
        "CREATE MACRO weighted_avg(value, inclusion_probability) AS "
        f"sum(value * {weight}) / sum({weight}) FILTER (value IS NOT NULL)",
        "CREATE MACRO weighted_share(condition, inclusion_probability) AS "
        f"coalesce(sum({weight}) FILTER (condition), 0) / sum({weight}) FILTER (condition IS NOT NULL)",
        f"CREATE MACRO reason_names(reasons) AS concat_ws(', ', {names})",
        f"CREATE MACRO has_reason(reasons, name) AS (reasons & CASE upper(name) {bits} "
        "ELSE error('no such reason: ' || name) END) != 0",
    ]


def how_to_open() -> str:
    """``CREATE VIEW`` statement of the view that says how the catalog is opened; it reads no file."""
    lines = ", ".join(f"({n}, {duck.text(line)})" for n, line in enumerate(_HOW, 1))
    return f"CREATE VIEW {HOW_TO_OPEN} AS SELECT * FROM (VALUES {lines}) AS lines(step, says)"  # noqa: S608  (constants)


def _meanings(profiles: Mapping[str, Profile]) -> dict[str, tuple[str, dict[str, str]]]:
    """Meaning of each view and of its columns."""
    raw = [excerpts_table(p) for p in profiles.values() if p.excerpts is not None]
    tables = [*FIXED_TABLES, *(telemetry_table(p) for p in profiles.values()), *raw]
    found = {spec.name: (spec.doc, _docs(spec.schema)) for spec in tables}
    found[BOOKS_STATEMENTS] = ("Every statement that devices made about their books.", found[BOOKS.name][1])
    found["telemetry"] = (TELEMETRY_DOC, _docs(TELEMETRY_COMMON))
    for view in DERIVED_VIEWS:
        found[view.name] = (view.doc, {column.name: column.doc for column in view.columns})
    return found


def _docs(schema: pa.Schema) -> dict[str, str]:
    return {f.name: f.metadata[b"doc"].decode() for f in schema} | {"day": DAY_DOC}
