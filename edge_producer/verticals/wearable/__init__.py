"""Devices of the vertical wearable."""
