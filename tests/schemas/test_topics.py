"""Where a key goes: as every Kafka client sends it."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.topics import ALL_TOPICS, DEVICE_PARTITIONS, TASK_TOPICS, murmur2, partition_for


def test_murmur2_is_kafkas():
    """Vectors of ``UtilsTest.testMurmur2`` in Apache Kafka."""
    known = {
        b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, b"abc": 479470107,
    }  # fmt: skip
    assert {k: murmur2(k) - 2**32 * (murmur2(k) >= 2**31) for k in known} == known


@given(key=st.text(max_size=80))
def test_a_key_has_one_partition_within_range(key):
    assert 0 <= partition_for(key) < DEVICE_PARTITIONS


def test_topics_that_tasks_read_have_one_partition_count():
    assert {t.partitions for t in TASK_TOPICS} == {DEVICE_PARTITIONS}
    assert len({t.base for t in ALL_TOPICS}) == len(ALL_TOPICS)
