"""Brings one device from the set that runs to the set that should run, or back; each step is persisted first.

Before the commit nothing that runs changes. The commit is one write of the pointer; the sensing loop takes
over the new session between two windows. ``update_states.after_restart`` says what is left to do after a
crash; ``Installer.advance`` repeats what a failed write broke off. Only the step back from a model that
failed does not wait for the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from edge_producer.model_switch import ActiveModels, ModelSwitch
from edge_producer.updates.artifact_content import memory_needed, open_artifact
from edge_producer.updates.download import Downloads
from edge_producer.updates.fault_question import fault_question
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.running_set import RunningSet
from edge_producer.updates.shadow_comparison import ShadowComparison, ShadowSummary
from edge_producer.updates.slots import ModelSet, ModelSlots, SlotPointer
from edge_producer.updates.soak_watch import SoakWatch
from edge_producer.updates.trials import ShadowWatch, TrialFeed
from edge_producer.updates.update_progress import UpdateProgress
from edge_producer.updates.update_states import UNCHANGED, Attempt, UpdateRecord, broken_off
from edge_producer.window import Predictor
from schemas.errors import BundleError, RegistryError, RetryableError, TrustError
from schemas.manifest import ANY_FEATURESET
from schemas.updates import Attack, UpdateResult, UpdateState

log = logging.getLogger(__name__)

S = UpdateState
_TRANSPORT = (Attack.TAMPERED_ARTIFACT, Attack.ENDLESS_DATA, Attack.SLOW_RETRIEVAL)
"""Attacks that the transport may have made on a good artifact: it is worth another try, later."""


class Installer:
    """One device's attempts to run another set. Used by one thread; ``switch`` by the sensing loop too.

    Args:
        progress: The device's record and reports.
        slots: The device's sets.
        resources: What the devices of the process share.
        wake: Called from other threads when ``advance`` has something to do.
        monotonic: Steady seconds, any origin: a trial's bounds are measured on it.
        switch: What the sensing loop reads already; None: it is made here.

    Attributes:
        shadow: For the status file: the newest comparison of two models, empty before the first.

    Raises:
        SpoolError: No set of models can be loaded, not even the factory's.
    """

    def __init__(
        self,
        progress: UpdateProgress,
        slots: ModelSlots,
        resources: UpdaterResources,
        wake: Callable[[], None],
        monotonic: Callable[[], float],
        switch: ModelSwitch | None = None,
    ) -> None:
        self.device_id = progress.device_id
        self.progress = progress
        self.slots = slots
        self.shadow: dict[str, Any] = {}
        self._resources = resources
        self._wake = wake
        self._monotonic = monotonic
        self._trial: TrialFeed | None = None
        self._watch: ShadowWatch | None = None
        self._soak: SoakWatch | None = None
        self._again = False
        self._running = RunningSet(self.device_id, slots, resources.models, switch)
        self._start()

    @property
    def record(self) -> UpdateRecord:
        """The newest record."""
        return self.progress.record

    @property
    def switch(self) -> ModelSwitch:
        """What the sensing loop reads."""
        return self._running.switch

    @property
    def pointer(self) -> SlotPointer:
        """Which set runs, by the disk."""
        return self.slots.pointer()

    def _start(self) -> None:
        """Run the pointer's set if it loads, under watch if it is not proven; else an earlier set."""
        pointer = self.slots.pointer()
        try:
            active = self._resources.models.get(self.slots, pointer.active)
        except BundleError as exc:
            log.error("the set in force cannot be loaded: %s", exc, extra={"device_id": self.device_id})  # noqa: TRY400  (the message says it)
            if self.record.state is not S.RESTORING:
                forced = {"state": S.RESTORING, "detail": str(exc)[:500]}
                self.progress.try_save(self.record.model_copy(update=forced))
        if self.record.state is S.RESTORING:
            self._running.step_back()
            with suppress(OSError):  # the disk is full: ``advance`` tries again, and logs it there
                self._finish_restore()
            return
        attempt = self.record.attempt
        new = self.record.state in (S.COMMITTED, S.WATCH)
        if new and attempt is not None and attempt.wanted == pointer.active:
            live = attempt.model_copy(update={"live": True})
            self.progress.try_save(self.record.to(S.WATCH, attempt=live))
            self._running.run(self._under_watch(active, self._running.earlier_model()))
            return
        previous = self._running.earlier_model() if self._resources.shadow_previous else None
        self._running.run(ActiveModels(active, previous))

    # An instruction --------------------------------------------------------------------------------------

    def is_target(self, wanted: ModelSet) -> bool:
        """Whether this set is the one being tried or, without a trial, the one that runs."""
        if self._trial is not None:
            return self.progress.attempt.wanted == wanted
        return self.slots.pointer().active == wanted

    def may_begin(self, wanted: ModelSet, seq: int) -> bool:
        """Whether to try a set now: under a watch, only one that proved itself before."""
        if self.record.state is S.WATCH and not self.slots.known(wanted):
            return False
        return self.progress.may_try(wanted, seq)

    def cancel(self) -> None:
        """End a trial that no channel document asks for any more; nothing had changed."""
        if self._trial is not None:
            self._end_trial()
            detail = "a newer channel document wants what already runs"
            result = UpdateResult.NO_CHANGE_DEFERRED
            self.progress.save(self.record.to(S.IDLE, result=result, detail=detail), report=True)

    def install(self, attempt: Attempt, length: int, downloads: Downloads, stop: Callable[[], bool]) -> None:
        """Begin an attempt and bring it to its trial.

        Args:
            attempt: Names the set to run.
            length: Signed length of the artifact, bytes; 0 where none is fetched.
            downloads: Fetches the artifact.
            stop: Polled between chunks; True gives up, to be resumed later.
        """
        self._end_trial()
        known = self.record.attempt
        fresh = known is None or known.key != attempt.key
        held = not attempt.path or self.slots.whole(attempt.wanted)
        # Step 1: from here on a restart resumes the download. Until then a watch under way goes on.
        self.progress.save(self.record.begin(attempt, S.STAGED if held else S.FETCHING), report=fresh)
        self._watch = None
        if self._soak is not None:
            self._end_shadow()
        try:
            if not held:
                self._fetch(attempt, length, downloads, stop)
            self._begin_trial()
        except TrustError as exc:
            failures = self.progress.passing if exc.attack in _TRANSPORT else self.progress.final
            refused = UpdateResult.NO_CHANGE_REFUSED
            self.progress.end(S.IDLE, failures(str(exc)), refused, str(exc), exc.attack)
        except (RetryableError, RegistryError, BundleError, OSError) as exc:
            if self.record.state not in UNCHANGED:
                raise  # the commit is decided: ``advance`` carries it out
            failed = UpdateResult.NO_CHANGE_FAILED
            self.progress.end(S.IDLE, self.progress.passing(str(exc)), failed, str(exc))

    def _fetch(self, attempt: Attempt, length: int, downloads: Downloads, stop: Callable[[], bool]) -> None:
        sha256 = attempt.release.sha256 or ""
        downloads.forget(keep=sha256)
        data = downloads.get(sha256, length, stop)
        # Step 2: the bytes are the signed ones; their content is checked, and stored beside what runs.
        self.progress.save(self.record.to(S.VERIFIED))
        _, files = open_artifact(data, attempt.release.version, self._resources.profile)
        self.slots.stage(attempt.wanted, files)
        # Step 3: the slot is complete.
        self.progress.save(self.record.to(S.STAGED))
        downloads.forget()

    def _begin_trial(self) -> None:
        attempt, resources = self.progress.attempt, self._resources
        if self.record.looping:
            detail = f"given up after {attempt.transitions} persisted transitions"
            self.progress.end(S.IDLE, self.progress.final("looped"), UpdateResult.NO_CHANGE_FAILED, detail)
            return
        bundle, before = self.slots.bundle(attempt.wanted), self.slots.bundle(self.pointer.active)
        # The child loads the model in force, too, to compare both on faults.
        needed, available = memory_needed(len(bundle.model) + len(before.model)), resources.available()
        if needed > available:
            self._defer(f"a trial needs {needed} bytes of memory, {available} are available")
            return
        # Step 4: a trial touches nothing that runs; after a restart it begins anew.
        self.progress.save(self.record.to(S.TRIAL), report=True)
        self._again = self.slots.known(attempt.wanted)
        if self._again:
            self._commit()  # it proved itself on this device before: its golden vectors are trial enough
            return
        active = self._running.models.active
        child = resources.trials.join(attempt.wanted.digest, self.slots.path(attempt.wanted))
        comparison = ShadowComparison.start(active.version, attempt.release.version, resources.profile)
        generic = bundle.manifest.featureset == ANY_FEATURESET
        skip = resources.profile.model.warmup_windows if generic else 0
        wide, switch = any(resources.profile.wide), self._running.switch
        ask = partial(fault_question, self.device_id, attempt.wanted, self.slots, switch, wide=wide)
        self._trial = TrialFeed(self.device_id, child, comparison, skip, self._wake, self._monotonic, ask)
        self._running.set_observer(self._trial)

    # Progress --------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Act on what windows and child processes have brought, and on what a failed write broke off."""
        self._running.release_retired()
        self.progress.save_start()
        self.progress.retry_reports()
        if self.record.state is S.RESTORING:
            self._finish_restore()
        elif self.record.state is S.COMMITTED:
            self._carry_out_commit()
        elif self._trial is not None:
            self._advance_trial(self._trial)
        elif self._watch is not None:
            self._advance_watch(self._watch)
        elif self._soak is not None:
            self._advance_soak(self._soak)
        elif self.record.state in UNCHANGED:
            self.progress.save(broken_off(self.record))

    def _advance_trial(self, feed: TrialFeed) -> None:
        progress, reason = feed.progress(self._resources.profile.rollout.trial_windows)
        self.shadow = feed.to_status()
        if progress == "pass":
            self._commit(feed)
        elif progress == "fail":
            if feed.child.dead and self.progress.note_limit():
                reason += "; a process of this machine was killed for want of memory"
            self._restore(f"the trial failed: {reason}", feed.comparison.summary(in_force=False))
        elif progress == "defer":
            self._defer(reason)

    def _commit(self, feed: TrialFeed | None = None) -> None:
        shadow = None if feed is None else feed.comparison.summary(in_force=False)
        try:
            predictor = self._resources.models.get(self.slots, self.progress.attempt.wanted)
        except BundleError as exc:
            self._restore(f"the trial failed: {exc}", shadow)
            return
        # Step 5: the decision; a restart, or the next call of ``advance``, carries it out again.
        decided = self.record.to(S.COMMITTED)
        if feed is not None and feed.faults is not None:
            decided = decided.tried(feed.faults.says, on_faults=not feed.faults.not_tried)
        self.progress.save(decided)
        self._carry_out_commit(predictor, shadow)

    def _carry_out_commit(self, loaded: Predictor | None = None, shadow: ShadowSummary | None = None) -> None:
        """Do what a commit decided. Idempotent: a failed write has it called again."""
        self._end_trial()
        attempt = self.progress.attempt
        try:
            predictor = loaded or self._resources.models.get(self.slots, attempt.wanted)
            # Step 6: one write makes it the set that runs, for good.
            self.slots.switch(attempt.wanted)
        except BundleError as exc:
            self._restore(f"the commit failed: {exc}", shadow)
            return
        # Step 7: the sensing loop takes it over between two windows.
        before = self._running.models
        if before.active is not predictor:
            self._running.run(self._under_watch(predictor, before.active))
        elif self._watch is None:
            self._running.run(self._under_watch(predictor, self._running.earlier_model()))
        reported = {k: v for k, v in self.record.reported.items() if k != "artifact"}
        live = attempt.model_copy(update={"live": True})
        self.progress.save(self.record.to(S.WATCH, attempt=live, reported=reported))
        committed = {"state": S.COMMITTED, "result": UpdateResult.COMMITTED}
        self.progress.report(self.record.model_copy(update=committed), shadow)
        log.info("%s is in force", live.release.version, extra={"device_id": self.device_id})

    def _under_watch(self, active: Predictor, before: Predictor | None) -> ActiveModels:
        old = "" if before is None else before.version
        comparison = ShadowComparison.start(old, active.version, self._resources.profile)
        self._watch = ShadowWatch(comparison, self._wake)
        return ActiveModels(active, before, self._watch)

    def _advance_watch(self, watch: ShadowWatch) -> None:
        comparison = watch.comparison
        self.shadow = comparison.to_status()
        state, reason = comparison.judge(self._resources.profile.rollout.watch_windows, early=True)
        if state == "fail":
            self._restore(f"the watch failed: {reason}", comparison.summary(in_force=True))
        elif state == "pass":
            self._prove(comparison)

    def _prove(self, comparison: ShadowComparison) -> None:
        # Stop counting first: if a write below fails, it is tried again with the same comparison.
        self._end_shadow()
        self.slots.prove()
        self.progress.save(self.record.proved(self.progress.attempt))
        self._watch = None
        self.progress.report(self.record, comparison.summary(in_force=True))
        self.slots.tidy()
        self._begin_soak(comparison)

    def _begin_soak(self, comparison: ShadowComparison) -> None:
        """Have the model before go on scoring in shadow: the rollout may need more windows than the watch.

        Not where the device only returns to a set that it had proved before.
        """
        before = self._running.models.shadow or self._running.earlier_model()
        soak = SoakWatch(comparison, self._resources.profile)
        if before is not None and not soak.is_over and not self._again and self.progress.attempt.rollout_id:
            self._soak = soak
            self._running.run(ActiveModels(self._running.models.active, before, soak))

    def _advance_soak(self, soak: SoakWatch) -> None:
        self.shadow = soak.comparison.to_status()
        if (summary := soak.due()) is not None:
            self.progress.report(self.record, summary)
        if soak.is_over:
            self._end_shadow()

    def _end_shadow(self) -> None:
        """Score by the model in force alone, unless the process is to keep the one before in shadow."""
        self._soak = None
        models = self._running.models
        self._running.run(
            ActiveModels(models.active, models.shadow if self._resources.shadow_previous else None)
        )

    # Ends ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End in order: the next start does not count this one as a crash."""
        self._end_trial()
        self.progress.ended()

    def _defer(self, reason: str) -> None:
        self._end_trial()
        deferred = UpdateResult.NO_CHANGE_DEFERRED
        self.progress.end(S.DEFERRED, self.progress.passing(reason), deferred, reason)

    def _restore(self, reason: str, shadow: ShadowSummary | None = None) -> None:
        """Have an earlier set run again: that needs no network, and a disk only to make it last."""
        log.error("%s; restoring", reason, extra={"device_id": self.device_id})
        self._running.step_back()
        failed = self.progress.final(reason)
        self.progress.save(self.record.to(S.RESTORING, failed=failed, detail=reason[:500]))
        self._finish_restore(shadow)

    def _finish_restore(self, shadow: ShadowSummary | None = None) -> None:
        """Run the newest earlier set that loads, point at it, and report the end.

        Raises:
            SpoolError: There is none.
        """
        self._end_trial()
        self._watch = self._soak = None
        restored, only_factory = self._running.step_back()
        self.slots.settle(restored)
        if only_factory:
            self.progress.save(self.record.to(S.INCONSISTENT, result=UpdateResult.NOT_RESTORED))
        else:
            self.progress.save(self.record.to(S.RESTORED, result=UpdateResult.RESTORED))
        self.progress.report(self.record, shadow)
        self.slots.tidy()

    def _end_trial(self) -> None:
        feed, self._trial = self._trial, None
        if feed is not None:
            self._running.set_observer(None)
            self._resources.trials.leave(self.progress.attempt.wanted.digest, feed.child)
