"""Fixtures every room's tests share: a real broker, a namespace of its own, a lake folder."""

import gc
import os
import random
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import KafkaBroker
from infra.settings import default_cache_dir

# An example may take as long as it needs: the machine is shared, and benchmarks are elsewhere.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("shared-machine", deadline=None, max_examples=50, suppress_health_check=_SLOW)
settings.register_profile("whole", deadline=None, suppress_health_check=_SLOW)
settings.load_profile("shared-machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="also long tests, and every case of sliced ones")
    parser.addoption("--slice-seed", type=int, default=7, help="draws the cases of sliced tests (default 7)")


gc.disable()  # until everything is collected: modules and tests stay, and to look through them finds nothing


def pytest_collection_finish() -> None:
    """What is loaded by now stays: no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """An interpreter that ends takes down all it has."""
    gc.unfreeze()


def pytest_configure(config: pytest.Config) -> None:
    """With ``--whole``, twice as many examples of each property."""
    if config.getoption("--whole"):
        settings.load_profile("whole")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long tests and, of each sliced test, all but a seeded share of its cases.

    What is asked for with ``--whole``, or by the name of the test, is never left out.
    """
    if config.getoption("--whole") or any("::" in argument for argument in config.args):
        return
    left_out = {item for item in items if item.get_closest_marker("long")}
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sliced"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for name, of_one in cases.items():
        one_of = of_one[0].get_closest_marker("sliced").kwargs["one_of"]  # type: ignore[union-attr]
        draw = random.Random(f"{config.getoption('--slice-seed')}-{name}")
        kept = draw.sample(of_one, -(-len(of_one) // one_of))
        left_out.update(set(of_one) - set(kept))
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """The user's cache, so that the broker's jars are fetched once."""
    return default_cache_dir(os.environ)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[KafkaBroker]:
    """A real Kafka broker for the whole session. A test that kills it starts it again."""
    with KafkaBroker(tmp_path_factory.mktemp("broker"), cache_dir) as running:
        yield running


@pytest.fixture(scope="session")
def admin(broker: KafkaBroker) -> KafkaAdmin:
    """Admin of the session's broker."""
    return KafkaAdmin(broker.bootstrap_servers)


@pytest.fixture
def namespace(admin: KafkaAdmin) -> Iterator[str]:
    """A namespace no other test uses, with all topics created; deleted afterwards."""
    name = f"t{uuid.uuid4().hex[:10]}"
    admin.create_topics(name)
    yield name
    admin.delete_topics([t for t in admin.topics() if t.startswith(f"{name}.")])


@pytest.fixture
def lake_root(tmp_path: Path) -> Path:
    """An empty folder for a lake."""
    return tmp_path / "lake"
