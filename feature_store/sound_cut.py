"""A cut without its damaged files: what views read; and which files are left out.

Whether a file is there and as long as it must be is looked up for every cut that is read. What is in it is
not: DuckDB verifies no checksums. A file that the scrub or a reader of ours found altered is on the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from feature_store.cut import Cut, TableCut
from feature_store.damage_list import DamagedFile, DamageList, by_table
from feature_store.data_file import content_problem, presence_problem
from schemas.errors import QueryError


@dataclass(frozen=True)
class SoundCut:
    """A cut of which every file is there.

    Attributes:
        cut: Without damaged files.
        left_out: The damaged files that the cut names.
    """

    cut: Cut
    left_out: tuple[DamagedFile, ...] = ()

    def warnings(self, tables: Iterable[str] | None = None) -> list[str]:
        """One line for each table with files left out.

        Args:
            tables: Only these; None: all.
        """
        wanted = None if tables is None else set(tables)
        found = by_table(self.left_out)
        return [_line(t, files) for t, files in found.items() if wanted is None or t in wanted]


def sound_cut(root: Path, cut: Cut, keeps: Callable[[Cut], bool], *, verify: Iterable[str] = ()) -> SoundCut:
    """The cut without files that are damaged; those found now go on the damage list.

    Args:
        root: The lake's folder.
        cut: Its files are kept as long as it is.
        keeps: Whether it still is.
        verify: Tables whose files are read whole and compared with their digests.

    Raises:
        QueryError: Files are missing because the cut was removed meanwhile.
    """
    listed = DamageList(root)
    known = {(d.table, d.path): d for d in listed.all()}
    wanted = set(verify)
    damaged: dict[str, dict[str, DamagedFile]] = {}
    found: list[tuple[str, str, int | None, str]] = []
    for name, table in cut.tables.items():
        test = content_problem if name in wanted else presence_problem
        for path, size, rows in table.sized():
            if item := known.get((name, path)):
                counted = item if item.rows is not None else replace(item, rows=rows)
                damaged.setdefault(name, {})[path] = counted
            elif problem := test(root / name / path, size):
                found.append((name, path, rows, problem))
    if found and not keeps(cut):
        raise QueryError(f"cut {cut.id} was removed while it was read; `edgeloop lake cuts` lists the others")
    for name, path, rows, problem in found:
        damaged.setdefault(name, {})[path] = listed.add(name, path, rows, problem)
    if not damaged:
        return SoundCut(cut)
    tables = {name: _without(table, damaged.get(name, {})) for name, table in cut.tables.items()}
    left_out = [item for _, files in sorted(damaged.items()) for _, item in sorted(files.items())]
    return SoundCut(replace(cut, tables=tables), tuple(left_out))


def _without(table: TableCut, damaged: Mapping[str, object]) -> TableCut:
    kept = [facts for facts in table.sized() if facts[0] not in damaged]
    files, sizes, rows = zip(*kept, strict=True) if kept else ((), (), ())
    return replace(table, files=files, sizes=sizes if table.sizes else (), rows=rows if table.rows else ())


def _line(table: str, files: list[DamagedFile]) -> str:
    known = [f.rows for f in files if f.rows is not None]
    rows = f"{sum(known)} rows" if len(known) == len(files) else f"at least {sum(known)} rows"
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return (
        f"{table}: {rows} are left out, for {count} of this cut cannot be believed "
        f"({files[0].path}: {files[0].reason}). `edgeloop lake check --repair` restores what can be restored"
    )
