"""Works on several things in turn: one that fails holds up no other, and its error is raised in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from schemas.errors import OperatorError, PipelineError, TaskLostError

T = TypeVar("T")


def each_in_turn(items: Iterable[T], work: Callable[[T], object]) -> None:
    """Do the work for every item, also after one of them failed.

    Raises:
        OperatorError: At once: a person must decide.
        TaskLostError: At once: another process took over.
        Exception: The first that nobody foresaw, or else the first of all, when every item had its turn.
    """
    errors: list[Exception] = []
    for item in items:
        try:
            work(item)
        except (OperatorError, TaskLostError):
            raise
        except Exception as exc:  # noqa: BLE001  (raised below)
            errors.append(exc)
    if errors:
        raise next((e for e in errors if not isinstance(e, PipelineError)), errors[0])
