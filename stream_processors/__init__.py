"""Stream jobs as pure classes, the checkpoint that lands each row exactly once, and one door to Faust.

A job of your own needs only the names below (docs/writing-a-job.md).
"""

from stream_processors.derived_provenance import derived_provenance
from stream_processors.job import Batch, Derived, Job, Output, RawMessage, State, dead_letter
from stream_processors.job_context import JobContext

__all__ = [
    "Batch",
    "Derived",
    "Job",
    "JobContext",
    "Output",
    "RawMessage",
    "State",
    "dead_letter",
    "derived_provenance",
]
