"""What devices tried on the broker and may not do, as its log tells."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from infra.kafka.kafka_config import DEVICE_PRINCIPAL

TAIL_BYTES = 256 * 1024
"""How much of the log's end is looked at."""
_DENIED = re.compile(
    rf"Principal = User:{DEVICE_PRINCIPAL}(\S+) is Denied operation = (\w+) .*? on resource = (\w+):\w+:(\S+)"
)


def denied(text: str) -> Counter[str]:
    """How often each device tried each thing: ``p-1: READ Topic telemetry.v1``."""
    return Counter(f"{m[1]}: {m[2]} {m[3]} {m[4]}" for m in _DENIED.finditer(text))


def newest_denied(log_path: Path) -> dict[str, int]:
    """The same from the end of the broker's log, most frequent first; empty where there is none."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return {}
    return dict(denied(text).most_common())
