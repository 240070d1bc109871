"""Name that `stream_processors.job_context` had in 0.2.0: jobs written for it import from here."""

from stream_processors.job_context import JobContext

__all__ = ["JobContext"]
