"""Events in the life of models and rollouts, on their way to the lake and to Kafka."""
