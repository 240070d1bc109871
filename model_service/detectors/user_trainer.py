"""A user's trainer as a kind of detector: its graphs, fitted in a child process, are calibrated as ours."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.detector import DetectorKind, Settings
from model_service.detectors.kinds import KINDS
from model_service.detectors.scaling import OnScaling, Scaling, calibration_of
from model_service.detectors.trained_mark import MARK
from model_service.detectors.trainer_child import LENGTH, request_of, write_message
from model_service.detectors.trainer_interface import GROUP, TrainerInput
from model_service.models.graph import GraphWriter, nan_where_missing, write_output
from model_service.models.imported_graph import ImportedGraph, ImportedRunner, imported_graph
from model_service.models.learnt_model import with_outputs
from model_service.models.mahalanobis import calibrated, write_calibration
from schemas.errors import BundleError, DatasetError
from schemas.manifest import Calibration, Manifest
from schemas.profile import Profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

CHILD = "model_service.detectors.trainer_child"
FIT_S = 300.0
"""Longest time of one fit."""
BLOCKS = 5
"""Blocks of the cross-fitting behind the threshold: a trainer may take seconds for each."""


class TrainerProcess:
    """The child that a trainer runs in; started with the first fit.

    Args:
        name: Of the entry point.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._child: subprocess.Popen[bytes] | None = None

    def fit(self, given: TrainerInput) -> bytes:
        """The graph that the trainer makes.

        Raises:
            DatasetError: It raised, ended, or took too long.
        """
        child = self._started()
        try:
            write_message(cast("BinaryIO", child.stdin), request_of(given))
            answer = self._answer(child)
        except (OSError, EOFError) as exc:
            self.close()
            raise DatasetError(f"trainer {self._name}: its process ended: {exc}".rstrip(": ")) from exc
        if answer[:1] != b"=":
            raise DatasetError(f"trainer {self._name}: {answer[1:].decode(errors='replace')}")
        return answer[1:]

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()  # its output is not read to its end: a fork may hold it open
            for pipe in (self._child.stdin, self._child.stdout):
                with suppress(OSError):
                    cast("BinaryIO", pipe).close()
            self._child = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            # One thread: sums in another order would give other bytes, which the gate refuses.
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self._child = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-m", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **threads},
            )
            head = {"name": self._name, "path": sys.path}
            write_message(cast("BinaryIO", self._child.stdin), json.dumps(head).encode())
        return self._child

    def _answer(self, child: subprocess.Popen[bytes]) -> bytes:
        pipe = cast("BinaryIO", child.stdout)
        ready, _, _ = select.select([pipe], [], [], FIT_S)
        if not ready:
            raise EOFError(f"no answer within {FIT_S:.0f} s")
        head = pipe.read(LENGTH.size)
        if len(head) < LENGTH.size:
            raise EOFError(f"exit code {child.wait()}")
        return pipe.read(LENGTH.unpack(head)[0])


@dataclass(frozen=True, eq=False)
class TrainedGraph(OnScaling):
    """A detector that a user's trainer made: its graph gives the distance."""

    graph: ImportedGraph
    scaling: Scaling
    calibration: Calibration

    @cached_property
    def _runner(self) -> ImportedRunner:
        return self.graph.runner()

    def distance(self, features: Array) -> Array:
        """What the graph says of each row of (n, F); NaN where a feature is missing."""
        return np.asarray(np.maximum(self._run(features)[:, 0], 0.0))

    def further(self, features: Array) -> Array:
        """Further outputs of each row of (n, F), shape (n, O); NaN where a feature is missing."""
        return self._run(features)[:, 1:]

    def _run(self, features: Array) -> Array:
        complete = np.isfinite(features).all(axis=1)
        found = np.full((len(features), 1 + len(self.graph.further)), np.nan)
        if complete.any():
            found[complete] = self._runner.run_all(features[complete])
        return found

    def score(self, features: Array) -> Array:
        """See ``AnomalyDetector.score``."""
        return calibrated(self.distance(features), self.calibration)

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """None: the next model starts from the rows alone."""
        return {}

    def moved_to(self, _mean: Array, _std: Array) -> TrainedGraph:
        """Itself: only its trainer can fit it to another regime."""
        return self

    def calibrated_by(self, calibration: Calibration) -> TrainedGraph:
        """See ``AnomalyDetector.calibrated_by``."""
        return replace(self, calibration=calibration)

    def write(self, writer: GraphWriter, features: str) -> str:
        """See ``AnomalyDetector.write``."""
        return self.write_all(writer, features)[0]

    def write_all(self, writer: GraphWriter, features: str) -> tuple[str, ...]:
        """See ``GivesOutputs.write_all``."""
        raw, *further = self.graph.write_all(writer, features)
        distance = writer.op("Max", raw, writer.floats(0.0))
        score = write_calibration(writer, distance, self.calibration)
        outputs = (write_output(writer, name, features) for name in further)
        return (nan_where_missing(writer, features, score), *outputs)


def trainer_names() -> list[str]:
    """Trainers that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


@contextmanager
def detector_kinds(profile: Profile, seed: int) -> Iterator[tuple[DetectorKind, ...]]:
    """What a model of this profile is chosen among: the trainer that it names, else ours.

    Args:
        profile: Names its trainer in ``[training] trainer``, or none.
        seed: Given to the trainer.

    Raises:
        DatasetError: The trainer is not installed here, or there is none, and the profile names outputs.
    """
    name = profile.training.trainer
    if not name:
        if profile.model.outputs:
            with_outputs(None, profile)
        yield KINDS
        return
    if name not in (known := trainer_names()):
        there = ", ".join(known) or "none"
        raise DatasetError(
            f"profile {profile.name} names the trainer '{name}', which is not installed here (there: {there})"
            ": install its package where the model service runs, or take the key out of the profile"
        )
    process = TrainerProcess(name)
    try:
        yield (_kind(name, process, profile, seed),)
    finally:
        process.close()


def _kind(name: str, process: TrainerProcess, profile: Profile, seed: int) -> DetectorKind:
    def fit(features: Array, logged: Flags, _settings: Settings) -> TrainedGraph:
        given = TrainerInput(features.astype(np.float32), profile.feature_names, seed)
        made = process.fit(given)
        try:
            return calibrated_graph(imported_graph(made, profile), features, logged)
        except BundleError as exc:
            raise DatasetError(f"the graph of trainer {name}: {exc}") from exc

    def of(manifest: Manifest) -> TrainedGraph:
        raise BundleError(f"model {manifest.version}: only its trainer can make its detector again")

    return DetectorKind(f"{MARK}{name}", "what your trainer measures", ({},), fit, of, BLOCKS)


def calibrated_graph(graph: ImportedGraph, features: Array, logged: Flags) -> TrainedGraph:
    """A trainer's graph, calibrated on healthy rows of features (n, F).

    Raises:
        BundleError: It breaks the rules of trainers' graphs.
    """
    if graph.reads != "features":
        raise BundleError("it reads raw windows: a trainer's graph must read features")
    every = graph.runner().run_all(features)
    given = every[:, 0]
    if not np.isfinite(given).all() or given.min() < 0:
        raise BundleError("it must give each window a distance of 0 or more, larger where less healthy")
    raw = TrainedGraph(graph, Scaling.moments(features, logged), Calibration(middle=1.0, slope=1.0))
    return raw.calibrated_by(calibration_of(given))
