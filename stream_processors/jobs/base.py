"""Name that `stream_processors.job` had in 0.2.0: jobs written for it import from here."""

from stream_processors.job import Batch, Derived, Job, Output, RawMessage, State

__all__ = ["Batch", "Derived", "Job", "Output", "RawMessage", "State"]
