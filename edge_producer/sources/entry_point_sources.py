"""Sources of users: entry points of the group ``edgeloop.sources``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from edge_producer.sources.samples import SampleSource
from edge_producer.sources.source_access import SourceAccess
from schemas.errors import SourceError
from schemas.profile import Profile

GROUP = "edgeloop.sources"


@dataclass(frozen=True)
class SourceRequest:
    """What the entry point of a source is called with; it returns a ``SampleSource``.

    Attributes:
        address: What stands behind ``name://`` in the settings; empty for the name alone.
        profile: Names the channels, ``profile.channel_names``, and their rate.
        devices: Ids of the devices; a sample has to name one of them where there are several.
        access: User name, password and certificates, as the settings name them.
    """

    address: str
    profile: Profile
    devices: tuple[str, ...]
    access: SourceAccess


def source_points() -> list[EntryPoint]:
    """All sources that are installed, by name."""
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def load_source(name: str, known: tuple[str, ...]) -> Callable[[SourceRequest], SampleSource]:
    """What opens the source of a name.

    Args:
        name: Of the entry point.
        known: Names that are not of entry points, for the message.

    Raises:
        SourceError: None is installed, or two are, or it cannot be imported.
    """
    points = source_points()
    found = [point for point in points if point.name == name]
    if not found:
        names = ", ".join([*known, *(point.name for point in points)])
        raise SourceError(f"unknown source '{name}'; there are: {names}")
    if len(found) > 1:
        packages = ", ".join(sorted(str(p.dist.name) if p.dist else p.value for p in found))
        raise SourceError(f"source '{name}' is in several packages: {packages}; leave one installed")
    try:
        made: Callable[[SourceRequest], SampleSource] = found[0].load()
    except Exception as exc:  # the code is a user's: whatever it raises when it is imported
        raise SourceError(f"source '{name}' cannot be loaded: {type(exc).__name__}: {exc}") from exc
    return made
