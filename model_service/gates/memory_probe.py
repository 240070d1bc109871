"""``python -m model_service.gates.memory_probe 1 W C < model.onnx``: the memory that a model takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from model_service.models.runtime import OrtGraph

WINDOWS = 20
STATUS = Path("/proc/self/status")


def main(shape: list[int]) -> None:
    """Load the model from standard input, run it, and print how much memory that took."""
    model = sys.stdin.buffer.read()
    before = kilobytes("VmRSS")
    graph = OrtGraph(model, "candidate")
    rng = np.random.default_rng(0)
    for _ in range(WINDOWS):
        graph.run(("features", "score"), {"window": rng.uniform(-1, 1, shape).astype(np.float32)})
    sys.stdout.write(json.dumps({"added_mb": max(kilobytes("VmHWM") - before, 0) / 1024}) + "\n")


def kilobytes(field: str) -> int:
    """A field of this process's status in ``/proc``, in KiB.

    ``getrusage`` is no substitute: its peak survives ``exec``, so it would be the parent's.
    """
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[field].split()[0])


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]])
