"""Data at rest: Delta tables, commit log, cuts, DuckDB views, estimates.

In a notebook: ``import feature_store; con = feature_store.connect(); con.sql("FROM fleet")``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feature_store.sql import connect

__all__ = ["connect"]


def __getattr__(name: str) -> Any:
    """``connect``, which loads DuckDB: processes that only write the lake do without it."""
    if name in __all__:
        from feature_store import sql  # noqa: PLC0415  (heavy)

        return getattr(sql, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
