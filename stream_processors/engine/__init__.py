"""What runs jobs: messages from Kafka through Faust, and the checkpoint that lands each exactly once."""
