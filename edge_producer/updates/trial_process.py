"""The child process in which a new model is tried, fed by its parent over a pipe.

In: a line of JSON {bundle, profile}; then per window a line {device, no, shape, dtype} and the samples'
bytes. Out, a line of JSON each: {ready} once the golden vectors hold, or {failed}; then {device, no, score,
took_s, alarm}, with {outside} where a score is none. A line {device, shape, active, reference} and a device's
healthy windows ask what two models detect of faults: {device, faults} answers. A crash here harms no other
process. Ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edge_producer.bundle import Bundle, open_bundle
from edge_producer.golden_vectors import read_golden
from edge_producer.inference import OnnxPredictor
from edge_producer.updates.fault_trial import NO_EFFECTS, FaultTrial, TrialModel, compare_on_faults
from edge_producer.window import Samples
from edge_producer.window_scoring import further_outputs
from schemas.alarm_bounds import AlarmBounds
from schemas.errors import BundleError
from schemas.instants import from_us
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
    begun, profile = time.perf_counter(), Profile.model_validate(request["profile"])
    try:
        bundle = open_bundle(Path(request["bundle"]))
        predictor = OnnxPredictor(bundle, profile)
    except BundleError as exc:
        _write(sink, {"failed": str(exc)})
        return EXIT_FAILED
    _write(sink, {"ready": True, "load_s": time.perf_counter() - begun})
    while line := source.readline():
        request = json.loads(line)
        samples = _samples(request, source)
        if "active" in request:
            _write(
                sink,
                {"device": request["device"], "faults": asdict(_faults(bundle, profile, request, samples))},
            )
        else:
            _write(sink, _answer(predictor, profile, request, samples))
    return EXIT_DONE


def _samples(request: Mapping[str, Any], source: BinaryIO) -> Samples:
    shape = tuple(request["shape"])
    size = int(np.prod(shape)) * np.dtype("<f4").itemsize
    if not 0 <= size <= _MAX_SAMPLES_BYTES:
        raise SystemExit(EXIT_FAILED)
    return np.frombuffer(source.read(size), dtype="<f4").reshape(shape)


def _faults(bundle: Bundle, profile: Profile, request: Mapping[str, Any], windows: Samples) -> FaultTrial:
    effects = read_golden(bundle.golden, bundle.manifest.version).effects
    if effects is None:
        return FaultTrial(not_tried=NO_EFFECTS)
    try:
        old = TrialModel(open_bundle(Path(request["active"])), profile, request["reference"])
        new = TrialModel(bundle, profile, None)
        ends = np.array(request["ends_us"], dtype=np.int64)
        return compare_on_faults(old, new, windows, effects, AlarmBounds.of(profile.decision), ends)
    except BundleError as exc:
        return FaultTrial(not_tried=str(exc)[:300])


def _answer(
    predictor: OnnxPredictor, profile: Profile, request: Mapping[str, Any], samples: Samples
) -> dict[str, Any]:
    begun = time.perf_counter()
    further: Mapping[str, float | None] = {}
    try:
        numbers, score = predictor.score(request["device"], samples, from_us(request["ends_us"][0]))
        further = further_outputs(profile.model.outputs, numbers)
    except BundleError:
        score = None
    usable = usable_score(score)
    took_s = time.perf_counter() - begun
    answer = {"device": request["device"], "no": request["no"], "score": usable.score, "took_s": took_s}
    answer["alarm"] = AlarmBounds.of(profile.decision).raised(usable.score, further)
    # A number that JSON may not hold goes as text.
    return {**answer, "outside": str(score)} if usable.outside else answer


def _write(sink: BinaryIO, answer: Mapping[str, Any]) -> None:
    sink.write(json.dumps(answer).encode() + b"\n")
    sink.flush()


if __name__ == "__main__":
    sys.exit(main())
