"""What the tests of devices share."""

from collections.abc import Callable, Iterator

import pytest

from tests.edge_producer.rig import Rig


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    """Makes rigs as ``Rig`` does; their spools are closed when the test ends."""
    made: list[Rig] = []

    def rig(*args: object, **given: object) -> Rig:
        made.append(Rig(*args, **given))
        return made[-1]

    yield rig
    for each in made:
        each.close()
