"""``python -m model_service serve | engine | guard | trainer | gate``: runs one process."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading

from model_service.processes import PROCESSES
from model_service.settings import load_settings
from schemas.errors import PipelineError
from schemas.escaping import escaped_block
from schemas.folder_access import guard_folder
from schemas.log_lines import log_to_stderr

log = logging.getLogger("model_service")

EXIT_DONE, EXIT_FAILED, EXIT_MISUSE = 0, 1, 2


def main(argv: list[str]) -> int:
    """Run one process until a signal comes."""
    if len(argv) != 1 or argv[0] not in PROCESSES:
        sys.stderr.write(
            f"usage: python -m model_service {' | '.join(PROCESSES)}   (settings: MODEL_* variables)\n"
        )
        return EXIT_MISUSE
    log_to_stderr()
    for chatty in ("alembic", "tuf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        settings = load_settings()
    except (ValueError, PipelineError) as exc:
        sys.stderr.write(escaped_block(f"model_service: {exc}\n"))
        return EXIT_MISUSE
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # gRPC's core reads this when it is imported. Else each handshake that fails writes a line, and strangers
    # can fill the log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        guard_folder(settings.root, settings.data_group)
        importlib.import_module(PROCESSES[argv[0]]).run(settings, stop)
    except PipelineError as exc:
        log.error("%s: %s", type(exc).__name__, exc)  # noqa: TRY400  (the message says what to do)
        return EXIT_FAILED
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
