"""What jobs look up about devices, schemas and profiles, answered from the lake's registries."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from feature_store.current_profiles import as_told
from feature_store.derived_trust import DerivedTrust, UnsignedBefore, unsigned_before
from feature_store.device_history import DeviceHistory
from feature_store.labels import LABELLER
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from feature_store.version_store import VersionStore
from feature_store.worker_keys import WorkerKeys
from schemas.boot_ids import GATEWAY
from schemas.envelope import MessageVerifier
from schemas.errors import (
    DamagedLakeError,
    LookupFailedError,
    PipelineError,
    ProfileVersionError,
    SignatureError,
    UnknownSchemaError,
    UnknownVersionError,
)
from schemas.instants import to_us
from schemas.profile import Profile
from schemas.version_names import VersionHeader, VersionName
from stream_processors.ingest.admission import KnownDevice
from stream_processors.ingest.boot_owners import KnownProducer, tag_of
from stream_processors.job import RawMessage
from stream_processors.refused_messages import LetterLimits

REFRESH_S = 1.0
"""Least time between two reads of the registry for something unknown: garbage must not cause reads."""
MAX_AGE_S = 15.0
"""Longest time after which a revocation or a move takes effect."""


class LakeDirectory:
    """Caches the registries, and reads them again for what it does not know. Used from one thread."""

    def __init__(
        self,
        profiles: ProfileRegistry,
        devices: DeviceRegistry,
        monotonic: Callable[[], float] = time.monotonic,
        derived: DerivedTrust | None = None,
        letters: LetterLimits = LetterLimits(),  # noqa: B008  (frozen)
        versions: VersionStore | None = None,
    ) -> None:
        self._versions = versions
        self._judges: dict[tuple[str, VersionHeader, tuple[str, ...]], Profile] = {}
        self._groups: dict[str, tuple[str, ...]] = {}  # by producer, until the registry is read again
        self._derived = derived
        self._profile_registry, self._device_registry = profiles, devices
        self._monotonic = monotonic
        self.letters = letters
        self._loaded_at = -MAX_AGE_S
        self._known: dict[str, KnownDevice] = {}
        self._records: dict[str, DeviceRecord] = {}
        self._history: DeviceHistory[DeviceRecord] | None = None
        self._seen = 0
        self._behind: dict[str, set[str]] = defaultdict(set)
        self._finishes: dict[str, dict[str, int]] = defaultdict(dict)
        self._gateways: dict[int, str] = {}
        self._profiles: dict[str, Profile] = {}
        self._current: dict[str, Profile] = {}
        self._wires: dict[str, pa.Schema] = {}

    def signer(self, key_id: str) -> KnownDevice | None:
        """The producer whose key has this id; None: no key has it.

        Raises:
            DamagedLakeError: Nobody can say, because registrations are missing.
        """
        self._refresh(unknown=key_id not in self._known)
        if key_id not in self._known and (lacks := self._device_registry.lacks()):
            raise DamagedLakeError(
                f"a message has a signer that is not known, and registrations are missing: {lacks}. It waits "
                "until they are restored: `edgeloop lake check --repair` (docs/runbook.md#damaged-data-files)"
            )
        return self._known.get(key_id)

    def wire_schema(self, fingerprint: str) -> pa.Schema:
        """Arrow schema of a fingerprint.

        Raises:
            UnknownSchemaError: It was never registered.
        """
        if fingerprint not in self._wires:  # a fingerprint is of the schema: it never means another
            with _read_from_lake():
                self._wires[fingerprint] = self._profile_registry.wire(fingerprint).schema
        return self._wires[fingerprint]

    def profile_of(self, name: str) -> Profile:
        """The profile of that name as devices are told to run it now.

        Raises:
            UnknownSchemaError: It was never registered.
        """
        self._registered(name)
        return self._current[name]

    def _registered(self, name: str) -> Profile:
        """Newest registered profile of that name: what rows are judged by that name no version."""
        self._refresh(unknown=name not in self._profiles)
        if name not in self._profiles:
            raise UnknownSchemaError(f"profile '{name}' is not registered with this lake")
        return self._profiles[name]

    def judge_of(self, profile: str, version: VersionHeader | None, producer: str) -> Profile:
        """The profile that rows are judged by.

        Raises:
            UnknownVersionError: The version is not known here yet.
            ProfileVersionError: It is not signed as it must be, or never was in the channel of that group.
            UnknownSchemaError: The profile was never registered.
        """
        if version is None:
            return self._registered(profile)
        self._refresh(unknown=False)
        key = (profile, version, self._groups_of(producer))
        if key not in self._judges:
            with _read_from_lake():
                self._judges[key] = self._judge(VersionName(profile, version.number), *key[1:])
        return self._judges[key]

    def _groups_of(self, producer: str) -> tuple[str, ...]:
        """Groups whose channels say what the producer's process runs: of a gateway those of its devices."""
        found = self._groups.get(producer)
        if found is None and producer in self._records:
            behind = {*self._behind.get(producer, ()), *self._finishes.get(producer, {})}
            groups = {self._records[d].group for d in {producer, *behind} if d in self._records}
            found = self._groups[producer] = tuple(sorted(groups))
        return found or ()

    def _judge(self, name: VersionName, header: VersionHeader, groups: tuple[str, ...]) -> Profile:
        try:
            found = None if self._versions is None else self._versions.version(name)
        except DamagedLakeError as exc:  # it waits, and is then refused with its bytes: nothing else does
            raise UnknownVersionError(str(exc)) from exc
        if found is None or self._versions is None:
            raise UnknownVersionError(f"version {name} of a profile is not known here yet")
        if found.header != header:
            raise ProfileVersionError(f"{name} is {found.header.digest}, the message names {header.digest}")
        if not any(self._versions.was_in_channel(group, name) for group in groups):
            named = ", ".join(repr(group[:48]) for group in groups[:4]) or "''"
            raise ProfileVersionError(f"{name} was never in the channel of group {named}")
        return found.profile

    def cohort_of(self, device_id: str, profile: str) -> str:
        """Cohort of a device, ``profile/site/group/hardware``."""
        self._refresh(unknown=device_id not in self._records)
        record = self._records.get(device_id)
        if record is None:
            return f"{profile}///"
        return f"{profile}/{record.site}/{record.group}/{record.hardware}"

    def newest(self, sender: KnownProducer, *, again: bool) -> KnownProducer:
        """The producer as the registry has it, read again if so asked."""
        if again:
            self._loaded_at = -math.inf
            self._refresh(unknown=True)
        record = self._records.get(sender.producer)
        return self._known.get(record.key_id, sender) if record is not None else sender

    def producer_of(self, device_id: str) -> str:
        """Who sends for a device; empty: it was never registered."""
        record = self._records.get(device_id)
        return "" if record is None else record.producer

    def gateway_of(self, tag: int) -> str:
        """Name of the gateway with this tag; empty: there is none."""
        return self._gateways.get(tag, "")

    def verify_derived(self, message: RawMessage) -> bool:
        """True if a worker of this lake signed the message, False if it is from before any was signed.

        Raises:
            SignatureError: Neither.
        """
        if self._derived is None:
            raise SignatureError("no keys of workers are known here")
        place = (message.partition, message.offset)
        return self._derived.check(message.topic, place, message.key, message.headers, message.value)

    def _refresh(self, *, unknown: bool) -> None:
        """Read the registries again if the cache is too old, or lacks something and is not brand new."""
        now = self._monotonic()
        if now - self._loaded_at < (REFRESH_S if unknown else MAX_AGE_S):
            return
        with _read_from_lake():
            self._profiles = self._current = dict(self._profile_registry.profiles())
            if self._versions is not None:
                self._versions.forget()
                self._current = as_told(self._profiles, self._versions)
            history = self._device_registry.history()
        self._loaded_at = now
        self._judges.clear()
        self._groups.clear()
        if history is not self._history:
            self._history, self._seen = history, 0
            self._known, self._records, self._gateways = {}, {}, {}
            self._behind, self._finishes = defaultdict(set), defaultdict(dict)
        fresh = [record for _, record in history.moments[self._seen :]]
        self._seen += len(fresh)
        self._learn(fresh, history)

    def _learn(self, fresh: Sequence[DeviceRecord], history: DeviceHistory[DeviceRecord]) -> None:
        """Take in registrations that are new, and what they change for producers. Nothing else is touched."""
        producers, key_ids = set[str](), set[str]()
        for record in fresh:
            name = record.device_id
            before = self._records.get(name, record)
            former = history.former.get(name, {})
            self._behind[before.producer].discard(name)
            self._finishes[record.producer].pop(name, None)
            if record.active:
                self._behind[record.producer].add(name)
            for producer, until in former.items():
                self._finishes[producer].pop(name, None)
                if record.active:
                    self._finishes[producer][name] = to_us(until)
            if record.hardware == GATEWAY:
                self._gateways[tag_of(name, is_gateway=True)] = name
            self._records[name] = record
            producers |= {name, before.producer, record.producer, *former}
            key_ids |= {before.key_id, record.key_id}
        key_ids |= {self._records[p].key_id for p in producers if p in self._records}
        key_ids.discard("")  # a device of a history that was fitted: it has no key, and sends nothing
        for key_id in key_ids:
            # A device of a history that somebody fitted a model to has no key, and signs nothing.
            if key_id in history.keys and history.keys[key_id].public_key:
                self._known[key_id] = self._known_as(history.keys[key_id])
            else:
                self._known.pop(key_id, None)

    def _known_as(self, record: DeviceRecord) -> KnownDevice:
        name, is_gateway = record.device_id, record.hardware == GATEWAY
        behind = frozenset(self._behind.get(name, ()))
        sends_for = behind if is_gateway else behind & {name}
        if record.hardware == LABELLER:
            sends_for = frozenset()
        verifier = MessageVerifier(record.public_key.encode())
        tag, finishes = tag_of(name, is_gateway=is_gateway), dict(self._finishes.get(name, {}))
        labels = record.hardware == LABELLER
        return KnownDevice(name, record.active, verifier, sends_for, labels, tag, finishes)


@contextmanager
def _read_from_lake() -> Iterator[None]:
    """Translate whatever a damaged file raises: it must not be blamed on the message that asked."""
    try:
        yield
    except PipelineError:
        raise
    except ValueError as exc:
        raise DamagedLakeError(
            f"profiles or devices cannot be read: {exc}; restore what is missing, or `edgeloop lake check "
            "--repair` (docs/runbook.md#damaged-data-files)"
        ) from exc
    except Exception as exc:
        raise LookupFailedError(f"profiles or devices cannot be read: {type(exc).__name__}: {exc}") from exc


def directory_of(lake: Lake, letters: LetterLimits = LetterLimits()) -> LakeDirectory:  # noqa: B008  (frozen)
    """Lookups in this lake; a worker has begun to sign in it."""
    trust = DerivedTrust(WorkerKeys(lake.root), unsigned_before(lake.root) or UnsignedBefore(offsets={}))
    return LakeDirectory(
        ProfileRegistry(lake),
        DeviceRegistry(lake),
        derived=trust,
        letters=letters,
        versions=VersionStore(lake.root),
    )
