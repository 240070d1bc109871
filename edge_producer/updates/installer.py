"""Carries one device from the set that runs to the one that should, or back; each step is persisted first.

Before the commit nothing that runs changes. The commit is one write of the pointer; the sensing loop takes
the new session over between two windows. What a crash leaves to do is in ``machine.after_restart``; what a
failed write leaves to do ``Installer.advance`` does again. Only stepping back from a model that failed does
not wait for the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edge_producer.model_switch import ActiveModels, ModelSwitch
from edge_producer.updates.artifact_content import memory_needed, open_artifact
from edge_producer.updates.download import Downloads
from edge_producer.updates.journal import Journal
from edge_producer.updates.recovery import recovered
from edge_producer.updates.report_retry import ReportRetry, Tell
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.running_set import RunningSet
from edge_producer.updates.shadow_comparison import ShadowComparison, ShadowSummary
from edge_producer.updates.slots import ModelSet, ModelSlots, SlotPointer
from edge_producer.updates.trials import ShadowWatch, TrialFeed
from edge_producer.updates.update_states import UNCHANGED, Attempt, Failure, UpdateRecord, after_restart
from edge_producer.window import Predictor
from schemas.errors import BundleError, RegistryError, RetryableError, SpoolError, TrustError
from schemas.manifest import ANY_FEATURESET
from schemas.updates import Attack, UpdateResult, UpdateState

log = logging.getLogger(__name__)

S = UpdateState
_TRANSPORT = (Attack.TAMPERED_ARTIFACT, Attack.ENDLESS_DATA, Attack.SLOW_RETRIEVAL)
"""What the way to the device may have done to a good artifact: worth another try, later."""


@dataclass(frozen=True)
class InstallerParts:
    """What one device's installer works with.

    Attributes:
        now_s: Trusted time, seconds since 1970.
        wake: Called from other threads when ``advance`` has something to do.
        tell: Takes what is worth a report.
        monotonic: Steady seconds, any origin: a trial's bounds are measured on it.
    """

    slots: ModelSlots
    journal: Journal
    now_s: Callable[[], float]
    wake: Callable[[], None]
    tell: Tell
    monotonic: Callable[[], float]


class Installer:
    """One device's updates, from an instruction on. Used by one thread; ``seat`` by the sensing loop too.

    Args:
        device_id: Whose.
        parts: The device's own.
        shared: Its process's.

    Raises:
        SpoolError: No set of models can be loaded, not even the factory's.
    """

    def __init__(self, device_id: str, parts: InstallerParts, shared: UpdaterResources) -> None:
        self.device_id = device_id
        self.slots = parts.slots
        self.shadow: dict[str, Any] = {}
        self._parts = parts
        self._shared = shared
        self._tap: TrialFeed | None = None
        self._watch: ShadowWatch | None = None
        self._stand = RunningSet(device_id, parts.slots, shared.models)
        self._telling = ReportRetry(device_id, parts.tell)
        self.record = recovered(device_id, parts.journal, parts.slots)
        self._sit_down()

    def _sit_down(self) -> None:
        """The pointer's set if it loads; under watch where it has not proved itself; else an earlier one."""
        pointer = self.slots.pointer()
        try:
            active = self._shared.models.get(self.slots, pointer.active)
        except BundleError as exc:
            log.exception("the set in force cannot be loaded", extra={"device_id": self.device_id})
            if self.record.state is not S.RESTORING:
                forced = {"state": S.RESTORING, "detail": str(exc)[:500]}
                self.record = self._parts.journal.try_save(self.record.model_copy(update=forced))
        if self.record.state is S.RESTORING:
            self._stand.step_back()
            with suppress(OSError):  # logged where it is tried again
                self._restored()
            return
        attempt = self.record.attempt
        new = self.record.state in (S.COMMITTED, S.WATCH)
        if new and attempt is not None and attempt.wanted == pointer.active:
            live = attempt.model_copy(update={"live": True})
            self.record = self._parts.journal.try_save(self.record.to(S.WATCH, attempt=live))
            self._stand.put(self._watched(active, self._stand.earlier()))
            return
        self._stand.put(ActiveModels(active, self._stand.earlier() if self._shared.shadow_previous else None))

    # An instruction --------------------------------------------------------------------------------------

    def accept(self, seq: int, rollout_id: str) -> bool:
        """Remember the newest channel; returns whether it is a new one."""
        if seq <= self.record.seq:
            return False
        self._save(self.record.model_copy(update={"seq": seq, "rollout_id": rollout_id}))
        return True

    def aims_at(self, wanted: ModelSet) -> bool:
        """Whether this set runs, or is being tried."""
        if self._tap is not None:
            return self._attempt.wanted == wanted
        return self.slots.pointer().active == wanted

    def may_begin(self, wanted: ModelSet, seq: int) -> bool:
        """Whether to try a set now: not while another one is watched, unless it is one to go back to."""
        if self.record.state is S.WATCH and not self.slots.known(wanted):
            return False
        return self.record.may_try(wanted, seq, self._parts.now_s())

    def cancel(self) -> None:
        """End a trial that no channel asks for any more; nothing had changed."""
        if self._tap is not None:
            self._end_trial()
            detail = "a newer channel wants what runs already"
            self._save(
                self.record.to(S.IDLE, result=UpdateResult.NO_CHANGE_DEFERRED, detail=detail), tell=True
            )

    def install(self, attempt: Attempt, length: int, downloads: Downloads, stop: Callable[[], bool]) -> None:
        """Begin an attempt and bring it to its trial.

        Args:
            attempt: What is wanted.
            length: Of the artifact, signed; 0 where none is fetched.
            downloads: Fetches it.
            stop: Asked while fetching.
        """
        self._end_trial()
        known = self.record.attempt
        fresh = known is None or known.key != attempt.key
        held = not attempt.path or self.slots.whole(attempt.wanted)
        # Step 1: from here on a restart resumes the download. Until then a watch under way goes on.
        self._save(self.record.begin(attempt, S.STAGED if held else S.FETCHING), tell=fresh)
        self._watch = None
        try:
            if not held:
                self._fetch(attempt, length, downloads, stop)
            self._begin_trial()
        except TrustError as exc:
            kind = self._may_pass if exc.attack in _TRANSPORT else self._final
            self._end(S.IDLE, kind(str(exc)), UpdateResult.NO_CHANGE_REFUSED, str(exc), exc.attack)
        except (RetryableError, RegistryError, BundleError, OSError) as exc:
            if self.record.state not in UNCHANGED:
                raise  # decided already: ``advance`` carries it out
            self._end(S.IDLE, self._may_pass(str(exc)), UpdateResult.NO_CHANGE_FAILED, str(exc))

    def _fetch(self, attempt: Attempt, length: int, downloads: Downloads, stop: Callable[[], bool]) -> None:
        sha256 = attempt.release.sha256 or ""
        downloads.forget(keep=sha256)
        data = downloads.get(sha256, length, stop)
        # Step 2: the bytes are the signed ones; what they hold is checked, and stored beside what runs.
        self._save(self.record.to(S.VERIFIED))
        _, files = open_artifact(data, attempt.release.version, self._shared.profile)
        self.slots.stage(attempt.wanted, files)
        # Step 3: the slot is complete.
        self._save(self.record.to(S.STAGED))
        downloads.forget()

    def _begin_trial(self) -> None:
        attempt = self._attempt
        if self.record.looping:
            detail = f"given up after {attempt.transitions} persisted transitions"
            self._end(S.IDLE, self._final("looped"), UpdateResult.NO_CHANGE_FAILED, detail)
            return
        bundle = self.slots.bundle(attempt.wanted)
        needed, available = memory_needed(len(bundle.model)), self._shared.available()
        if needed > available:
            self._defer(f"a trial needs {needed} bytes of memory, {available} are available")
            return
        # Step 4: a trial touches nothing that runs; after a restart it begins anew.
        self._save(self.record.to(S.TRIAL), tell=True)
        if self.slots.known(attempt.wanted):
            self._commit()  # it ran here before: its golden vectors are trial enough
            return
        shared, active = self._shared, self._stand.lineup.active
        child = shared.trials.join(attempt.wanted.digest, self.slots.path(attempt.wanted))
        comparison = ShadowComparison.start(active.version, attempt.release.version, shared.profile)
        generic = bundle.manifest.featureset == ANY_FEATURESET
        skip = shared.profile.model.warmup_windows if generic else 0
        parts = self._parts
        self._tap = TrialFeed(self.device_id, child, comparison, skip, parts.wake, parts.monotonic)
        self._stand.observe(self._tap)

    # Progress --------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Take up what windows and child processes have brought since, and what a failed write broke off."""
        self._stand.free()
        self._telling.retry()
        if self.record.state is S.RESTORING:
            self._restored()
        elif self.record.state is S.COMMITTED:
            self._carry_out()
        elif self._tap is not None:
            self._advance_trial(self._tap)
        elif self._watch is not None:
            self._advance_watch(self._watch)
        elif self.record.state in UNCHANGED:
            self._save(after_restart(self.record))

    def _advance_trial(self, tap: TrialFeed) -> None:
        self.shadow = tap.comparison.to_status()
        progress, reason = tap.progress(self._shared.profile.rollout.trial_windows)
        if progress == "pass":
            self._commit(tap.comparison)
        elif progress == "fail":
            self._restore(f"the trial failed: {reason}", tap.comparison.summary(in_force=False))
        elif progress == "defer":
            self._defer(reason)

    def _commit(self, comparison: ShadowComparison | None = None) -> None:
        attempt, shadow = self._attempt, None if comparison is None else comparison.summary(in_force=False)
        try:
            predictor = self._shared.models.get(self.slots, attempt.wanted)
        except BundleError as exc:
            self._restore(f"the trial failed: {exc}", shadow)
            return
        # Step 5: the decision; a restart, or the next look at progress, carries it out again.
        self._save(self.record.to(S.COMMITTED))
        self._carry_out(predictor, shadow)

    def _carry_out(self, loaded: Predictor | None = None, shadow: ShadowSummary | None = None) -> None:
        """What a commit decided; again from the start where a write failed."""
        self._end_trial()
        wanted = self._attempt.wanted
        try:
            predictor = loaded or self._shared.models.get(self.slots, wanted)
            # Step 6: one write makes it the set that runs, for good.
            self.slots.switch(wanted)
        except BundleError as exc:
            self._restore(f"the commit failed: {exc}", shadow)
            return
        # Step 7: the sensing loop takes it over between two windows.
        before = self._stand.lineup
        if before.active is not predictor:
            self._stand.put(self._watched(predictor, before.active))
        elif self._watch is None:
            self._stand.put(self._watched(predictor, self._stand.earlier()))
        told = {k: v for k, v in self.record.told.items() if k != "artifact"}
        live = self._attempt.model_copy(update={"live": True})
        self._save(self.record.to(S.WATCH, attempt=live, told=told))
        as_told = {"state": S.COMMITTED, "result": UpdateResult.COMMITTED}
        self._telling.add(self.record.model_copy(update=as_told), shadow)
        log.info("%s is in force", live.release.version, extra={"device_id": self.device_id})

    def _watched(self, active: Predictor, before: Predictor | None) -> ActiveModels:
        old = "" if before is None else before.version
        comparison = ShadowComparison.start(old, active.version, self._shared.profile)
        self._watch = ShadowWatch(comparison, self._parts.wake)
        return ActiveModels(active, before, self._watch)

    def _advance_watch(self, watch: ShadowWatch) -> None:
        comparison = watch.comparison
        self.shadow = comparison.to_status()
        verdict, reason = comparison.judge(self._shared.profile.rollout.watch_windows, early=True)
        if verdict == "fail":
            self._restore(f"the watch failed: {reason}", comparison.summary(in_force=True))
        elif verdict == "pass":
            self._prove(comparison)

    def _prove(self, comparison: ShadowComparison) -> None:
        lineup = self._stand.lineup
        # Nothing is counted any more: a write that fails below is tried again with the same verdict.
        self._stand.put(ActiveModels(lineup.active, lineup.shadow if self._shared.shadow_previous else None))
        self.slots.prove()
        self._save(self.record.proved(self._attempt))
        self._watch = None
        self._telling.add(self.record, comparison.summary(in_force=True))
        self.slots.tidy()

    # Ends ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End in order: the next start does not count this one as a crash."""
        self._end_trial()
        attempt = self.record.attempt
        if self.record.state is S.WATCH and attempt is not None and attempt.live:
            ended = attempt.model_copy(update={"live": False})
            self.record = self._parts.journal.try_save(self.record.to(S.WATCH, attempt=ended))

    def refuse_metadata(self, error: TrustError) -> None:
        """Report that what the service sent does not hold, once per cause; an attempt under way goes on."""
        cause = f"{error.attack}: {error}"[:600]
        if self.record.told.get("metadata") == cause:
            return
        log.warning("refused: %s", error, extra={"device_id": self.device_id})
        told = {**self.record.told, "metadata": cause}
        self._save(self.record.model_copy(update={"told": told}))
        refusal = {"attempt": None, "result": UpdateResult.NO_CHANGE_REFUSED, "attack": error.attack}
        self._telling.add(self.record.model_copy(update={**refusal, "detail": str(error)[:500]}))

    def metadata_holds(self) -> None:
        """Whatever was refused before is over."""
        if "metadata" in self.record.told:
            told = {k: v for k, v in self.record.told.items() if k != "metadata"}
            self._save(self.record.model_copy(update={"told": told}))

    def _defer(self, reason: str) -> None:
        self._end_trial()
        self._end(S.DEFERRED, self._may_pass(reason), UpdateResult.NO_CHANGE_DEFERRED, reason)

    def _end(
        self,
        state: UpdateState,
        failed: dict[str, Failure],
        result: UpdateResult,
        detail: str,
        attack: Attack | None = None,
    ) -> None:
        """Record how an attempt ended with nothing changed; report it unless that was said already."""
        log.warning("%s: %s", result, detail, extra={"device_id": self.device_id})
        cause = f"{result}/{attack}/{self._attempt.wanted.digest}/{detail}"[:600]
        news = self.record.told.get("artifact") != cause
        told = {**self.record.told, "artifact": cause}
        ended = {"failed": failed, "told": told, "result": result, "attack": attack, "detail": detail[:500]}
        self._save(self.record.to(state, **ended), tell=news)

    def _may_pass(self, reason: str) -> dict[str, Failure]:
        attempt = self._attempt
        return self.record.fail(attempt.wanted, attempt.seq, self._parts.now_s(), reason)

    def _final(self, reason: str) -> dict[str, Failure]:
        return self.record.give_up(self._attempt.wanted, self._attempt.seq, reason)

    def _restore(self, reason: str, shadow: ShadowSummary | None = None) -> None:
        """Have the set from before run again; needs no network, and a disk only to make it last."""
        log.error("%s; restoring", reason, extra={"device_id": self.device_id})
        self._stand.step_back()
        self._save(self.record.to(S.RESTORING, failed=self._final(reason), detail=reason[:500]))
        self._restored(shadow)

    def _restored(self, shadow: ShadowSummary | None = None) -> None:
        """The newest earlier set that loads runs, the pointer at it, the end reported.

        Raises:
            SpoolError: There is none.
        """
        self._end_trial()
        self._watch = None
        restored, only_factory = self._stand.step_back()
        self.slots.settle(restored)
        if only_factory:
            self._save(self.record.to(S.INCONSISTENT, result=UpdateResult.NOT_RESTORED))
        else:
            self._save(self.record.to(S.RESTORED, result=UpdateResult.RESTORED))
        self._telling.add(self.record, shadow)
        self.slots.tidy()

    # Small things ----------------------------------------------------------------------------------------

    @property
    def seat(self) -> ModelSwitch:
        """What the sensing loop reads."""
        return self._stand.seat

    @property
    def pointer(self) -> SlotPointer:
        """Which set runs."""
        return self.slots.pointer()

    @property
    def untold(self) -> int:
        """Reports that wait for the disk to take them."""
        return len(self._telling)

    @property
    def _attempt(self) -> Attempt:
        if self.record.attempt is None:
            raise SpoolError(f"{self.device_id}: state {self.record.state} without an attempt")
        return self.record.attempt

    def _save(self, record: UpdateRecord, *, tell: bool = False) -> None:
        self.record = self._parts.journal.save(record)
        if tell:
            self._telling.add(self.record)

    def _end_trial(self) -> None:
        tap, self._tap = self._tap, None
        if tap is not None:
            self._stand.observe(None)
            self._shared.trials.leave(self._attempt.wanted.digest, tap.child)
