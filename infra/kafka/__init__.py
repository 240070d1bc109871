"""Kafka on this machine: jars, broker, topics, offsets, and messages as a person reads them."""
