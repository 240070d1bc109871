"""Robots: an arm of two joints on a small vehicle."""
