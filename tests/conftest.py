"""Fixtures every room's tests share: a real broker, a namespace of its own, a lake folder."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import KafkaBroker
from infra.settings import default_cache_dir

# An example may take as long as it needs: the machine is shared, and benchmarks are elsewhere.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


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
