"""Sources of users: entry points of the group ``edgeloop.sources``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from edge_producer.sources.samples import SampleSource
from edge_producer.sources.source_access import SourceAccess
from schemas.errors import SourceError
from schemas.plug_ins import load_plug_in
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
    made: Callable[[SourceRequest], SampleSource] = load_plug_in(
        GROUP, name, "source", SourceError, lambda _: f"unknown source '{name}'; there are: {_names(known)}"
    )
    return made


def _names(known: tuple[str, ...]) -> str:
    return ", ".join([*known, *(point.name for point in source_points())])
