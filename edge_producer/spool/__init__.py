"""Holds what is not delivered yet: rows, books, summaries and sealed messages in one SQLite file."""
