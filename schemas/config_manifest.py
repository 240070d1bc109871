"""A bundle of kind ``config``: its manifest, its parameters, and the two files as one artifact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from pydantic import AwareDatetime, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from schemas.bundle_archive import MANIFEST, pack, unpack
from schemas.channel_documents import CONFIG_KIND, GroupName, Release, TargetCustom
from schemas.config_spec import ConfigSpec, ParameterSpec, check_parameters
from schemas.errors import BundleError, TrustError
from schemas.manifest import Digest, ManifestPart
from schemas.model_version import FACTORY_MAJOR, ModelVersion
from schemas.offending_keys import describe
from schemas.section import Name
from schemas.updates import Attack

CONFIG_FILE = "config.json"
CONFIG_MEMBERS = (MANIFEST, CONFIG_FILE)
MAX_CONFIG_BYTES = 4 * 1024**2
"""Largest artifact of a configuration."""
MAX_CONFIG_FILE_BYTES = 8 * 1024**2
"""Most bytes of both its files together: twenty a number, and as many for names."""
_ANY_OPSET = 1
"""A configuration needs no operator; the signed ``custom`` of a target has a number all the same."""


class ConfigLineage(ManifestPart):
    """What parameters were computed from; enough to compute them again, byte for byte.

    Attributes:
        cut: Id of the pinned cut.
        pin: Name of its pin.
        known_at: When the cut was made.
        event_from, event_to: Event times of the rows that the computation may read, UTC.
        computed_at: Instant that it counts as computed at.
        champion: Version that the group's newest one before it has; empty: it is the first.
        devices: Active devices of the group in that cut.
        seed: Of random draws.
        code: Version of the code.
    """

    cut: NonNegativeInt
    pin: str
    known_at: AwareDatetime
    event_from: AwareDatetime
    event_to: AwareDatetime
    computed_at: AwareDatetime
    champion: str
    devices: PositiveInt
    seed: int
    code: str


class ConfigManifest(ManifestPart):
    """Everything about a configuration but its parameters. Immutable and content-addressed.

    Attributes:
        version: ``<family>-<major>.<first 8 digits of content_digest>``.
        profile: Profile whose devices it is for.
        group: Group that it was computed for; devices of another refuse it.
        unit: What moves as a whole.
        parameters: Schema and bounds of the parameters.
        valid_from: Instant before which no device takes it over, UTC.
        lead_s: Seconds from a channel document's issue to the switch.
        trainer: Entry point that computed it.
        files: SHA-256 of each file but the manifest.
    """

    kind: Literal["config"] = "config"
    name: Name
    version: str
    profile: Name
    group: GroupName
    unit: Literal["site", "device"]
    parameters: tuple[ParameterSpec, ...]
    valid_from: AwareDatetime
    lead_s: NonNegativeFloat
    trainer: str
    lineage: ConfigLineage
    files: dict[str, Digest]

    @property
    def family(self) -> str:
        """Its family."""
        return self.name

    def content_digest(self) -> str:
        """SHA-256 over everything the bundle holds except its version."""
        content = self.model_dump(mode="json", exclude={"version"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def versioned(self, major: int) -> Self:
        """The same manifest under the version that its content gives it."""
        version = ModelVersion.of_content(self.name, major, self.content_digest())
        return self.model_copy(update={"version": str(version)})

    def to_json(self) -> str:
        """The manifest file's text: sorted keys, one item a line, reproducible."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1) + "\n"

    def switch_at(self, issued: datetime, *, security: bool = False) -> datetime:
        """When a device takes it over that a channel document names.

        All devices that got the same document compute the same instant.

        Args:
            issued: When the document was issued.
            security: The document is for security: neither ``valid_from`` nor ``lead_s`` is waited for.
        """
        return issued if security else max(self.valid_from, issued + timedelta(seconds=self.lead_s))

    def custom(self) -> TargetCustom:
        """What both keys sign beside the artifact's digest."""
        return TargetCustom(family=self.name, version=self.version, opset=_ANY_OPSET, kind=CONFIG_KIND)

    def differs_from(self, spec: ConfigSpec) -> str:
        """What of it is not as a profile says; empty: all is."""
        stated = {"parameters": spec.parameters, "unit": spec.unit, "family": spec.family}
        own = {"parameters": self.parameters, "unit": self.unit, "family": self.name}
        return ", ".join(name for name, value in stated.items() if own[name] != value)


@dataclass(frozen=True)
class ConfigBundle:
    """A configuration: manifest, checked values by parameter, and the bytes of both files by name."""

    manifest: ConfigManifest
    values: Mapping[str, Any]
    files: Mapping[str, bytes]

    @classmethod
    def made(cls, manifest: ConfigManifest, values: Mapping[str, Any], major: int) -> Self:
        """A bundle of these values; completes the manifest by digest and version.

        Raises:
            BundleError: The values are not what the manifest's schema says.
        """
        plain = check_parameters(manifest.parameters, values)
        data = json.dumps({"parameters": plain}, sort_keys=True, separators=(",", ":")).encode()
        digests = {CONFIG_FILE: hashlib.sha256(data).hexdigest()}
        final = manifest.model_copy(update={"files": digests}).versioned(major)
        return cls(final, plain, {MANIFEST: final.to_json().encode(), CONFIG_FILE: data})

    @classmethod
    def of(cls, files: Mapping[str, bytes], origin: str) -> Self:
        """The bundle of these files, after all of it was checked.

        Raises:
            BundleError: A file is missing, altered, or not what the manifest's schema says.
        """
        if (size := sum(map(len, files.values()))) > MAX_CONFIG_FILE_BYTES:
            raise BundleError(f"{origin}: {size} bytes unpacked; the limit is {MAX_CONFIG_FILE_BYTES}")
        if missing := set(CONFIG_MEMBERS) - set(files):
            raise BundleError(f"{origin}: lacks {', '.join(sorted(missing))}")
        manifest = parse_config_manifest(files[MANIFEST], origin)
        if hashlib.sha256(files[CONFIG_FILE]).hexdigest() != manifest.files.get(CONFIG_FILE):
            raise BundleError(f"{origin}: {CONFIG_FILE} is not the file that the manifest names")
        return cls(manifest, _values(manifest, files[CONFIG_FILE], origin), dict(files))

    @classmethod
    def unpacked(cls, data: bytes, version: str) -> Self:
        """The bundle of an artifact whose digest was verified.

        Raises:
            TrustError: It is signed, but unsafe, or not the version that was asked for.
        """
        if len(data) > MAX_CONFIG_BYTES:
            raise TrustError(
                f"a configuration of {len(data)} bytes; the limit is {MAX_CONFIG_BYTES}", Attack.ENDLESS_DATA
            )
        try:
            found = cls.of(unpack(data, CONFIG_MEMBERS), f"the artifact of {version}")
        except BundleError as exc:
            raise TrustError(str(exc), Attack.UNSAFE_CONTENT) from exc
        if found.manifest.version != version:
            raise TrustError(
                f"the artifact of {version} holds {found.manifest.version}", Attack.UNSIGNED_INSTRUCTION
            )
        return found

    def packed(self) -> bytes:
        """The artifact's bytes.

        Raises:
            BundleError: They are too many.
        """
        data = pack(self.files, CONFIG_MEMBERS)
        if len(data) > MAX_CONFIG_BYTES:
            raise BundleError(f"a configuration of {len(data)} bytes; the limit is {MAX_CONFIG_BYTES}")
        return data


def no_config(family: str) -> Release:
    """The state of a family before its first configuration, as channel documents name it.

    >>> no_config("plan_traffic").version
    'plan_traffic-0.00000000'
    """
    return Release(version=str(ModelVersion(family, FACTORY_MAJOR, "0" * 8)))


def parse_config_manifest(text: str | bytes, origin: str) -> ConfigManifest:
    """Manifest of a configuration from its JSON text.

    Raises:
        BundleError: No valid manifest, or one whose version is not that of its content.
    """
    try:
        manifest = ConfigManifest.model_validate_json(text)
        major = ModelVersion.parse(manifest.version).major
    except ValidationError as exc:
        raise BundleError(f"{origin}: {describe(exc)}") from exc
    except ValueError as exc:
        raise BundleError(f"{origin}: {exc}") from exc
    if manifest.version != manifest.versioned(major).version:
        raise BundleError(f"{origin} was altered: its content does not belong to version {manifest.version}")
    return manifest


def _values(manifest: ConfigManifest, data: bytes, origin: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
        given = found["parameters"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise BundleError(f"{origin}: {CONFIG_FILE} is no JSON object with parameters") from exc
    if not isinstance(given, dict) or set(found) != {"parameters"}:
        raise BundleError(f"{origin}: {CONFIG_FILE} is no JSON object with parameters")
    return check_parameters(manifest.parameters, given)
