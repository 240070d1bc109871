"""Old name of `stream_processors.drift.drift_job`, for entry points and jobs written for 0.2.0."""

from stream_processors.drift.drift_job import DriftWatch

__all__ = ["DriftWatch"]
