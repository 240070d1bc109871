"""Names of a model's outputs: ``score``, which every model has, and further ones."""

from __future__ import annotations

from collections.abc import Sequence

PRIMARY = "score"
"""The output that every model has, and its column in rows."""


def output_columns(outputs: Sequence[str]) -> tuple[str, ...]:
    """Names of further outputs in a graph, in rows and in summaries: ``score_<name>``.

    >>> output_columns(("queue",))
    ('score_queue',)
    """
    return tuple(f"{PRIMARY}_{name}" for name in outputs)
