"""Gates on where a candidate comes from: it fits its profile, names its run, and can be built again."""

from __future__ import annotations

from collections.abc import Mapping

from model_service.gates.verdict import GateVerdict
from model_service.models.bundle_files import BundleFiles
from schemas.manifest import Manifest
from schemas.profile import Profile

FIT, LINEAGE, REBUILD = "fit", "lineage", "rebuild"


def judge_fit(manifest: Manifest, champion: Manifest, profile: Profile) -> GateVerdict:
    """It was made for the profile's windows and features, and uses the champion's bin edges for the score.

    A manifest that states no length or rate of windows fits any, as on the device.
    """
    sampling = profile.sampling
    pairs = {
        "name": (manifest.family, profile.model.family),
        "featureset": (manifest.featureset, profile.featureset),
        "features": (manifest.features, profile.feature_names),
        "channels": (
            tuple((c.name, c.unit) for c in manifest.channels),
            tuple((c.name, c.unit) for c in profile.channels),
        ),
        "window": (
            (manifest.window_samples or sampling.window_samples, manifest.rate_hz or sampling.rate_hz),
            (sampling.window_samples, sampling.rate_hz),
        ),
        "hardware": (manifest.hardware, profile.model.hardware),
        "runtime": (manifest.runtime, profile.model.runtime),
        "outputs": (manifest.outputs, profile.model.outputs),
        "calendar": (
            (manifest.calendar, manifest.time_zone),
            (profile.features.calendar, profile.calendar_zone),
        ),
        "history": (manifest.history, manifest.history and profile.model.history_sums),
        "score edges": (manifest.bin_edges.get("score"), champion.bin_edges.get("score")),
    }
    return _judge(FIT, pairs, "made for this profile")


def judge_lineage(manifest: Manifest, expected: Mapping[str, object]) -> GateVerdict:
    """The manifest names the run, cut, pin and champion that the registry has on record."""
    lineage = manifest.lineage
    stated = {} if lineage is None else {name: getattr(lineage, name) for name in expected}
    pairs = {name: (stated.get(name), value) for name, value in expected.items()}
    return _judge(LINEAGE, pairs, "names its run, its cut and its champion")


def judge_rebuild(candidate: BundleFiles, rebuilt: BundleFiles) -> GateVerdict:
    """Rows that the gate read itself, at the same pin, give the same bytes."""
    pairs = {name: (data, rebuilt.files.get(name)) for name, data in sorted(candidate.files.items())}
    wrong = [name for name, (one, two) in pairs.items() if one != two]
    text = (
        f"built again from the pinned cut, {', '.join(wrong)} differ"
        if wrong
        else "built again, byte for byte"
    )
    return GateVerdict(
        REBUILD, not wrong, float(len(wrong)), 0.0, detail={"says": text, "version": rebuilt.manifest.version}
    )


def _judge(gate: str, pairs: Mapping[str, tuple[object, object]], good: str) -> GateVerdict:
    wrong = [
        f"{name} is {stated!r:.80}, not {want!r:.80}"
        for name, (stated, want) in pairs.items()
        if stated != want
    ]
    return GateVerdict(gate, not wrong, float(len(wrong)), 0.0, detail={"says": "; ".join(wrong) or good})
