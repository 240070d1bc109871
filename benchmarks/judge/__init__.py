"""Judges: simulators that others wrote and keep; never inside a gate, a fault bank or a threshold."""
