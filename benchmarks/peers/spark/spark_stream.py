"""Spark structured streaming: Kafka source, from_json, append to Delta with a checkpoint of its own."""

import sys
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812  (everybody's name for it)

servers, topic, rows, folder, jars, messages = sys.argv[1:7]
ROW = "device_id STRING, seq BIGINT, event_time BIGINT, " + ", ".join(f"f{n} FLOAT" for n in range(10))
MICRO_BATCHES = 12
"""Of the whole backlog: in one, the first landed row would be the last."""

spark = (
    SparkSession.builder.master("local[*]")
    .config("spark.jars", ",".join(map(str, Path(jars).glob("*.jar"))))
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.memory", "3g")
    .config("spark.local.dir", f"{folder}-local")
    .config("spark.sql.warehouse.dir", f"{folder}-warehouse")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
source = (
    spark.readStream.format("kafka")
    .option("kafka.bootstrap.servers", servers)
    .option("subscribe", topic)
    .option("startingOffsets", "earliest")
    .option("maxOffsetsPerTrigger", max(1, int(messages) // MICRO_BATCHES))
    .load()
)
text = F.col("value").cast("string")
if int(rows) == 1:
    landed = source.select(F.from_json(text, ROW).alias("r"))
else:
    landed = source.select(F.explode(F.from_json(text, f"ARRAY<STRUCT<{ROW}>>")).alias("r"))
landed = landed.select("r.*").withColumn("event_time", F.timestamp_micros("event_time"))
query = landed.writeStream.format("delta").option("checkpointLocation", f"{folder}-checkpoint").start(folder)
query.awaitTermination()
