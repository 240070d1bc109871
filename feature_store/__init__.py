"""Data at rest: Delta tables, commit log, cuts, DuckDB views, estimates.

In a notebook: ``import feature_store; con = feature_store.connect(); con.sql("FROM fleet")``.
"""

from feature_store.sql import connect

__all__ = ["connect"]
