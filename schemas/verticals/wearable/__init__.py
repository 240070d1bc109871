"""What rooms of the vertical wearable share."""
