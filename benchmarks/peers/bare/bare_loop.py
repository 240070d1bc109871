"""A bare confluent-kafka loop that appends to Delta: no group, no checkpoint, no check."""

import sys
import uuid

import confluent_kafka as ck
from delta_sink import DeltaSink, decoded

servers, topic, rows, folder = sys.argv[1:5]
consumer = ck.Consumer(
    {"bootstrap.servers": servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
)
partitions = consumer.list_topics(topic).topics[topic].partitions
consumer.assign([ck.TopicPartition(topic, p, 0) for p in partitions])
sink = DeltaSink(folder, int(rows))
while True:
    messages = consumer.consume(num_messages=500, timeout=0.05)
    sink.add([decoded(m.value(), int(rows)) for m in messages])
