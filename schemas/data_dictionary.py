"""Writes ``docs/data-dictionary.md`` from the schemas: ``python -m schemas.data_dictionary``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from schemas.excerpt_table import excerpts_table
from schemas.profile_file import builtin_profiles, load_profile
from schemas.row_schemas import Reason, TimeQuality
from schemas.tables import BOOKS, FIXED_TABLES, TELEMETRY_COMMON, TableSpec, telemetry_table
from schemas.view_specs import BOOKS_STATEMENTS, DERIVED_VIEWS, ViewSpec, sql_type

PAGE = Path(__file__).parent.parent / "docs" / "data-dictionary.md"
_WIDTH = 110

_INTRO = """# Data dictionary

Generated from `schemas/` by `python -m schemas.data_dictionary`; do not edit.

Everything here is a view over one *cut* of the lake: a recorded state in which all tables agree.
`edgeloop sql "…"`, `feature_store.connect()` and any DuckDB client on `catalog.duckdb` see the same names.
Times are UTC instants. A column is nullable only where its type says so. On disk they are Delta tables.

Every table has the column `day` (`DATE`), the UTC day of `known_at`: filter on it first in large lakes.
`known_at` is when we could know a row; the event time beside it is when it happened. A data set as of a time
needs both.
"""


_REASONS = (
    "Bits: why a row was sent. Bits 65536 to 536870912 say that channel 0 to 13 of the profile was missing "
    "in the window, and 1073741824 the same of a later one; the view `missing_channels` names them."
)


_EXCERPTS = """\
## Tables of excerpts, one per profile that has them

`excerpts_<profile>`: raw samples that an approver permitted, for their readers only; no view shows them. The
columns are `device_id`, `boot_id`, `permit_id`, `purpose`, `approver`, `sample` (number within the excerpt),
`event_time`, `raw_<channel>` for each channel, and those of provenance ([excerpts.md](excerpts.md)).
"""


def page() -> str:
    """The whole page, Markdown."""
    profiles = [load_profile(path) for path in builtin_profiles().values()]
    parts = [
        _INTRO,
        "## Derived views\n",
        *(_view(v) for v in DERIVED_VIEWS),
        _schema("telemetry", "Telemetry of all profiles: the columns they share.", TELEMETRY_COMMON),
        "## Tables\n",
        *(_table(spec) for spec in FIXED_TABLES),
        "## Telemetry tables, one per profile\n",
        *(_table(telemetry_table(p)) for p in profiles),
        _EXCERPTS,
        *(_table(excerpts_table(p)) for p in profiles if p.excerpts is not None),
        "## Codes\n",
        _codes("reasons", _REASONS, [(str(int(r)), r.name or "") for r in Reason]),
        _codes(
            "time_quality", "What the device knew of its clock.", [(str(int(q)), q.name) for q in TimeQuality]
        ),
    ]
    return "\n".join(parts)


def _table(spec: TableSpec) -> str:
    doc = spec.doc
    if spec.name == BOOKS.name:
        doc += f" The view `{BOOKS_STATEMENTS}` has every statement, `{BOOKS.name}` the newest of each key."
    return _schema(spec.name, doc, spec.schema)


def _schema(name: str, doc: str, schema: pa.Schema) -> str:
    rows = [
        (f.name, f"{sql_type(f.type)}{', nullable' if f.nullable else ''}", f.metadata[b"doc"].decode())
        for f in schema
    ]
    return _section(name, doc, ("column", "type", "meaning"), rows)


def _view(view: ViewSpec) -> str:
    return _section(view.name, view.doc, ("column", "type", "meaning"), [tuple(c) for c in view.columns])


def _codes(name: str, doc: str, rows: list[tuple[str, ...]]) -> str:
    return _section(name, doc, ("value", "meaning"), rows)


def _section(name: str, doc: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    prose = textwrap.fill(doc, _WIDTH, break_long_words=False, break_on_hyphens=False)
    lines = [f"### {name}\n", f"{prose}\n", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| `{first}` | {' | '.join(rest)} |" for first, *rest in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
