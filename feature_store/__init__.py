"""Data at rest: Delta tables, commit log, cuts, DuckDB views, estimates."""
