"""Does the same work for several items; an error in one is raised after the others had their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from schemas.errors import OperatorError, PipelineError, TaskLostError

T = TypeVar("T")


def each_in_turn(items: Iterable[T], work: Callable[[T], object]) -> None:
    """Do the work for every item, also after one of them failed.

    Raises:
        OperatorError: Raised at once: a person must decide.
        TaskLostError: Raised at once: another process took over.
        Exception: Raised after the last item: the first unexpected one, or else the first ``PipelineError``.
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
