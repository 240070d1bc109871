"""Drafting a profile from a file of measurements."""
