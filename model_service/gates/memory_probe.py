"""``python -m model_service.gates.memory_probe window:1xWxC < model.onnx``: the memory that a model takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from model_service.models.runtime import OrtGraph

WINDOWS = 20
STATUS = Path("/proc/self/status")


def main(shapes: dict[str, tuple[int, ...]]) -> None:
    """Load the model from standard input, run it, and print how much memory that took.

    Args:
        shapes: Of its inputs, by name.
    """
    model = sys.stdin.buffer.read()
    before = kilobytes("VmRSS")
    graph = OrtGraph(model, "candidate")
    rng = np.random.default_rng(0)
    for _ in range(WINDOWS):
        feed = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
        graph.run(("features", "score"), feed)
    sys.stdout.write(json.dumps({"added_mb": max(kilobytes("VmHWM") - before, 0) / 1024}) + "\n")


def kilobytes(field: str) -> int:
    """A field of this process's status in ``/proc``, in KiB.

    ``getrusage`` is no substitute: its peak survives ``exec``, so it would be the parent's.
    """
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[field].split()[0])


if __name__ == "__main__":
    stated = (text.split(":", 1) for text in sys.argv[1:])
    main({name: tuple(int(n) for n in shape.split("x")) for name, shape in stated})
