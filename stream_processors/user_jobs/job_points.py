"""Which jobs are installed: their entry points, without loading any of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import NamedTuple

from schemas.errors import OperatorError

log = logging.getLogger(__name__)

JOBS = "edgeloop.jobs"
"""Entry point group by which jobs are found, a user's own like the built-in ones."""
OUR_DISTRIBUTION = "edgeloop"
_BROKEN = (AttributeError, KeyError, OSError, TypeError, ValueError)
"""What a broken package raises."""


def is_ours(point: EntryPoint) -> bool:
    """Whether the entry point belongs to our own distribution: its jobs commit within the task."""
    return point.dist is not None and point.dist.name == OUR_DISTRIBUTION


def built_in_points() -> list[EntryPoint]:
    """Entry points of the built-in jobs, by name."""
    return [point for point in _points() if is_ours(point)]


def user_points() -> list[EntryPoint]:
    """Entry points of users' jobs, by name."""
    return [point for point in _points() if not is_ours(point)]


def _points() -> list[EntryPoint]:
    """Entry points of all jobs, by name; a distribution that cannot be read has none, and stops no other."""
    read = [(distribution, _points_of(distribution)) for distribution in distributions()]
    found = _by_name((distribution, points) for distribution, points in read if points)
    if not all(is_ours(point) for points in found.values() for point in points):
        # A package may hide another of its name. To read a name takes four milliseconds.
        found = _by_name(read)
    return sorted((point for points in found.values() for point in points), key=lambda p: p.name)


def _points_of(distribution: Distribution) -> list[EntryPoint]:
    try:
        return [point for point in distribution.entry_points if point.group == JOBS]
    except _BROKEN as exc:
        log.warning("a package's entry points cannot be read: %r", exc)
        return []


def _by_name(read: Iterable[tuple[Distribution, list[EntryPoint]]]) -> dict[str, list[EntryPoint]]:
    """Entry points by distribution; of two of one name the first counts."""
    found: dict[str, list[EntryPoint]] = {}
    for distribution, points in read:
        try:
            found.setdefault(distribution.name.lower().replace("_", "-"), points)
        except _BROKEN as exc:
            log.warning("a package's name cannot be read: %r", exc)
    return found


class InstalledPackage(NamedTuple):
    """The package of a job, as it is installed.

    Attributes:
        name: With its version, such as ``attention 0.1.0``; empty: not known.
        build: Digest of its list of files, by which two builds of one version differ; empty: not known.
    """

    name: str = ""
    build: str = ""


UNKNOWN_PACKAGE = InstalledPackage()


def installed_package(point: EntryPoint) -> InstalledPackage:
    """The package that an entry point belongs to; nothing of it is loaded."""
    if point.dist is None:
        return UNKNOWN_PACKAGE
    try:
        record = point.dist.read_text("RECORD")  # with a digest of each file
        named = f"{point.dist.name} {point.dist.version}"
    except _BROKEN as exc:
        log.warning("the package of job %s cannot be read: %r", point.name, exc)
        return UNKNOWN_PACKAGE
    return InstalledPackage(named, hashlib.sha256(record.encode()).hexdigest()[:12] if record else "")


def find_point(name: str) -> EntryPoint:
    """Entry point of the user's job that is installed under this name.

    Raises:
        OperatorError: None is, or two packages have one.
    """
    found = [point for point in user_points() if point.name == name]
    if not found:
        raise OperatorError(f"job '{name}' is not installed any more")
    if len(found) > 1:
        packages = ", ".join(sorted(p.dist.name for p in found if p.dist is not None))
        raise OperatorError(f"several packages have a job '{name}' ({packages}): uninstall all but one")
    return found[0]
