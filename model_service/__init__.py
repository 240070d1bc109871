"""Training and, from the next release, gates, registry, signing and rollouts."""
