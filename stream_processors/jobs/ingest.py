"""Old name of `stream_processors.ingest.ingest_job`, for entry points and jobs written for 0.2.0."""

from stream_processors.ingest.ingest_job import Ingest

__all__ = ["Ingest"]
