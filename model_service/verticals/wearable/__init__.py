"""What the cloud computes for the vertical wearable."""
