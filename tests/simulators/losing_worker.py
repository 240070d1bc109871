"""A real stream worker that loses every third fetch between the client and its buffers.

python -m tests.simulators.losing_worker
"""

import logging
import sys
from itertools import count

sys.argv = sys.argv[:1]  # Faust reads options from argv when it is imported

from stream_processors.settings import load_settings  # noqa: E402
from stream_processors.worker import build_worker  # noqa: E402

logging.basicConfig(level=logging.INFO)
door, fetches = build_worker(load_settings()), count()
receive = door.receive


async def losing(tp, records):
    if next(fetches) % 3:
        await receive(tp, records)
    else:
        logging.info("LOST %d of %s", len(records), tp)


door.receive = losing
door.run()
