"""What tells that a trainer of a package made a model; it loads no runtime, and no graph."""

from __future__ import annotations

from schemas.manifest import Manifest

MARK = "trainer:"
"""Begins the ``detector`` of such a manifest; the trainer's name follows."""


def is_trained(manifest: Manifest) -> bool:
    """Whether a trainer of a package made the model: its parameters are in its graph alone."""
    return manifest.detector.startswith(MARK)
