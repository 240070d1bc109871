"""A bytewax dataflow: Kafka source, decode, a dynamic sink that appends to Delta."""

import sys

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
from delta_sink import DeltaSink, decoded

servers, topic, rows, folder = sys.argv[1:5]


class _Partition(StatelessSinkPartition):
    def __init__(self):
        self._sink = DeltaSink(folder, int(rows))

    def write_batch(self, items):
        self._sink.add(items)

    def close(self):
        self._sink.flush()


class _Sink(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return _Partition()


flow = Dataflow("peer")
stream = op.input("kafka", flow, KafkaSource([servers], [topic], tail=False, batch_size=1000))
values = op.map("decode", stream, lambda message: decoded(message.value, int(rows)))
op.output("delta", values, _Sink())
run_main(flow)
