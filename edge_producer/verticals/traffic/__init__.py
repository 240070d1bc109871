"""Intersections as devices: seeded loop detectors, and the choice of the next phase."""
