"""A worker whose broker is away says so, and does not fill the disk with it."""

import re
from collections import Counter

import pytest

from schemas.log_lines import AT_ONCE
from tests.simulators.cloud import Cloud
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]


def kinds(text: str) -> Counter[str]:
    """Lines of a log by their words, without numbers and times."""
    return Counter(re.sub(r"\d+", "#", line.partition(" ERROR ")[2]) for line in text.splitlines())


def storms(text: str) -> int:
    """Kinds of errors of which the log has as many lines as come at once."""
    return sum(n >= AT_ONCE for kind, n in kinds(text).items() if kind)


@pytest.mark.long
def test_a_worker_without_a_broker_writes_a_few_lines_of_each_complaint(broker, namespace, tmp_path):
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as cloud:
        worker = cloud.start()
        cloud.await_settled(worker)
        broker.kill()
        try:
            wait_until(lambda: storms(worker.log_path.read_text()) >= 3, 60, "complaints of three kinds")
            text = worker.log_path.read_text()
        finally:
            broker.start()
        assert "rdkafka#" not in text  # no client writes past the log
        assert max(n for kind, n in kinds(text).items() if kind) <= AT_ONCE + 2 * 3
        worker.kill()
