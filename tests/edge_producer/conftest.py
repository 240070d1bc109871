"""What the tests of devices share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge_producer.spool_rig import SpoolRig
from tests.simulators.update_service import UpdateService


@pytest.fixture
def rigs() -> Iterator[Callable[..., SpoolRig]]:
    """Makes rigs as ``Rig`` does; their spools are closed when the test ends."""
    made: list[SpoolRig] = []

    def rig(*args: object, **given: object) -> SpoolRig:
        made.append(SpoolRig(*args, **given))
        return made[-1]

    yield rig
    for each in made:
        each.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[UpdateService]:
    """A delivery service that listens until the test ends."""
    with UpdateService(tmp_path) as running:
        yield running
