"""Everything that stands beside us: loops in one process, and other engines in environments of their own.

`loops.py` reads the same sealed bytes as the worker. The folders hold one engine each: its script, which
imports nothing of ours, and its pinned requirements. `beside.py` runs them; `in_each` is on their path.
"""
