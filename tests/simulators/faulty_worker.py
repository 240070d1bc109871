"""A real stream worker whose landing job has faults that no check foresees.

python -m tests.simulators.faulty_worker

A telemetry row with seq 1666 makes it raise; one with seq 1777 ends the process by kill -9. One with seq 1888
makes it raise until there is a file ``mended`` in the lake's folder.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

RAISES, ENDS, UNTIL_MENDED = 1666, 1777, 1888


def faulty_jobs(root):
    """The installed jobs of a lake, the landing job with its faults; a child builds them by this name."""
    from stream_processors.lake_jobs import jobs_of_lake

    return tuple(map(with_faults, jobs_of_lake(root)))


def with_faults(job):
    """The job; the landing job fails on some rows."""
    from stream_processors.ingest.ingest_job import Ingest

    if not isinstance(job, Ingest):
        return job

    class FaultyIngest(Ingest):
        def _land(self, topic, profile_name, group, work):
            seqs = {
                s
                for a in group
                if a.rows is not None and topic == "telemetry.v1"
                for s in a.rows["seq"].to_pylist()
            }
            if ENDS in seqs:
                os.kill(os.getpid(), signal.SIGKILL)
            mended = Path(os.environ["STREAM_LAKE_ROOT"], "mended").exists()
            if RAISES in seqs or (UNTIL_MENDED in seqs and not mended):
                raise ZeroDivisionError("a fault that no check foresaw")
            super()._land(topic, profile_name, group, work)

    return FaultyIngest(job._directory)


def main():
    """Run the worker."""
    sys.argv = sys.argv[:1]  # Faust reads options from argv when it is imported
    from stream_processors.engine.checkpoint import Checkpoint
    from stream_processors.settings import load_settings
    from stream_processors.worker import build_worker

    class FaultyCheckpoint(Checkpoint):
        def __init__(self, parts):
            jobs = tuple(map(with_faults, parts.jobs))
            importable = import_module("tests.simulators.faulty_worker").faulty_jobs  # not this __main__'s
            super().__init__(replace(parts, jobs=jobs, trial_jobs=partial(importable, parts.lake.root)))

    logging.basicConfig(level=logging.INFO)
    build_worker(load_settings(), FaultyCheckpoint).run()


if __name__ == "__main__":
    main()
