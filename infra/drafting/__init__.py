"""Drafts a profile from a file of measurements: its form, its channels, the commented TOML text."""
