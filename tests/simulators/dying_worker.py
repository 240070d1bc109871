"""A real stream worker that kills itself with -9 right after a step of the checkpoint.

python -m tests.simulators.dying_worker STEP TIMES
"""

import logging
import os
import signal
import sys

STEP, TIMES = sys.argv[1], int(sys.argv[2])
sys.argv = sys.argv[:1]  # Faust reads options from argv when it is imported

from stream_processors.engine.checkpoint import Checkpoint  # noqa: E402
from stream_processors.settings import load_settings  # noqa: E402
from stream_processors.worker import build_worker  # noqa: E402

logging.basicConfig(level=logging.INFO)
done = 0


def dying(self, *args, **kwargs):
    global done  # noqa: PLW0603
    result = getattr(Checkpoint, STEP)(self, *args, **kwargs)
    done += bool(args[0]) if STEP in ("apply", "conclude") else result is not None
    if done >= TIMES:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


build_worker(load_settings(), type("Dying", (Checkpoint,), {STEP: dying})).run()
