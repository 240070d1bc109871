"""Carries one device from the set that runs to the one that should, or back; each step is persisted first.

Before the commit nothing that runs changes. The commit is one write of the pointer; the sensing loop takes
the new session over between two windows. What a crash leaves to do is in ``machine.after_restart``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_producer.seat import Lineup, Seat
from edge_producer.updates.compare import Comparison
from edge_producer.updates.content import memory_needed, open_artifact
from edge_producer.updates.download import Downloads
from edge_producer.updates.journal import Journal
from edge_producer.updates.machine import Attempt, Failure, Record, after_restart
from edge_producer.updates.shared import Shared
from edge_producer.updates.slots import ModelSet, Pointer, Slots
from edge_producer.updates.stand import Stand
from edge_producer.updates.trials import Tap, Watch
from edge_producer.window import Predictor
from schemas.bundle import ANY_FEATURESET
from schemas.errors import BundleError, RegistryError, RetryableError, SpoolError, TrustError
from schemas.proto import delivery_pb2 as pb
from schemas.updates import Attack, Result, UpdateState

log = logging.getLogger(__name__)

S = UpdateState
_TRANSPORT = (Attack.TAMPERED_ARTIFACT, Attack.ENDLESS_DATA, Attack.SLOW_RETRIEVAL)
"""What the way to the device may have done to a good artifact: worth another try, later."""

Tell = Callable[[Record, pb.Shadow | None], None]
"""Takes each record worth a report, and what the models did beside each other."""


@dataclass(frozen=True)
class Parts:
    """What one device's installer works with.

    Attributes:
        now_s: Trusted time, seconds since 1970.
        wake: Called from other threads when ``advance`` has something to do.
        tell: Takes what is worth a report.
    """

    slots: Slots
    journal: Journal
    now_s: Callable[[], float]
    wake: Callable[[], None]
    tell: Tell


class Installer:
    """One device's updates, from an instruction on. Used by one thread; ``seat`` by the sensing loop too.

    Args:
        device_id: Whose.
        parts: The device's own.
        shared: Its process's.

    Raises:
        SpoolError: No set of models can be loaded, not even the factory's.
    """

    def __init__(self, device_id: str, parts: Parts, shared: Shared) -> None:
        self.device_id = device_id
        self.slots = parts.slots
        self.shadow: dict[str, Any] = {}
        self._parts = parts
        self._shared = shared
        self._tap: Tap | None = None
        self._watch: Watch | None = None
        self._stand = Stand(device_id, parts.slots, shared.models)
        self.record = self._recovered()
        self._stand.put(self._first_lineup())

    # After a restart: no network is needed ---------------------------------------------------------------

    def _recovered(self) -> Record:
        journal = self._parts.journal
        record = journal.load()
        if record is None:
            log.error("the record of updates is unreadable: restoring", extra={"device_id": self.device_id})
            detail = "the record of updates was unreadable"
            return journal.save(Record(state=S.RESTORING, seq=journal.accepted(), detail=detail))
        pointer = self.slots.pointer()
        following = after_restart(record, pointer.active if pointer.proven else None)
        if following != record:
            journal.save(following)
        if following.state is S.COMMITTED and following.attempt is not None:
            try:
                self.slots.switch(following.attempt.wanted)
            except BundleError as exc:
                return journal.save(following.to(S.RESTORING, detail=str(exc)[:500]))
        return following

    def _first_lineup(self) -> Lineup:
        """The pointer's set if it loads; under watch where it has not proved itself; else an earlier one."""
        try:
            active = self._shared.models.get(self.slots, self.slots.pointer().active)
        except BundleError as exc:
            log.exception("the set in force cannot be loaded", extra={"device_id": self.device_id})
            if self.record.state is not S.RESTORING:
                forced = {"state": S.RESTORING, "detail": str(exc)[:500]}
                self._save(self.record.model_copy(update=forced))
        if self.record.state is S.RESTORING:
            return Lineup(self._restored())
        attempt = self.record.attempt
        if self.record.state in (S.COMMITTED, S.WATCH) and attempt is not None:
            self._save(self.record.to(S.WATCH, attempt=attempt.model_copy(update={"live": True})))
            return self._watched(active, self._stand.earlier())
        return Lineup(active, self._stand.earlier() if self._shared.shadow_previous else None)

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
            self._save(self.record.to(S.IDLE, result=Result.NO_CHANGE_DEFERRED, detail=detail), tell=True)

    def install(self, attempt: Attempt, length: int, downloads: Downloads, stop: Callable[[], bool]) -> None:
        """Begin an attempt and bring it to its trial.

        Args:
            attempt: What is wanted.
            length: Of the artifact, signed; 0 where none is fetched.
            downloads: Fetches it.
            stop: Asked while fetching.
        """
        self._end_trial()
        self._watch = None
        known = self.record.attempt
        fresh = known is None or known.key != attempt.key
        try:
            if not attempt.path or self.slots.whole(attempt.wanted):
                self._save(self.record.begin(attempt, S.STAGED), tell=fresh)
            else:
                self._fetch(attempt, length, downloads, stop, fresh=fresh)
            self._begin_trial()
        except TrustError as exc:
            kind = self._may_pass if exc.attack in _TRANSPORT else self._final
            self._end(S.IDLE, kind(str(exc)), Result.NO_CHANGE_REFUSED, str(exc), exc.attack)
        except (RetryableError, RegistryError, BundleError, OSError) as exc:
            self._end(S.IDLE, self._may_pass(str(exc)), Result.NO_CHANGE_FAILED, str(exc))

    def _fetch(
        self, attempt: Attempt, length: int, downloads: Downloads, stop: Callable[[], bool], *, fresh: bool
    ) -> None:
        sha256 = attempt.release.sha256 or ""
        # Step 1: from here on a restart resumes the download.
        self._save(self.record.begin(attempt, S.FETCHING), tell=fresh)
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
            self._end(S.IDLE, self._final("looped"), Result.NO_CHANGE_FAILED, detail)
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
        comparison = Comparison.start(active.version, attempt.release.version, shared.profile)
        generic = bundle.manifest.featureset == ANY_FEATURESET
        skip = shared.profile.model.warmup_windows if generic else 0
        self._tap = Tap(self.device_id, child, comparison, skip, self._parts.wake)
        self._stand.observe(self._tap)

    # Progress --------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Take up what windows and child processes have brought since."""
        self._stand.free()
        if self._tap is not None:
            self._advance_trial(self._tap)
        elif self._watch is not None:
            self._advance_watch(self._watch)

    def _advance_trial(self, tap: Tap) -> None:
        self.shadow = tap.comparison.to_status()
        progress, reason = tap.progress(self._shared.profile.rollout.trial_windows)
        if progress == "pass":
            self._commit(tap.comparison)
        elif progress == "fail":
            self._restore(f"the trial failed: {reason}", tap.comparison.to_proto(in_force=False))
        elif progress == "defer":
            self._defer(reason)

    def _commit(self, comparison: Comparison | None = None) -> None:
        attempt, shadow = self._attempt, None if comparison is None else comparison.to_proto(in_force=False)
        try:
            predictor = self._shared.models.get(self.slots, attempt.wanted)
        except BundleError as exc:
            self._restore(f"the trial failed: {exc}", shadow)
            return
        self._end_trial()
        # Step 5: the decision; a restart carries it out again.
        self._save(self.record.to(S.COMMITTED))
        # Step 6: one write makes it the set that runs, for good.
        self.slots.switch(attempt.wanted)
        # Step 7: the sensing loop takes it over between two windows.
        self._stand.put(self._watched(predictor, self._stand.lineup.active))
        told = {k: v for k, v in self.record.told.items() if k != "artifact"}
        live = self._attempt.model_copy(update={"live": True})
        self._save(self.record.to(S.WATCH, attempt=live, told=told))
        as_told = {"state": S.COMMITTED, "result": Result.COMMITTED}
        self._parts.tell(self.record.model_copy(update=as_told), shadow)
        log.info("%s is in force", attempt.release.version, extra={"device_id": self.device_id})

    def _watched(self, active: Predictor, before: Predictor | None) -> Lineup:
        old = "" if before is None else before.version
        comparison = Comparison.start(old, active.version, self._shared.profile)
        self._watch = Watch(comparison, self._parts.wake)
        return Lineup(active, before, self._watch)

    def _advance_watch(self, watch: Watch) -> None:
        comparison = watch.comparison
        self.shadow = comparison.to_status()
        verdict, reason = comparison.judge(self._shared.profile.rollout.watch_windows, early=True)
        if verdict == "fail":
            self._restore(f"the watch failed: {reason}", comparison.to_proto(in_force=True))
        elif verdict == "pass":
            self._prove(comparison)

    def _prove(self, comparison: Comparison) -> None:
        self.slots.prove()
        self._save(self.record.proved(self._attempt))
        self._parts.tell(self.record, comparison.to_proto(in_force=True))
        self._watch = None
        lineup = self._stand.lineup
        self._stand.put(Lineup(lineup.active, lineup.shadow if self._shared.shadow_previous else None))
        self.slots.tidy()

    # Ends ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End in order: the next start does not count this one as a crash."""
        self._end_trial()
        attempt = self.record.attempt
        if self.record.state is S.WATCH and attempt is not None and attempt.live:
            self._save(self.record.to(S.WATCH, attempt=attempt.model_copy(update={"live": False})))

    def refuse_metadata(self, error: TrustError) -> None:
        """Report that what the service sent does not hold, once per cause; an attempt under way goes on."""
        cause = f"{error.attack}: {error}"[:600]
        if self.record.told.get("metadata") == cause:
            return
        log.warning("refused: %s", error, extra={"device_id": self.device_id})
        told = {**self.record.told, "metadata": cause}
        self._save(self.record.model_copy(update={"told": told}))
        refusal = {"attempt": None, "result": Result.NO_CHANGE_REFUSED, "attack": error.attack}
        self._parts.tell(self.record.model_copy(update={**refusal, "detail": str(error)[:500]}), None)

    def metadata_holds(self) -> None:
        """Whatever was refused before is over."""
        if "metadata" in self.record.told:
            told = {k: v for k, v in self.record.told.items() if k != "metadata"}
            self._save(self.record.model_copy(update={"told": told}))

    def _defer(self, reason: str) -> None:
        self._end_trial()
        self._end(S.DEFERRED, self._may_pass(reason), Result.NO_CHANGE_DEFERRED, reason)

    def _end(
        self,
        state: UpdateState,
        failed: dict[str, Failure],
        result: Result,
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

    def _restore(self, reason: str, shadow: pb.Shadow | None = None) -> None:
        """Have the set from before run again; needs no network."""
        log.error("%s; restoring", reason, extra={"device_id": self.device_id})
        self._end_trial()
        self._save(self.record.to(S.RESTORING, failed=self._final(reason), detail=reason[:500]))
        before, active = self._stand.lineup, self._restored(shadow)
        self._stand.put(Lineup(active, before.shadow if active is before.active else None))

    def _restored(self, shadow: pb.Shadow | None = None) -> Predictor:
        """The newest earlier set that loads, the pointer at it, the end reported.

        Raises:
            SpoolError: There is none.
        """
        self._watch = None
        active, only_factory = self._stand.go_back()
        if only_factory:
            self._save(self.record.to(S.INCONSISTENT, result=Result.NOT_RESTORED))
        else:
            self._save(self.record.to(S.RESTORED, result=Result.RESTORED))
        self._parts.tell(self.record, shadow)
        self.slots.tidy()
        return active

    # Small things ----------------------------------------------------------------------------------------

    @property
    def seat(self) -> Seat:
        """What the sensing loop reads."""
        return self._stand.seat

    @property
    def pointer(self) -> Pointer:
        """Which set runs."""
        return self.slots.pointer()

    @property
    def _attempt(self) -> Attempt:
        if self.record.attempt is None:
            raise SpoolError(f"{self.device_id}: state {self.record.state} without an attempt")
        return self.record.attempt

    def _save(self, record: Record, *, tell: bool = False) -> None:
        self.record = self._parts.journal.save(record)
        if tell:
            self._parts.tell(self.record, None)

    def _end_trial(self) -> None:
        tap, self._tap = self._tap, None
        if tap is not None:
            self._stand.observe(None)
            self._shared.trials.leave(self._attempt.wanted.digest, tap.child)
