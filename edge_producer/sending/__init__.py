"""From the spool to Kafka: seals messages, sends them, and reports the state of the process."""
