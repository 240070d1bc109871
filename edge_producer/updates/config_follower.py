"""One device's configurations: what its channel wants, tried, held until its instant, and taken back.

Everything is persisted before it is followed; what is in force follows from the record and the time alone, so
that a process that ends at any moment goes on where it was. No step of it touches a model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from edge_producer.config_switch import PlannedConfig, RunningConfig
from edge_producer.trust import DeviceFacts, VerifiedState
from edge_producer.trust.config_instruction import ConfigInstruction, decide_config
from edge_producer.updates.config_record import KEPT, ConfigRecord, ConfigStore
from edge_producer.updates.config_trial import ConfigTerms, Fetch, check_config, fetched
from schemas.channel_documents import Release
from schemas.config_manifest import no_config
from schemas.config_spec import ConfigSpec, parameters_of
from schemas.durable import Disk
from schemas.errors import BundleError, RetryableError, TrustError
from schemas.proto import delivery_pb2 as pb
from schemas.updates import Attack, UpdateResult, UpdateState

log = logging.getLogger(__name__)

_TRANSPORT = (Attack.TAMPERED_ARTIFACT, Attack.ENDLESS_DATA, Attack.SLOW_RETRIEVAL)
"""Attacks that the transport may have made on a good artifact."""


class ConfigFollower:
    """The configurations of one device. Of one thread, but for what ``ConfigSwitch`` passes on.

    Args:
        device_id: The device.
        folder: Its own.
        terms: What it tries a configuration by.
        disk: Reads and writes the folder.
    """

    def __init__(self, device_id: str, folder: Path, terms: ConfigTerms, disk: Disk) -> None:
        self._device_id, self._terms, self._disk = device_id, terms, disk
        self._folder = folder / "configs"
        self._records: dict[str, ConfigRecord] = {}
        self._unsaved: set[str] = set()
        for spec in terms.profile().configs:
            self._begin(spec.family)

    @property
    def records(self) -> Mapping[str, ConfigRecord]:
        """Newest record by family."""
        return self._records

    def _store(self, family: str) -> ConfigStore:
        return ConfigStore(self._folder / family, no_config(family), self._disk)

    def _begin(self, family: str) -> None:
        """Take up what the process before left: what was in force, and what was on its way."""
        store, switch = self._store(family), self._terms.switch
        record = store.load()
        running, found = record, self._loaded(family, record.active)
        if found is None:
            running, found = self._fallen_back(family, record, "it cannot be read from the disk")
        self._records[family] = record = running
        if record.state is UpdateState.RESTORED:
            self._save(family, record, must=False)
        switch.start(self._device_id, family, found)
        if record.wanted is not None:
            self._plan(family, record)

    def _fallen_back(self, family: str, record: ConfigRecord, why: str) -> tuple[ConfigRecord, RunningConfig]:
        """The record and what runs after the one in force is given up: the newest earlier one that loads."""
        none = RunningConfig(no_config(family).version)
        loaded = [(n, self._loaded(family, earlier)) for n, earlier in enumerate(record.previous)]
        n, found = next(((n, one) for n, one in loaded if one is not None), (len(record.previous), none))
        earlier = record.previous[n] if found is not none else no_config(family)
        log.error(
            "%s is given up for %s: %s", record.active.version, earlier.version, why,
            extra={"device_id": self._device_id},
        )  # fmt: skip
        changes = {
            "active": earlier,
            "previous": record.previous[n + 1 :],
            "state": UpdateState.RESTORED,
            "result": UpdateResult.RESTORED,
            "attempted": record.active,
            "attack": None,
            "detail": why[:500],
        }
        return record.model_copy(update=changes), found

    def _loaded(self, family: str, release: Release) -> RunningConfig | None:
        """A configuration from the disk; None: it cannot be used."""
        if release.sha256 is None:
            return RunningConfig(no_config(family).version)
        try:
            bundle = self._store(family).get(release)
            specs = bundle.manifest.parameters
            return RunningConfig(release.version, parameters_of(specs, bundle.values, self._device_id))
        except (BundleError, KeyError) as exc:
            log.warning("%s cannot be used: %s", release.version, exc, extra={"device_id": self._device_id})
            return None

    # An instruction --------------------------------------------------------------------------------------

    def follow(self, verified: VerifiedState, facts: DeviceFacts, now: datetime, fetch: Fetch) -> list[str]:
        """Go by verified documents; returns the families about which there is something to report.

        Args:
            verified: What the service sent.
            facts: About the device; families, releases and seq are those of models, and are not used.
            now: Trusted time.
            fetch: Fetches an artifact.

        Raises:
            OSError: The disk does not take what must be kept; nothing changes.
            ServiceUnavailableError: No answer in time.
        """
        changed = []
        for spec in self._terms.profile().configs:
            if spec.family not in self._records:
                self._begin(spec.family)
            if self._follow(spec, verified, facts, now, fetch):
                changed.append(spec.family)
        return changed

    def _follow(
        self, spec: ConfigSpec, verified: VerifiedState, facts: DeviceFacts, now: datetime, fetch: Fetch
    ) -> bool:
        family, record = spec.family, self._records[spec.family]
        held = record.wanted or record.active
        own = replace(facts, installed={family: held}, highest_seq=record.seq, families=(family,))
        try:
            found = decide_config(verified, own, family, now)
        except TrustError as exc:
            return self._refused(family, record, exc)
        if found is None:
            return False
        channel = found.channel
        record = record.model_copy(update={"seq": channel.seq, "rollout_id": channel.rollout_id})
        if found.release == held:
            return self._save(family, _settled(record))
        if record.refuses(found.release, channel.seq):
            return self._save(family, record)
        if found.release == record.active:
            return self._cancelled(family, record)
        return self._try(spec, record, found, facts, fetch)

    def _cancelled(self, family: str, record: ConfigRecord) -> bool:
        """What was on its way is not wanted any more; nothing had changed."""
        changes = {
            "wanted": None,
            "switch_at": None,
            "state": UpdateState.IDLE,
            "result": UpdateResult.NO_CHANGE_DEFERRED,
            "attempted": record.wanted,
            "attack": None,
            "detail": "a newer channel document wants what is in force",
        }
        self._save(family, record.model_copy(update=changes))
        self._terms.switch.plan(self._device_id, family, None)
        return True

    def _try(
        self,
        spec: ConfigSpec,
        record: ConfigRecord,
        found: ConfigInstruction,
        facts: DeviceFacts,
        fetch: Fetch,
    ) -> bool:
        family, release, channel = spec.family, found.release, found.channel
        security = channel.reason == "security"
        record = record.model_copy(update={"attempted": release})
        try:
            if release.sha256 is None:
                lead = timedelta(seconds=0.0 if security else spec.lead_s)
                at = channel.issued + lead
            else:
                bundle, data = fetched(found, fetch)
                check_config(self._device_id, bundle, spec, facts.group, self._terms)
                # Step 1: the artifact, whole, before any record names it.
                self._store(family).put(release.sha256, data)
                at = bundle.manifest.switch_at(channel.issued, security=security)
        except TrustError as exc:
            again = exc.attack in _TRANSPORT  # the bytes on the way may be what was bad: it is fetched anew
            refused = record.refused if again else record.with_refusal(release, channel.seq)
            return self._refused(family, record.model_copy(update={"refused": refused}), exc)
        except (BundleError, RetryableError) as exc:
            return self._put_off(family, record, exc)
        changes = {
            "wanted": release,
            "switch_at": at,
            "state": UpdateState.STAGED,
            "result": None,
            "attack": None,
            "detail": f"held until {at:%Y-%m-%d %H:%M:%S} UTC",
        }
        # Step 2: from here on a restart takes it over at the same instant.
        self._save(family, record.model_copy(update=changes))
        # Step 3: the sensing loop takes it over at the first window that ends then.
        self._plan(family, self._records[family])
        return True

    def _plan(self, family: str, record: ConfigRecord) -> None:
        assert record.wanted is not None  # noqa: S101  (the callers have looked)
        found = self._loaded(family, record.wanted)
        if found is not None:
            self._terms.switch.plan(self._device_id, family, PlannedConfig(found, record.switch_at))

    # Progress --------------------------------------------------------------------------------------------

    def refresh(self, now: datetime) -> list[str]:
        """Note what the sensing loop has made of it since; returns families with something to report.

        Args:
            now: Trusted time: what is due by it does not wait for a sensor's clock that is behind.

        Raises:
            OSError: The disk does not take it; the next call tries again.
        """
        changed = []
        for family, record in list(self._records.items()):
            if family in self._unsaved:
                self._save(family, record)
            if self._terms.switch.failed(self._device_id, family) and record.active.sha256 is not None:
                self._take_back(family, record)
                changed.append(family)
            elif record.wanted is not None and self._advanced(family, record, now):
                changed.append(family)
        return changed

    def _advanced(self, family: str, record: ConfigRecord, now: datetime) -> bool:
        assert record.wanted is not None  # noqa: S101  (the caller has looked)
        if self._terms.switch.running(self._device_id, family) != record.wanted.version:
            if record.switch_at is not None and now >= record.switch_at:
                self._plan(family, record.model_copy(update={"switch_at": None}))
            return False
        earlier = [r for r in (record.active, *record.previous) if r.sha256 and r != record.wanted]
        changes = {
            "active": record.wanted,
            "wanted": None,
            "switch_at": None,
            "previous": tuple(earlier[:KEPT]),
            "state": UpdateState.IDLE,
            "result": UpdateResult.COMMITTED,
            "attempted": record.wanted,
            "detail": "",
        }
        # Step 4: it is in force. A crash before this has the next start take it over again.
        self._save(family, record.model_copy(update=changes))
        self._store(family).tidy(self._records[family])
        log.info("%s is in force", record.wanted.version, extra={"device_id": self._device_id})
        return True

    def _take_back(self, family: str, record: ConfigRecord) -> None:
        """Return to the one before, at once: that waits neither for an instant nor for the disk."""
        why = "the decision function failed under it, several windows in a row"
        after, found = self._fallen_back(family, record, why)
        refused = record.with_refusal(record.active, record.seq)
        self._terms.switch.plan(self._device_id, family, None)
        self._terms.switch.start(self._device_id, family, found)
        kept = {"refused": refused, "wanted": None, "switch_at": None}
        self._save(family, after.model_copy(update=kept), must=False)

    def _refused(self, family: str, record: ConfigRecord, error: TrustError) -> bool:
        changes = {
            "result": UpdateResult.NO_CHANGE_REFUSED,
            "attack": error.attack,
            "detail": str(error)[:500],
        }
        if record.wanted is None:
            changes["state"] = UpdateState.IDLE
        return self._note(family, record, changes)

    def _put_off(self, family: str, record: ConfigRecord, error: BundleError | RetryableError) -> bool:
        """It cannot be had now: that is no failure, and the next check tries again."""
        result = UpdateResult.NO_CHANGE_DEFERRED
        if isinstance(error, RetryableError):
            result = UpdateResult.NO_CHANGE_FAILED
        changes = {"state": UpdateState.IDLE, "result": result, "attack": None, "detail": str(error)[:500]}
        return self._note(family, record, changes)

    def _note(self, family: str, record: ConfigRecord, changes: Mapping[str, Any]) -> bool:
        """Keep an outcome in which nothing changed; returns whether it is another one than the last."""
        after = record.model_copy(update=dict(changes))
        if after.detail != self._records[family].detail:
            log.warning("%s: %s", family, after.detail, extra={"device_id": self._device_id})
        return self._save(family, after)

    def _save(self, family: str, record: ConfigRecord, *, must: bool = True) -> bool:
        """Persist a record; returns whether it says something new to report."""
        before = self._records.get(family)
        if record == before and family not in self._unsaved:
            return False
        try:
            self._store(family).save(record)
        except OSError:
            if must:
                raise
            log.exception("%s is not persisted yet", family, extra={"device_id": self._device_id})
            self._unsaved.add(family)
        else:
            self._unsaved.discard(family)
        self._records[family] = record
        ignored = {"seq": 0, "refused": {}}
        return before is None or record.model_copy(update=ignored) != before.model_copy(update=ignored)

    # Reports ---------------------------------------------------------------------------------------------

    def installed(self) -> list[pb.Installed]:
        """What every report says is in force."""
        return [_installed(family, record.active) for family, record in sorted(self._records.items())]

    def put_into(self, report: pb.ReportRequest, family: str) -> None:
        """Make a report one about a family of configurations."""
        record = self._records[family]
        report.rollout_id, report.state, report.result = (
            record.rollout_id,
            record.state,
            record.result or "",
        )
        report.attack, report.detail = record.attack or "", record.detail
        if record.attempted is not None:
            report.attempted.CopyFrom(_installed(family, record.attempted))

    def status(self) -> dict[str, object]:
        """For the status file."""
        return {
            family: {
                "version": record.active.version,
                "wanted": "" if record.wanted is None else record.wanted.version,
                "switch_at": "" if record.switch_at is None else record.switch_at.isoformat(),
                "state": record.state.value,
                "result": record.result or "",
                "attack": record.attack or "",
                "detail": record.detail,
                "seq": record.seq,
            }
            for family, record in sorted(self._records.items())
        }


def _settled(record: ConfigRecord) -> ConfigRecord:
    """The record without the last refusal: the newest document wants what it has."""
    if record.result in (None, UpdateResult.COMMITTED, UpdateResult.RESTORED, UpdateResult.NOT_RESTORED):
        return record
    return record.model_copy(update={"result": None, "attack": None, "detail": "", "attempted": None})


def _installed(family: str, release: Release) -> pb.Installed:
    return pb.Installed(family=family, version=release.version, sha256=release.sha256 or "")
