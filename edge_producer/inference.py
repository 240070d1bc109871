"""The room's only door to onnxruntime: raw window to features and score, one thread, one window at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edge_producer.bin_edges import bin_edges
from edge_producer.bundle import BUNDLES, Bundle, check_fit, load_bundle
from edge_producer.golden_vectors import golden_extras, read_golden
from edge_producer.kept_inputs import KeptInputs
from edge_producer.missing_channels import (
    missing_channels,
    required_by_model,
    required_by_profile,
    without,
)
from edge_producer.reference import DeviceReference, smallest_spreads
from edge_producer.row_ends import RowEnds
from edge_producer.switch_interval import SWITCH_INTERVAL
from edge_producer.wide_channels import WideChannels
from edge_producer.window import Floats, Predictor, Samples
from schemas.calendar_features import CALENDAR
from schemas.errors import BundleError
from schemas.feature_set import FEATURE_KINDS
from schemas.history_spec import HISTORY
from schemas.manifest import ANY_FEATURESET, Manifest
from schemas.output_names import PRIMARY
from schemas.profile import Profile
from schemas.recent_level import RECENT
from schemas.score_part import ROWS
from schemas.score_range import ROUNDING, score_excess

RUNTIME_VERSION: str = ort.__version__
RUNTIME = f"onnxruntime {RUNTIME_VERSION}"
"""Name and version of the runtime, as reports give it."""
KINDS = tuple(FEATURE_KINDS)
_OUTPUTS = ("features", "score")
_GENERIC = ("columns", "center", "spread")
_FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxSession:
    """A loaded graph.

    Args:
        bundle: Holds the graph and its manifest.

    Raises:
        BundleError: onnxruntime cannot load the graph.
    """

    def __init__(self, bundle: Bundle) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        self._version = bundle.manifest.version
        self._outputs = (*_OUTPUTS, *bundle.manifest.output_columns)
        with self._translated():
            self._session = ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"])

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return tuple(given.name for given in self._session.get_inputs())

    def score_rows(
        self, rows: Floats, extra: Mapping[str, NDArray[np.generic]], columns: Sequence[str] = (PRIMARY,)
    ) -> NDArray[np.float64]:
        """Outputs of rows of features, shape (n, O), by a graph that ``score_part`` cut.

        Args:
            rows: Shape (n, F).
            extra: Further inputs by name.
            columns: Names of the outputs in the graph.

        Raises:
            BundleError: The graph does not take these inputs, or gives scores of another shape.
        """
        given = {name: extra[name] for name in self.inputs if name != ROWS}
        with self._translated():
            found = self._session.run(columns, {ROWS: rows.astype(np.float32), **given})
        for score in found:
            if score.shape != (len(rows),):
                what = f"scores of shape {score.shape} for {len(rows)} rows"
                raise BundleError(f"model {self._version}: {what}")
        return np.stack(found, axis=1).astype(np.float64)

    def run(self, windows: Samples, extra: Mapping[str, NDArray[np.generic]]) -> tuple[Floats, Floats]:
        """Outputs of a batch.

        Args:
            windows: Shape (B, W, C).
            extra: Further inputs by name.

        Returns:
            Features, shape (B, F), and scores, shape (B,), NaN where there is none.

        Raises:
            BundleError: The graph does not take these inputs.
        """
        features, score, *_ = self.run_all(windows, extra)
        return features, score

    def run_all(self, windows: Samples, extra: Mapping[str, NDArray[np.generic]]) -> list[Floats]:
        """As ``run``; behind features and score comes each further output, shape (B,)."""
        given = {"window": windows, **extra}
        SWITCH_INTERVAL.waits()
        try:  # not by the context manager: this is done for every window
            found: list[Floats] = self._session.run(self._outputs, given)
        except _FAILURES as exc:
            raise BundleError(f"model {self._version}: {exc}") from exc
        finally:
            SWITCH_INTERVAL.computes()
        return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as exc:
            raise BundleError(f"model {self._version}: {exc}") from exc


class OnnxPredictor:
    """Runs a bundle's graph on one profile's windows. Keeps a reference per device for ``robust``.

    Args:
        bundle: Its digests are verified; here it is checked against the profile and its golden vectors.
        profile: Gives channels and features, and how many samples may be missing.

    Raises:
        BundleError: The model does not fit, cannot be loaded or misses its golden vectors.
    """

    def __init__(self, bundle: Bundle, profile: Profile) -> None:
        check_fit(bundle.manifest, profile)
        self._manifest = bundle.manifest
        self._session = OnnxSession(bundle)
        check_inputs(self._session, bundle.manifest)
        check_golden(self._session, bundle)
        self._ends = RowEnds(bundle.manifest, profile)
        self._profile = profile
        self._generic = bundle.manifest.featureset == ANY_FEATURESET
        self._required = required_by_model(bundle.manifest, profile) | required_by_profile(profile)
        self._columns = feature_columns(profile)
        self._floors = smallest_spreads(profile)
        self._references: dict[str, DeviceReference] = {}
        self._kept = KeptInputs(bundle.manifest, profile)
        self._wide_channels = WideChannels(profile)
        self._bin_edges = bin_edges(bundle.manifest, profile)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._manifest

    @property
    def version(self) -> str:
        """Model version as stated in rows."""
        return self._manifest.version

    @property
    def featureset(self) -> str:
        """Feature set that the rows carry."""
        return self._profile.featureset

    @property
    def bin_edges(self) -> Mapping[str, NDArray[np.float64]]:
        """Ascending inner bin edges by feature, the score included."""
        return self._bin_edges

    def score(
        self, device_id: str, samples: Samples, at: datetime | None = None
    ) -> tuple[Floats, float | None]:
        """Numbers and score of one window; see ``Predictor.score``.

        The score is None while the reference warms up, and if a channel or feature that the model or the
        profile needs is missing.
        """
        reference, ends = self._reference(device_id), self._ends
        extra = ends.inputs(at) if reference is None else self._reference_inputs(reference)
        kept = self._kept if self._kept.parts else None
        if kept is not None:
            extra = {**extra, **kept.inputs(device_id, at)}
        wide = self._wide_channels
        # A model that was trained saw values as they are; the generic one compares with the device's own.
        given = wide.moved(device_id, samples) if wide.any and self._generic else samples
        given = given.astype(np.float32, copy=False)
        features, scores, *further = self._session.run_all(given[np.newaxis], extra)
        shown: Floats = wide.placed(samples, features[0]) if wide.any else features[0]
        learnt, missing = features[0], missing_channels(samples, self._profile.sampling.max_missing)
        if missing.any():
            if (missing & self._required).any():
                if kept is not None:
                    kept.add(device_id, features[0], at)
                return (ends.append(shown, at, ()) if ends.any else shown), None
            # The row keeps what the few samples of a missing channel say; score and reference do without.
            masked, scores, *further = self._session.run_all(without(given, missing)[np.newaxis], extra)
            learnt = masked[0]
        raw = float(scores[0])
        score = raw if raw == raw else None  # noqa: PLR0124  (NaN is the only value unequal to itself)
        if reference is not None:
            reference.learn(learnt, score)
        if kept is not None:
            kept.add(device_id, learnt, at)
        return (ends.append(shown, at, further) if ends.any else shown), score

    def take_over(self, device_id: str, predecessor: Predictor) -> None:
        """Copy the device's reference, if both models are of the generic kind.

        Of another version it goes on judging, and is learnt anew: a new model thaws it.
        """
        known = predecessor.reference(device_id) if isinstance(predecessor, OnnxPredictor) else None
        if self._generic and known is not None:
            copied = self._references[device_id] = known.copy()
            if isinstance(predecessor, OnnxPredictor):
                self._wide_channels.take_over(device_id, predecessor.wide_channels)
            if predecessor.version != self.version:
                copied.thaw()

    def export_kept(self, device_id: str) -> dict[str, Any]:
        """See ``KeepsInputs``."""
        return self._kept.export(device_id)

    def restore_kept(self, device_id: str, name: str, state: Mapping[str, Any]) -> None:
        """See ``KeepsInputs``."""
        self._kept.restore(device_id, name, state)

    def go_on_from(self, device_id: str, predecessor: Predictor) -> None:
        """See ``KeepsInputs``."""
        if isinstance(predecessor, OnnxPredictor):
            self._kept.go_on_from(device_id, predecessor.kept)

    @property
    def kept(self) -> KeptInputs:
        """What devices keep for the graph."""
        return self._kept

    @property
    def wide_channels(self) -> WideChannels:
        """Where the samples of wide channels are counted from."""
        return self._wide_channels

    def reference(self, device_id: str) -> DeviceReference | None:
        """The device's reference; None where there is none or it has not begun."""
        return self._references.get(device_id)

    def export_reference(self, device_id: str) -> dict[str, Any] | None:
        """See ``LearnsReference``."""
        known = self._references.get(device_id)
        return None if known is None else {**known.export(), **self._wide_channels.export(device_id)}

    def restore_reference(self, device_id: str, state: Mapping[str, Any]) -> None:
        """See ``LearnsReference``."""
        if self._generic:
            anew = self._new_reference()
            anew.restore(state)
            self._wide_channels.restore(device_id, state)
            self._references[device_id] = anew

    def relearn(self, device_id: str) -> None:
        """See ``LearnsReference``."""
        self._references.pop(device_id, None)
        self._wide_channels.forget(device_id)

    def frozen(self, device_id: str) -> tuple[int, int]:
        """See ``LearnsReference``."""
        known = self._references.get(device_id)
        frozen = 0 if known is None else int(known.frozen.sum())
        return frozen, len(self._floors) if self._generic else 0

    def _reference(self, device_id: str) -> DeviceReference | None:
        if not self._generic:
            return None
        if device_id not in self._references:
            self._references[device_id] = self._new_reference()
        return self._references[device_id]

    def _new_reference(self) -> DeviceReference:
        model = self._profile.model
        return DeviceReference(self._floors, model.reference_windows, model.warmup_windows)

    def _reference_inputs(self, reference: DeviceReference) -> dict[str, NDArray[np.generic]]:
        return {"columns": self._columns, "center": reference.center, "spread": reference.spread}


def load_predictor(profile: Profile, folder: Path = BUNDLES) -> OnnxPredictor:
    """The predictor of the bundle that the profile names.

    Raises:
        BundleError: It is missing, altered, does not fit or misses its golden vectors.
    """
    return OnnxPredictor(load_bundle(profile, folder), profile)


def feature_columns(profile: Profile) -> NDArray[np.int64]:
    """Index ``channel * len(FEATURE_KINDS) + kind`` of each built-in feature of one of the channels."""
    channels = profile.channel_names
    specs = [s for s in profile.feature_specs() if s.built_in]
    indices = [channels.index(s.channel) * len(KINDS) + KINDS.index(s.kind) for s in specs]
    return np.array(indices, dtype=np.int64)


def check_inputs(session: OnnxSession, manifest: Manifest) -> None:
    """Refuse a graph that asks for what a device does not give it.

    Raises:
        BundleError: Names the inputs, and says what to do.
    """
    kept = {HISTORY: bool(manifest.history), RECENT: bool(manifest.recent), CALENDAR: bool(manifest.calendar)}
    generic = manifest.featureset == ANY_FEATURESET
    given = {"window", *(_GENERIC if generic else ()), *(name for name, read in kept.items() if read)}
    unknown = sorted(set(session.inputs) - given)
    if unknown:
        raise BundleError(
            f"model {manifest.version}: its graph asks for {', '.join(unknown)}, which its manifest does not "
            "name or this release of the device does not keep: install a newer release on the device, or "
            "give it a model that does without"
        )


def check_golden(session: OnnxSession, bundle: Bundle) -> None:
    """Run the golden windows one by one, as a device does.

    Features of the calendar are computed here from the windows' event times: a machine whose time zones are
    others than the maker's misses them.

    Raises:
        BundleError: An output lies outside the manifest's tolerance.
    """
    manifest = bundle.manifest
    version, tolerance = manifest.version, manifest.tolerance
    golden = read_golden(bundle.golden, version)
    extras = golden_extras(golden, manifest)
    for number, window in enumerate(golden.windows):
        expected = golden.expected[number]
        features, *scores = session.run_all(window[np.newaxis], extras[number])
        got = np.concatenate([features[0], *scores])
        for score in (float(s[0]) for s in scores):
            if score_excess(score) > ROUNDING:
                what = f"golden window {number} scores {score:.3g}, outside [0, 1]"
                raise BundleError(f"model {version}: {what}")
        if not np.allclose(got, expected, tolerance.relative, tolerance.absolute, equal_nan=True):
            off = np.nanmax(np.abs(got - expected))
            raise BundleError(f"model {version}: golden window {number} misses its outputs by {off:.3g}")
