"""Opens DuckDB on a cut: its views, without files that are damaged.

DuckDB reads footers when it makes views. Where it cannot read one, the files of all tables are verified, and
those that are not as they were written are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from feature_store import duck
from feature_store.cut import Cut
from feature_store.cut_store import CutStore
from feature_store.sound_cut import SoundCut, sound_cut
from feature_store.view_comments import comment_statements, how_to_open, macro_statements
from feature_store.views import statements
from schemas.errors import UnreadableDataError
from schemas.profile import Profile


def open_views(
    root: Path,
    cut: Cut,
    cuts: CutStore,
    profiles: Mapping[str, Profile],
    *,
    verify: Iterable[str] = (),
    database: Path | None = None,
    relative: bool = False,
    comments: bool = True,
) -> tuple[duck.Connection, SoundCut]:
    """A connection to the views of a cut, and the cut without the files that are left out.

    Args:
        root: The lake's folder, absolute.
        cut: Which files to read.
        cuts: Of the same lake.
        profiles: Registered profiles, by name.
        verify: Tables whose files are read whole first.
        database: A new file for the views; None: in memory.
        comments: Describe views and columns; this takes as long as everything else.
        relative: Name files relative to the lake's folder, so that the lake can be moved or mounted.

    Raises:
        UnreadableDataError: DuckDB cannot read a file that is as it was written.
    """
    sound = sound_cut(root, cut, cuts.keeps, verify=verify)

    def build(shown: SoundCut) -> duck.Connection:
        base = Path() if relative else root
        made = [
            *macro_statements(),
            *statements(base, shown, profiles),
            *([how_to_open()] if relative else []),
        ]
        connection = duck.build(made, database, root if relative else None)
        if comments:
            described = comment_statements(duck.columns_of_views(connection), profiles)
            connection.execute("; ".join(["BEGIN", *described, "COMMIT"]))
        return connection

    try:
        return build(sound), sound
    except UnreadableDataError:
        again = sound_cut(root, cut, cuts.keeps, verify=cut.tables)
        if len(again.left_out) == len(sound.left_out):
            raise
    if database is not None:
        database.unlink(missing_ok=True)
    return build(again), again
