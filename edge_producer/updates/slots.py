"""The sets of models that a device holds, and the pointer to the one that runs.

    slots/<set digest>/<family>/{manifest.json,model.onnx,golden.arrow}   immutable, complete when it appears
    slots/<set digest>/digests.json                                       of these files, as verified
    current.json                                                          {active, previous, proven}

The factory set ships in the wheel and is never written. Two earlier sets that proved themselves stay. A slot
that nothing names is removed. At every instant the pointer names a complete set.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_producer.bundle import BUNDLES, MANIFEST, Bundle, check_fit, factory_folder, open_bundle
from schemas.bundle_archive import MEMBERS
from schemas.channel_documents import Release
from schemas.durable import Disk
from schemas.errors import BundleError, DamagedLakeError
from schemas.profile import Profile
from schemas.section import Name
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

FACTORY = "factory"
_DIGESTS = "digests.json"
KEPT = 2
"""Earlier sets that stay, beside the one that runs and the factory set."""


class ModelSet(BaseModel):
    """Models that run together: one release per family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    releases: dict[Name, Release]

    @property
    def digest(self) -> str:
        """Hash of the releases; the name of the set's slot."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class SlotPointer(BaseModel):
    """Names the set that runs.

    Attributes:
        previous: Sets that ran before and proved themselves, newest first.
        proven: Whether the active set has passed its watch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    active: ModelSet
    previous: Annotated[tuple[ModelSet, ...], Field(max_length=KEPT)] = ()
    proven: bool = True


class ModelSlots:
    """One device's sets of models.

    Args:
        folder: The device's own folder.
        profile: Names the family that runs; its factory bundle is the factory set.
        disk: Everything is written through it.
        bundles: Folder of factory bundles.

    Raises:
        BundleError: The factory bundle is missing or altered.
    """

    def __init__(self, folder: Path, profile: Profile, disk: Disk, bundles: Path = BUNDLES) -> None:
        self._folder = folder
        self._profile = profile
        self._disk = disk
        self._factory_path = factory_folder(profile, bundles)
        version = open_bundle(self._factory_path).manifest.version
        self.family = profile.model.family
        self.factory = ModelSet(releases={self.family: Release(version=version)})
        disk.make_folder(folder / "slots", private=True)

    def pointer(self) -> SlotPointer:
        """Which set runs; the factory set where the pointer is missing or unreadable."""
        raw = self._disk.read(self._folder / "current.json")
        if raw is None:
            return SlotPointer(active=self.factory)
        try:
            found = checked(raw, str(self._folder / "current.json"))
            return self._of_family(SlotPointer.model_validate(found))
        except (ValidationError, BundleError, DamagedLakeError) as exc:
            log.error(  # noqa: TRY400  (one line says it all)
                "%s is damaged (%s): the factory set runs, and the wanted one is installed again",
                self._folder / "current.json",
                " ".join(str(exc).split())[:200],
            )
            return SlotPointer(active=self.factory)

    def _of_family(self, pointer: SlotPointer) -> SlotPointer:
        if all(self.family in named.releases for named in (pointer.active, *pointer.previous)):
            return pointer
        raise BundleError(f"a set in the pointer has no {self.family}")

    def point(self, pointer: SlotPointer) -> None:
        """Make a set the one that runs, for this start and every later one. Idempotent."""
        if pointer != self.pointer() or self._disk.read(self._folder / "current.json") is None:
            self._disk.write(self._folder / "current.json", with_digest(pointer.model_dump_json().encode()))

    def switch(self, wanted: ModelSet) -> None:
        """Point at ``wanted``; the set before it is kept if it had proved itself. Idempotent.

        Raises:
            BundleError: The set is not complete.
        """
        self.bundle(wanted)
        now = self.pointer()
        if now.active == wanted:
            return
        earlier = [now.active, *now.previous] if now.proven else list(now.previous)
        kept = tuple(s for s in earlier if s != wanted)[:KEPT]
        self.point(SlotPointer(active=wanted, previous=kept, proven=False))

    def prove(self) -> None:
        """Record that the set that runs has passed its watch."""
        self.point(self.pointer().model_copy(update={"proven": True}))

    def candidates(self) -> list[ModelSet]:
        """The sets to restore, in order: the active one if it is proven, then earlier ones.

        The factory set is always the last.
        """
        now = self.pointer()
        found = [*([now.active] if now.proven else []), *now.previous, self.factory]
        return [s for n, s in enumerate(found) if s not in found[:n]]

    def settle(self, restored: ModelSet) -> None:
        """Point at a set that was restored. Idempotent."""
        kept = tuple(s for s in self.pointer().previous if s != restored)
        self.point(SlotPointer(active=restored, previous=kept, proven=True))

    def stage(self, wanted: ModelSet, files: Mapping[str, bytes]) -> None:
        """Store a verified model under its set's digest. Nothing that runs changes."""
        named = {f"{self.family}/{name}": files[name] for name in MEMBERS}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in named.items()}
        named[_DIGESTS] = with_digest(json.dumps(digests).encode())
        self._disk.write_folder(self._path(wanted), named)

    def whole(self, wanted: ModelSet) -> bool:
        """Whether a set is complete, unaltered and fits the profile."""
        try:
            self.bundle(wanted)
        except BundleError:
            return False
        return True

    def bundle(self, wanted: ModelSet) -> Bundle:
        """The model of a set, digests verified.

        Raises:
            BundleError: It is incomplete, altered, another version or does not fit the profile.
        """
        bundle = open_bundle(self.path(wanted))
        version = wanted.releases[self.family].version
        if bundle.manifest.version != version:
            raise BundleError(f"{self.path(wanted)} holds {bundle.manifest.version}, not {version}")
        check_fit(bundle.manifest, self._profile)
        if wanted.releases[self.family].sha256 is not None:
            self._check_manifest(wanted)
        return bundle

    def _check_manifest(self, wanted: ModelSet) -> None:
        """Return if the manifest, by which the other files are checked, is the one that was verified.

        Raises:
            BundleError: It is altered.
        """
        place, name = self._path(wanted) / _DIGESTS, f"{self.family}/{MANIFEST}"
        data = self._disk.read(self._path(wanted) / name) or b""
        found = hashlib.sha256(data).hexdigest()
        noted = self._disk.read(place)
        try:
            known = {} if noted is None else checked(noted, str(place))
        except DamagedLakeError as exc:
            raise BundleError(str(exc)) from exc
        if name in known and known[name] != found:
            raise BundleError(f"{self._path(wanted) / name} is altered: it is not the one that was verified")
        if noted is None:  # release 0.2.0 noted none: from now on it must stay as it is
            with suppress(OSError):
                self._disk.write(place, with_digest(json.dumps({name: found}).encode()))

    def path(self, wanted: ModelSet) -> Path:
        """Folder of the set's model."""
        if wanted.releases[self.family].sha256 is None:
            return self._factory_path
        return self._path(wanted) / self.family

    def known(self, wanted: ModelSet) -> bool:
        """Whether the device ran this set before and it proved itself."""
        now = self.pointer()
        good = {s.digest for s in (*now.previous, self.factory)}
        return wanted.digest in good or (now.proven and now.active == wanted)

    def tidy(self, *busy: ModelSet) -> None:
        """Remove slots that neither the pointer nor ``busy`` names."""
        now = self.pointer()
        named = {s.digest for s in (now.active, *now.previous, *busy)}
        for path in (self._folder / "slots").iterdir():
            if path.name not in named:
                self._disk.remove(path)

    def _path(self, wanted: ModelSet) -> Path:
        return self._folder / "slots" / wanted.digest
