"""`python -m stream_processors worker`: one stream worker, until SIGTERM."""

from __future__ import annotations

import logging
import sys

_USAGE = "usage: python -m stream_processors worker   (settings: STREAM_* variables)\n"


def main() -> int:
    """Run a worker; exit code 0 done, 1 failed, 2 misuse."""
    if sys.argv[1:] != ["worker"]:
        sys.stderr.write(_USAGE)
        return 2
    sys.argv = sys.argv[:1]  # Faust reads options from argv when it is imported
    from schemas.errors import PipelineError  # noqa: PLC0415  (after argv is clean)
    from schemas.folder_access import guard_folder  # noqa: PLC0415
    from schemas.log_lines import log_to_stderr  # noqa: PLC0415
    from stream_processors.settings import load_settings  # noqa: PLC0415
    from stream_processors.worker import build_worker  # noqa: PLC0415  (imports Faust)

    log_to_stderr()
    try:
        settings = load_settings()
        guard_folder(settings.lake_root, settings.data_group)
        build_worker(settings).run()
    except PipelineError as exc:
        logging.getLogger(__name__).critical("%s: %s", type(exc).__name__, exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
