"""What the registry knows of devices: who they are, what they run, what they reported, their certificates."""
