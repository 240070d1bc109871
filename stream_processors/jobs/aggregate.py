"""Old name of `stream_processors.aggregate.aggregate_job`, for entry points and jobs written for 0.2.0."""

from stream_processors.aggregate.aggregate_job import AggregateWindows

__all__ = ["AggregateWindows"]
