"""The states of a training run, and which may follow which. Pure.

    requested ─┬→ collecting → building → trained
    examining ─┘      │
        └────→ declined | waiting (for a person) → dismissed | requested

Whatever the trainer works on may fail, and a person may cancel whatever has not ended. New evidence opens a
declined or waiting run again.
"""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """What is to be done next with a run; the value is in its row."""

    REQUESTED = "requested"
    """A person asked for it, or decided where the evidence was unclear."""
    EXAMINING = "examining"
    """To be found: whether the drift is a new normal or wear."""
    COLLECTING = "collecting"
    """Waits until there are enough rows to learn from."""
    BUILDING = "building"
    """Everything that the candidate's bytes depend on is on record; the candidate is to be built."""
    WAITING = "waiting"
    """Waits for a person's decision."""
    TRAINED = "trained"
    DECLINED = "declined"
    """By the evidence, the drift is no reason to retrain."""
    DISMISSED = "dismissed"
    """A person decided that it is no reason to retrain."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    """A person ended it. Nothing opens it again."""


S = RunState
FOLLOWS: dict[RunState, frozenset[RunState]] = {
    S.REQUESTED: frozenset({S.COLLECTING, S.FAILED, S.CANCELLED}),
    S.EXAMINING: frozenset({S.COLLECTING, S.DECLINED, S.WAITING, S.FAILED, S.CANCELLED}),
    S.COLLECTING: frozenset({S.BUILDING, S.DECLINED, S.WAITING, S.FAILED, S.CANCELLED}),
    S.BUILDING: frozenset({S.TRAINED, S.FAILED, S.CANCELLED}),
    S.WAITING: frozenset({S.REQUESTED, S.DISMISSED, S.EXAMINING, S.CANCELLED}),
    S.DECLINED: frozenset({S.EXAMINING, S.CANCELLED}),
    S.TRAINED: frozenset(),
    S.DISMISSED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
}
"""States that may follow a state. A person's decision leads to REQUESTED, new evidence to EXAMINING."""
OPEN = (S.REQUESTED, S.EXAMINING, S.COLLECTING, S.BUILDING)
"""States in which the trainer has something to do."""
UNFINISHED = (*OPEN, S.WAITING)
"""States in which somebody has something to do."""
