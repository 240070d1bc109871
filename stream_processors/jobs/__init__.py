"""Stream jobs: pure classes from a batch and a state to rows and a new state."""
