"""The child process in which a new model is tried, fed by its parent over a pipe.

In: a line of JSON {bundle, profile}; then per window a line {device, no, shape, dtype} and the samples'
bytes. Out, a line of JSON each: {ready} once the golden vectors hold, or {failed}; then {device, no, score,
took_s}, with {outside} where a score is none. A crash here harms no other process. Ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edge_producer.bundle import open_bundle
from edge_producer.inference import OnnxPredictor
from schemas.errors import BundleError
from schemas.profile import Profile
from schemas.score_range import usable_score

NICENESS = 5
"""Lower priority than the sensing loops of the same machine."""
EXIT_DONE, EXIT_FAILED = 0, 3
_MAX_SAMPLES_BYTES = 64 * 1024**2


def main() -> int:
    """Answer windows until the input ends."""
    os.nice(NICENESS)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    request = json.loads(source.readline())
    begun = time.perf_counter()
    try:
        bundle = open_bundle(Path(request["bundle"]))
        predictor = OnnxPredictor(bundle, Profile.model_validate(request["profile"]))
    except BundleError as exc:
        _write(sink, {"failed": str(exc)})
        return EXIT_FAILED
    _write(sink, {"ready": True, "load_s": time.perf_counter() - begun})
    while line := source.readline():
        _write(sink, _answer(predictor, json.loads(line), source))
    return EXIT_DONE


def _answer(predictor: OnnxPredictor, request: Mapping[str, Any], source: BinaryIO) -> dict[str, Any]:
    shape = tuple(request["shape"])
    size = int(np.prod(shape)) * np.dtype("<f4").itemsize
    if not 0 <= size <= _MAX_SAMPLES_BYTES:
        raise SystemExit(EXIT_FAILED)
    samples = np.frombuffer(source.read(size), dtype="<f4").reshape(shape)
    begun = time.perf_counter()
    try:
        _, score = predictor.score(request["device"], samples)
    except BundleError:
        score = None
    usable = usable_score(score)
    took_s = time.perf_counter() - begun
    answer = {"device": request["device"], "no": request["no"], "score": usable.score, "took_s": took_s}
    # A number that JSON may not hold goes as text.
    return {**answer, "outside": str(score)} if usable.outside else answer


def _write(sink: BinaryIO, answer: Mapping[str, Any]) -> None:
    sink.write(json.dumps(answer).encode() + b"\n")
    sink.flush()


if __name__ == "__main__":
    sys.exit(main())
