"""Rotating machines."""
