"""From the spool to Kafka: sealing messages, sending them, and reporting the process's state."""
