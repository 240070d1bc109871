"""Rollouts: how a signed model reaches a group, phase by phase, and how the group returns to its baseline.

Pure code decides (`rollout_states`, `phase_judge`, `guard_statistics`, `guard_review`); `engine` and
`guard_evaluator` read the registry and the lake for it, and carry its decisions out.
"""
