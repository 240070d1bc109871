"""Layouts of what devices send packed (``schemas.packed_rows``): summaries and books, since wire 3.

Columns are those of ``SUMMARY_LAYOUT`` and ``BOOKS_LAYOUT``: the lake gets the same rows as from Arrow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from schemas.columns import RowLayout
from schemas.packed_rows import KNOWN, PACKING, VERSION
from schemas.profile import Profile
from schemas.row_schemas import BOOKS_LAYOUT, SUMMARY_LAYOUT, Stratum

if TYPE_CHECKING:  # a device does without pyarrow
    import pyarrow as pa


def _packed(layout: RowLayout, known: Mapping[str, Sequence[str]], **more: str) -> RowLayout:
    texts = json.dumps({name: list(texts) for name, texts in known.items()}, separators=(",", ":"))
    metadata = {**layout.metadata, PACKING: str(VERSION), KNOWN: texts, **more}
    return RowLayout(layout.columns, metadata)


@lru_cache(maxsize=64)
def summaries_of(profile: str, featureset: str, feature_names: tuple[str, ...]) -> RowLayout:
    """Summaries of a profile; its columns of numbers and its feature set are known, and need not be sent."""
    known = {"feature": [*feature_names, "score"], "featureset": [featureset]}
    return _packed(SUMMARY_LAYOUT, known, profile=profile)


def packed_summary_layout(profile: Profile) -> RowLayout:
    """Summaries as devices of this profile send and keep them."""
    return summaries_of(profile.name, profile.featureset, profile.row_columns)


PACKED_BOOKS_LAYOUT = _packed(BOOKS_LAYOUT, {"stratum": [stratum.value for stratum in Stratum]})
"""Books as devices send them."""


def packed_summary_rows(profile: Profile) -> pa.Schema:
    """Arrow schema of one profile's packed summaries."""
    from schemas.arrow_schemas import arrow_schema  # noqa: PLC0415  (heavy; see above)

    return arrow_schema(packed_summary_layout(profile))


def packed_books_rows() -> pa.Schema:
    """Arrow schema of packed books."""
    from schemas.arrow_schemas import arrow_schema  # noqa: PLC0415  (heavy; see above)

    return arrow_schema(PACKED_BOOKS_LAYOUT)
