"""A Faust agent as one writes it first: take what came within a quarter second, append it to Delta."""

import sys
import uuid

import faust
from delta_sink import FLUSH_ROWS, FLUSH_S, append

servers, topic, rows, folder = sys.argv[1:5]
app = faust.App(
    uuid.uuid4().hex,
    broker=f"kafka://{servers}",
    store="memory://",
    datadir=f"{folder}-state",
    web_enabled=False,
    topic_allow_declare=False,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
)
serializer = "json" if int(rows) == 1 else "raw"
source = app.topic(topic, value_serializer=serializer, key_serializer="raw")


@app.agent(source)
async def land(stream):
    async for messages in stream.take(min(4000, max(1, FLUSH_ROWS // int(rows))), within=FLUSH_S):
        append(folder, messages)


faust.Worker(app, loglevel="WARNING").execute_from_commandline()
