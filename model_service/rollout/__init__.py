"""Rollouts: how a signed model reaches a group, phase by phase, and how the group comes back.

Decided in pure code (`machine`, `judge`, `guards`, `review`); `engine` and `guard` carry it out.
"""
