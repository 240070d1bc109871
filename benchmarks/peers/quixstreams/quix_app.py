"""A quixstreams application: JSON rows to its Parquet file sink, Arrow to a BatchingSink of ours to Delta."""

import sys
import uuid
from pathlib import Path

from delta_sink import append
from quixstreams import Application
from quixstreams.sinks import BatchingSink
from quixstreams.sinks.community.file.formats import ParquetFormat
from quixstreams.sinks.community.file.local import LocalFileSink

servers, topic, rows, folder = sys.argv[1:5]


class _DeltaSink(BatchingSink):
    def write(self, batch):
        append(folder, [item.value for item in batch])


app = Application(
    broker_address=servers,
    consumer_group=uuid.uuid4().hex,
    auto_offset_reset="earliest",
    commit_interval=0.25,
    auto_create_topics=False,
    loglevel="WARNING",
    state_dir=f"{folder}-state",
)
if int(rows) == 1:
    frame = app.dataframe(app.topic(topic, value_deserializer="json"))
    # It refuses "-" in a path; the driver starts us in the folder's parent.
    frame.sink(LocalFileSink(directory=Path(folder).name, format=ParquetFormat()))
else:
    frame = app.dataframe(app.topic(topic, value_deserializer="bytes"))
    frame.sink(_DeltaSink())
app.run()
