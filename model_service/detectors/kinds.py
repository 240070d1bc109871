"""The detectors that `fit` chooses among, by name; and those that a profile's own factory fits."""

from __future__ import annotations

from model_service.detectors.detector import AnomalyDetector, DetectorKind
from model_service.detectors.forecast_residual import FORECAST
from model_service.detectors.mahalanobis_kind import MAHALANOBIS
from model_service.detectors.principal_components import PCA
from model_service.detectors.robust_reference import ROBUST_REFERENCE
from schemas.errors import BundleError
from schemas.manifest import Manifest
from schemas.plug_ins import load_plug_in

GROUP = "edgeloop.detectors"
"""Group of entry points, each a ``DetectorKind`` under its own name: detectors that `fit` does not try, but
that the loop moves to a new regime, and the gate builds again, as ours."""
KINDS: tuple[DetectorKind, ...] = (MAHALANOBIS, ROBUST_REFERENCE, PCA, FORECAST)
"""In the order in which equals are preferred."""


def kind_named(name: str) -> DetectorKind:
    """The kind of this name; empty: what manifests meant before there was a choice.

    Raises:
        BundleError: There is none.
    """
    for kind in KINDS:
        if kind.name == (name or MAHALANOBIS.name):
            return kind
    ours = ", ".join(kind.name for kind in KINDS)
    loaded: DetectorKind = load_plug_in(
        GROUP,
        name,
        "detector",
        BundleError,
        lambda known: f"there is no detector '{name}'; there are: {ours}, {known}",
    )
    return loaded


def detector_of(manifest: Manifest) -> AnomalyDetector:
    """The detector whose parameters a manifest holds.

    Raises:
        BundleError: It holds none that this release knows.
    """
    return kind_named(manifest.detector).of(manifest)
