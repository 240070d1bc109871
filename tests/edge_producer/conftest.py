"""What the tests of devices share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge_producer.spool_rig import SpoolRig
from tests.simulators.mqtt_broker import MqttBroker
from tests.simulators.opcua_server import OpcUaServer
from tests.simulators.update_service import UpdateService

OPCUA_PLACES = 60


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


@pytest.fixture(scope="module")
def mqtt_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], MqttBroker]]:
    """Starts a real broker for each version of MQTT that is asked for, until the file's tests end."""
    made: dict[str, MqttBroker] = {}

    def broker(version: str) -> MqttBroker:
        if version not in made:
            made[version] = MqttBroker(tmp_path_factory.mktemp("mqtt"), version)
            made[version].start()
        return made[version]

    yield broker
    for each in made.values():
        each.stop()


@pytest.fixture(scope="module")
def opcua_places(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], tuple[OpcUaServer, str]]]:
    """Gives a server that runs until the file's tests end, and a prefix of nodes that nobody else uses."""
    running: list[OpcUaServer] = []
    free = iter([f"p{n}" for n in range(OPCUA_PLACES)])

    def place() -> tuple[OpcUaServer, str]:
        if not running:
            nodes = [f"p{n}.{name}" for n in range(OPCUA_PLACES) for name in ("heat", "load")]
            running.append(OpcUaServer(tmp_path_factory.mktemp("opcua"), nodes, secure=True))
            running[0].start()
        return running[0], next(free)

    yield place
    for each in running:
        each.stop()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[UpdateService]:
    """A delivery service that listens until the test ends."""
    with UpdateService(tmp_path) as running:
        yield running
