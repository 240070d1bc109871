"""Opens DuckDB on a cut: its views, without files that are damaged.

DuckDB reads footers when it makes views. Where it cannot read one, the files of all tables are verified, and
those that are not as they were written are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_store import duck
from feature_store.cut import Cut, without_excerpts
from feature_store.cut_store import CutStore
from feature_store.sound_cut import SoundCut, sound_cut
from feature_store.view_comments import comment_statements, how_to_open, macro_statements
from feature_store.views import statements
from schemas.errors import UnreadableDataError
from schemas.profile import Profile


@dataclass(frozen=True)
class ViewForm:
    """How views are made.

    Attributes:
        database: A new file for them; None: in memory.
        relative: Files are named relative to the lake's folder, so that the lake can be moved or mounted.
        comments: Views and columns are described; this takes as long as everything else.
        excerpts: Tables of raw samples are shown too; the caller must be able to read their folders.
    """

    database: Path | None = None
    relative: bool = False
    comments: bool = False
    excerpts: bool = False


def open_views(
    root: Path,
    cut: Cut,
    cuts: CutStore,
    profiles: Mapping[str, Profile],
    *,
    verify: Iterable[str] = (),
    form: ViewForm = ViewForm(),
) -> tuple[duck.Connection, SoundCut]:
    """A connection to the views of a cut, and the cut without the files that are left out.

    Args:
        root: The lake's folder, absolute.
        cut: Which files to read.
        cuts: Of the same lake.
        profiles: Registered profiles, by name.
        verify: Tables whose files are read whole first.
        form: How the views are made.

    Raises:
        UnreadableDataError: DuckDB cannot read a file that is as it was written.
    """
    if not form.excerpts:
        cut = without_excerpts(cut)
    sound = sound_cut(root, cut, cuts.keeps, verify=verify)

    def build(shown: SoundCut) -> duck.Connection:
        base = Path() if form.relative else root
        made = [
            *macro_statements(),
            *statements(base, shown, profiles),
            *([how_to_open()] if form.relative else []),
        ]
        connection = duck.build(made, form.database, root if form.relative else None)
        if form.comments:
            described = comment_statements(duck.columns_of_views(connection), profiles)
            duck.describe(connection, described)
        return connection

    try:
        return build(sound), sound
    except UnreadableDataError:
        again = sound_cut(root, cut, cuts.keeps, verify=cut.tables)
        if len(again.left_out) == len(sound.left_out):
            raise
    if form.database is not None:
        form.database.unlink(missing_ok=True)
    return build(again), again
