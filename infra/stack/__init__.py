"""The local stack: broker, workers, model service and edge processes, started and kept running."""
