"""What the tests of stream workers share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.kafka.kafka_broker import KafkaBroker
from tests.simulators.cloud import Cloud


@pytest.fixture
def cloud(broker: KafkaBroker, namespace: str, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud without workers: a test starts them; they end with it."""
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as running:
        yield running
