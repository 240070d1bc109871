"""One device's update as it is persisted and reported: to disk first, then to the queue of reports."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from edge_producer.updates.journal import Journal
from edge_producer.updates.recovery import recovered
from edge_producer.updates.report_retry import AddReport, ReportRetry
from edge_producer.updates.resource_limits import limit_counts
from edge_producer.updates.shadow_comparison import ShadowSummary
from edge_producer.updates.slots import ModelSet, ModelSlots
from edge_producer.updates.update_states import Attempt, Failure, UpdateRecord
from schemas.errors import SpoolError, TrustError
from schemas.updates import Attack, UpdateResult, UpdateState

log = logging.getLogger(__name__)


class UpdateProgress:
    """The record of one device's update, and the reports that follow from its changes. Used by one thread.

    Args:
        device_id: Named in logs and errors.
        journal: Persists the record.
        slots: The device's sets; a commit that a crash broke off is carried out on them.
        add_report: Puts a record into the queue of reports; may raise OSError.
        now_s: Trusted time, seconds since 1970.

    Attributes:
        record: The newest record. Persisted, except after a start or an end with a full disk.
    """

    def __init__(
        self,
        device_id: str,
        journal: Journal,
        slots: ModelSlots,
        add_report: AddReport,
        now_s: Callable[[], float],
    ) -> None:
        self.device_id = device_id
        self._journal = journal
        self._now_s = now_s
        self._reports = ReportRetry(device_id, add_report)
        self.record = recovered(device_id, journal, slots, limit_counts())
        self._start_saved = False

    @property
    def attempt(self) -> Attempt:
        """The attempt that the record is about.

        Raises:
            SpoolError: The record names none.
        """
        if self.record.attempt is None:
            raise SpoolError(f"{self.device_id}: state {self.record.state} without an attempt")
        return self.record.attempt

    def save(self, record: UpdateRecord, *, report: bool = False) -> None:
        """Persist a record, and report it if wanted.

        Raises:
            OSError: The disk does not take it; the record before stays the newest.
        """
        self.record = self._journal.save(record)
        self._start_saved = True
        if report:
            self._reports.add(self.record)

    def save_start(self) -> None:
        """Persist once that a process has started, so that the next one knows how this one ended.

        A disk that does not take it holds nothing up: the next step tries again.
        """
        if not self._start_saved:
            with suppress(OSError):
                self.save(self.record)

    def try_save(self, record: UpdateRecord) -> None:
        """Take over a record, and persist it if the disk has room: a start and an end wait for no disk."""
        self.record = self._journal.try_save(record)

    def report(self, record: UpdateRecord, shadow: ShadowSummary | None = None) -> None:
        """Report a record that is not persisted in this form, or one with a comparison of two models."""
        self._reports.add(record, shadow)

    def retry_reports(self) -> None:
        """Offer the reports again that the disk did not take."""
        self._reports.retry()

    def accept(self, seq: int, rollout_id: str) -> bool:
        """Remember the newest channel document; returns whether it is a new one."""
        if seq <= self.record.seq:
            return False
        self.save(self.record.accept(seq, rollout_id))
        return True

    def may_try(self, wanted: ModelSet, seq: int) -> bool:
        """Whether no earlier failure forbids an attempt at a set now."""
        return self.record.may_try(wanted, seq, self._now_s())

    def note_limit(self) -> bool:
        """Count it if a process of the machine was killed for want of memory since the last count."""
        now, before = limit_counts(), self.record.limits
        if before is None or not before.model_copy(update={"bounded": False}).may_have_hit(now):
            return False
        counted = {"out_of_memory": self.record.out_of_memory + 1, "limits": now}
        self.record = self.record.model_copy(update=counted)
        return True

    def ended(self) -> None:
        """End in order: the next start does not count this end as unclean, nor a watch as crashed."""
        record, attempt = self.record, self.record.attempt
        if record.state is UpdateState.WATCH and attempt is not None and attempt.live:
            record = record.to(UpdateState.WATCH, attempt=attempt.model_copy(update={"live": False}))
        self.try_save(record.model_copy(update={"running": False}))

    # How an attempt ends with nothing changed ------------------------------------------------------------

    def end(
        self,
        state: UpdateState,
        failed: dict[str, Failure],
        result: UpdateResult,
        detail: str,
        attack: Attack | None = None,
    ) -> None:
        """Record how an attempt ended with nothing changed; report it unless the same was reported last."""
        log.warning("%s: %s", result, detail, extra={"device_id": self.device_id})
        cause = f"{result}/{attack}/{self.attempt.wanted.digest}/{detail}"[:600]
        is_new = self.record.reported.get("artifact") != cause
        reported = {**self.record.reported, "artifact": cause}
        ended = {"failed": failed, "result": result, "attack": attack, "detail": detail[:500]}
        self.save(self.record.to(state, reported=reported, **ended), report=is_new)

    def passing(self, reason: str) -> dict[str, Failure]:
        """The failures, with one more of the attempt's set that may pass: it is tried again later."""
        attempt = self.attempt
        return self.record.fail(attempt.wanted, attempt.seq, self._now_s(), reason)

    def final(self, reason: str) -> dict[str, Failure]:
        """The failures, with one of the attempt's set that lasts until a newer channel document names it."""
        return self.record.give_up(self.attempt.wanted, self.attempt.seq, reason)

    # Metadata --------------------------------------------------------------------------------------------

    def refuse_metadata(self, error: TrustError) -> None:
        """Report once per cause that the service's metadata do not verify; an attempt under way goes on."""
        cause = f"{error.attack}: {error}"[:600]
        if self.record.reported.get("metadata") == cause:
            return
        log.warning("refused: %s", error, extra={"device_id": self.device_id})
        reported = {**self.record.reported, "metadata": cause}
        self.save(self.record.model_copy(update={"reported": reported}))
        refusal = {"attempt": None, "result": UpdateResult.NO_CHANGE_REFUSED, "attack": error.attack}
        self.report(self.record.model_copy(update={**refusal, "detail": str(error)[:500]}))

    def metadata_verified(self) -> None:
        """Forget the last refusal: should its cause come back, it is reported again."""
        if "metadata" in self.record.reported:
            reported = {k: v for k, v in self.record.reported.items() if k != "metadata"}
            self.save(self.record.model_copy(update={"reported": reported}))
