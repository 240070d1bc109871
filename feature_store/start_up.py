"""What a writer of a lake does first: heal what can be healed without loss, and let nothing be hidden."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from feature_store import log_digests
from feature_store.copies import add_copies
from feature_store.current_profiles import current_profiles
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.table_rebuild import mend_tables
from feature_store.version_store import VersionStore
from schemas.errors import PipelineError
from schemas.excerpt_table import excerpts_table
from schemas.tables import FIXED_TABLES, TableSpec, telemetry_table

log = logging.getLogger(__name__)


def heal(lake: Lake, cuts: CutStore) -> None:
    """Heal a lake at the start of a writer; what cannot be healed is logged, and stops what needs it.

    The order matters: a table is made anew before anybody could make an empty one in its place, and cuts are
    recovered once the tables can be read.
    """
    _try(lambda: _mend(lake, cuts))
    lake.ensure_fixed_tables()
    _try(lambda: _ensure_telemetry_tables(lake))
    for table in lake.tables():
        log_digests.know(lake.root / table)
    _try(cuts.recover)
    _try(
        lambda: add_copies(
            lake.root, [*ProfileRegistry(lake).files(), *VersionStore(lake.root).files(), *cuts.pin_files()]
        )
    )


def known_tables(lake: Lake) -> list[TableSpec]:
    """The tables whose columns are known: fixed ones, and those of registered profiles."""
    profiles = ProfileRegistry(lake).profiles()
    raw = (excerpts_table(p) for p in current_profiles(lake).values() if p.excerpts is not None)
    return [*FIXED_TABLES, *(telemetry_table(p) for p in profiles.values()), *raw]


def _ensure_telemetry_tables(lake: Lake) -> None:
    """Give the tables of registered profiles the columns of this release; one that cannot have them waits."""
    for profile in ProfileRegistry(lake).profiles().values():
        _try(partial(lake.ensure_table, telemetry_table(profile)))
    for profile in current_profiles(lake).values():
        if profile.excerpts is not None:
            _try(partial(lake.ensure_table, excerpts_table(profile)))


def _mend(lake: Lake, cuts: CutStore) -> None:
    for broken in mend_tables(lake, cuts, known_tables(lake)):
        if not broken.healed:
            log.error("%s; `edgeloop lake check` says more", broken.problem)


def _try(step: Callable[[], object]) -> None:
    try:
        step()
    except (PipelineError, OSError) as exc:
        log.warning("%s", exc)
