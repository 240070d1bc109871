"""A model bundle on disk, checked before it is run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import BundleError
from schemas.manifest import ANY_FEATURESET, Manifest, parse_manifest
from schemas.profile import Profile

BUNDLES = Path(__file__).parent / "bundles"
GENERIC = "robust"
"""Bundle that fits any profile."""
MODEL, GOLDEN, MANIFEST = "model.onnx", "golden.arrow", "manifest.json"
MAX_FILE_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose bytes match its manifest. ``check_fit`` checks whether it fits a profile."""

    manifest: Manifest
    model: bytes
    golden: bytes


def load_bundle(profile: Profile, folder: Path = BUNDLES) -> Bundle:
    """The bundle that the profile names.

    Args:
        profile: Its model family names the bundle's folder.
        folder: Parent folder of the bundles; by default of those that ship in the wheel.

    Raises:
        BundleError: It is missing, altered, or made for other channels, windows or features.
    """
    bundle = open_bundle(factory_folder(profile, folder))
    check_fit(bundle.manifest, profile)
    return bundle


def factory_folder(profile: Profile, folder: Path = BUNDLES) -> Path:
    """Folder of the bundle that a device of the profile starts with.

    A profile may name an own family, called as itself, for which nothing ships: until its first model comes
    over the channel, its devices run the generic score.

    Raises:
        BundleError: Nothing ships under that name, and it is not the profile's own.
    """
    path, generic = folder / profile.model.family, folder / GENERIC
    if path.is_dir():
        return path
    if profile.model.family == profile.name and generic.is_dir():
        return generic
    known = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "none"
    raise BundleError(f"no bundle '{profile.model.family}' in {folder}; there are: {known}")


def open_bundle(path: Path) -> Bundle:
    """The bundle in a folder, digests verified.

    Raises:
        BundleError: A file is missing, too large or not the one the manifest names.
    """
    manifest = parse_manifest(_read(path / MANIFEST), str(path / MANIFEST))
    parts = {name: _read(path / name) for name in (MODEL, GOLDEN)}
    for name, data in parts.items():
        if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
            raise BundleError(f"{path / name}: not the file that the manifest names: incomplete or altered")
    return Bundle(manifest, parts[MODEL], parts[GOLDEN])


def check_fit(manifest: Manifest, profile: Profile) -> None:
    """Refuse a model that was made for other inputs.

    Raises:
        BundleError: Names each difference: what the model wants, what the profile has.
    """
    if manifest.featureset == ANY_FEATURESET:
        if profile.features.also:
            kinds = ", ".join(profile.features.also)
            raise BundleError(
                f"the generic model {manifest.version} cannot compute {kinds}: kinds of packages are written "
                f"into a profile's own models only. Put one into the folder of bundles, under the name "
                f"'{profile.name}' (`edgeloop model fit` makes one), or take the kinds out of the profile"
            )
        return
    sampling = profile.sampling
    pairs = {
        "featureset": (manifest.featureset, profile.featureset),
        "features": (list(manifest.features), list(profile.feature_names)),
        "channels [unit]": (
            [f"{c.name} [{c.unit}]" for c in manifest.channels],
            [f"{c.name} [{c.unit}]" for c in profile.channels],
        ),
        "sampling.window_samples": (manifest.window_samples, sampling.window_samples),
        "sampling.rate_hz": (manifest.rate_hz or sampling.rate_hz, sampling.rate_hz),
        "model.outputs": (list(manifest.outputs), list(profile.model.outputs)),
        "features.time_zone": (manifest.time_zone, profile.calendar_zone),
        # A graph that reads no history runs where one is kept.
        "model.history": (manifest.history, manifest.history and profile.model.history_sums),
    }
    wrong = [f"{what}: wants {want}, has {has}" for what, (want, has) in pairs.items() if want != has]
    if wrong:
        raise BundleError(
            f"model {manifest.version} does not fit profile '{profile.name}': {'; '.join(wrong)}. "
            'Change the profile, or use model.name = "robust", which fits any'
        )


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BundleError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path}: cannot be read: {exc}") from exc
