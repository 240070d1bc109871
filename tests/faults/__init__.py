"""The fault campaign: break a running system in named ways, and let an independent checker count the damage.

`make faults` runs it; `docs/reliability.md` holds its invariants and its tally.
"""
