"""Entry points of installed packages, looked up by group and name, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from schemas.errors import PipelineError


def plug_in_names(group: str) -> list[str]:
    """Names of all entry points of a group that are installed, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def load_plug_in(
    group: str, name: str, what: str, raised: type[PipelineError], absent: Callable[[str], str]
) -> Any:
    """What the one entry point of a name leads to.

    Args:
        group: Of entry points.
        name: Of the entry point.
        what: It is, for messages, such as ``generator``.
        raised: Error to raise.
        absent: From the names that are installed, with commas between, to what is said where none has this
            name.

    Raises:
        PipelineError: Of the class ``raised``: none is installed, or several are, or it cannot be imported.
    """
    found = [point for point in entry_points(group=group) if point.name == name]
    if not found:
        raise raised(absent(", ".join(plug_in_names(group)) or "none"))
    if len(found) > 1:
        packages = ", ".join(sorted(str(p.dist.name) if p.dist else p.value for p in found))
        raise raised(f"{what} '{name}' is in several packages: {packages}; leave one installed")
    try:
        return found[0].load()
    except (Exception, SystemExit) as exc:  # the code is a user's: whatever it raises when it is imported
        raise raised(f"{what} '{name}' cannot be loaded: {type(exc).__name__}: {exc}") from exc
