"""`python -m stream_processors worker`: one stream worker, until SIGTERM; it runs `job` for users' jobs."""

from __future__ import annotations

import gc
import logging
import sys

GC_THRESHOLDS = (50_000, 10, 10)
"""Fetched messages are tuples by the ten thousand; at Python's 700 the collector walks them all the time, for
half the time that fetching them takes."""
MAPPED_BYTES, KEPT_BYTES = 32 * 1024**2, 64 * 1024**2
"""What glibc keeps for the next batches."""
_USAGE = "usage: python -m stream_processors worker   (settings: STREAM_* variables)\n"
_JOB_ARGUMENTS = 5


def main() -> int:
    """Run a worker, or for a worker a job; exit code 0 done, 1 failed, 2 misuse."""
    if sys.argv[1:2] == ["job"] and len(sys.argv) == 1 + _JOB_ARGUMENTS:
        return _job(*sys.argv[2:])
    if sys.argv[1:] != ["worker"]:
        sys.stderr.write(_USAGE)
        return 2
    sys.argv = sys.argv[:1]  # Faust reads options from argv when it is imported
    from schemas.errors import PipelineError  # noqa: PLC0415  (after argv is clean)
    from schemas.folder_access import guard_folder  # noqa: PLC0415
    from schemas.kept_memory import keep_memory  # noqa: PLC0415
    from schemas.log_lines import log_to_stderr  # noqa: PLC0415
    from stream_processors.settings import load_settings  # noqa: PLC0415
    from stream_processors.worker import build_worker  # noqa: PLC0415  (imports Faust)

    log_to_stderr()
    keep_memory(MAPPED_BYTES, KEPT_BYTES)
    try:
        settings = load_settings()
        guard_folder(settings.lake_root, settings.data_group)
        worker = build_worker(settings)
        gc.collect()
        gc.freeze()  # what is loaded by now stays
        gc.set_threshold(*GC_THRESHOLDS)
        worker.run()
    except PipelineError as exc:
        logging.getLogger(__name__).critical("%s: %s", type(exc).__name__, exc)
        return 1
    return 0


def _job(name: str, control: str, report: str, worker: str) -> int:
    """Run a user's job for the worker that started this process; only that knows the arguments."""
    from schemas.confined import confine  # noqa: PLC0415
    from schemas.errors import PipelineError  # noqa: PLC0415
    from stream_processors.settings import load_settings  # noqa: PLC0415
    from stream_processors.user_jobs.job_child import NICENESS, WorkerLink, run_job  # noqa: PLC0415

    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s %(levelname)s job {name}: %(name)s: %(message)s"
    )
    settings = load_settings()
    confine(int(worker), settings.job_memory_mb, NICENESS)
    try:
        return run_job(name, WorkerLink(int(control), int(report)), settings)
    except PipelineError as exc:
        logging.getLogger(__name__).critical("%s: %s", type(exc).__name__, exc)
        return 1


if __name__ == "__main__":
    sys.exit(main())
