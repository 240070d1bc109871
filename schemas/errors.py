"""Errors that all packages share, by what the caller does next.

* PipelineError
  x RetryableError            the same call may succeed later: back off, try again
    + BrokerUnavailableError
    + LakeConflictError
    + ServiceUnavailableError
    + NotEnoughDataError      (a training run waits for more rows)
    + LookupFailedError
  x RejectedError             it never will: dead-letter it, refuse it, go on
    + ProfileError
    + SourceError
    + MessageError            (class name and reason travel on the dead-letter topic)
      - UnknownSchemaError
      - DecodeError
      - SignatureError
      - ClonedIdentityError
      - PolicyError
      - PoisonError
    + BundleError
    + TrustError              (carries the attack that the update resembles)
    + AccessError
    + RegistryError
    + DatasetError
    + SpoolError
    + QueryError
  x TaskLostError             another worker owns the task: discard, reload
  x TaskStoppedError          tasks whose landing job fails by our own fault: leave them, try again later
  x OperatorError             a person must decide; the message names the range or file
    + StackError
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.updates import Attack


class PipelineError(Exception):
    """Base of every error this project raises on purpose."""


class RetryableError(PipelineError):
    """The same call may succeed later; the caller backs off and tries again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BrokerUnavailableError(RetryableError):
    """No broker answered in time.

    Operator action: `edgeloop status`; devices keep spooling meanwhile.
    """


class LakeConflictError(RetryableError):
    """Another writer committed first; refresh the table handle and re-check."""


class ServiceUnavailableError(RetryableError):
    """The model service did not answer in time.

    Operator action: `edgeloop status`; devices keep running what they have.
    """


class NotEnoughDataError(RetryableError):
    """A training run has too few rows yet; it waits for more."""


class LookupFailedError(RetryableError):
    """Profiles or devices could not be read from the lake; never the fault of the message that asked.

    Operator action: the message quotes the cause.
    """


class RejectedError(PipelineError):
    """The input can never be accepted; the caller dead-letters or refuses it."""


class ProfileError(RejectedError):
    """A profile file that does not parse or contradicts itself.

    Operator action: `edgeloop profile check FILE` names each field and what it wants.
    """


class SourceError(RejectedError):
    """An input file or stream that cannot be read as the profile describes it.

    Operator action: the message names the column, line or encoding; fix the file or `[replay]`.
    """


class MessageError(RejectedError):
    """A message whose bytes, schema, signer or numbers are wrong.

    Operator action: `edgeloop dlq list`, then `show`; `replay` once the cause is gone.
    """


class UnknownSchemaError(MessageError):
    """A schema fingerprint or profile that was never registered with this lake."""


class DecodeError(MessageError):
    """Bytes that do not decode with the schema that their header names."""


class SignatureError(MessageError):
    """Unknown signer, revoked key, wrong digest or wrong signature."""


class ClonedIdentityError(MessageError):
    """A known message number with other bytes: two devices share one identity."""


class PolicyError(MessageError):
    """Inclusion probabilities or rates that the device's policy does not allow."""


class PoisonError(MessageError):
    """A message on which a job raises, hangs, or runs out of memory; it is set aside and the rest goes on.

    Operator action: the reason names job and exception; replay it once the job is mended.
    """


class BundleError(RejectedError):
    """A model bundle that is incomplete, altered or not made for the profile."""


class TrustError(RejectedError):
    """An update that is not signed, fresh, compatible or complete, as it claims to be; nothing was changed.

    Operator action: `edgeloop fleet devices` names the attack; docs/threat-model.md explains it.
    """

    def __init__(self, message: str, attack: Attack) -> None:
        super().__init__(message)
        self.attack = attack


class AccessError(RejectedError):
    """A certificate, token or role that does not allow the call.

    Operator action: the message names subject and role; join again, or ask a person with the role.
    """


class RegistryError(RejectedError):
    """The object of a command is not in the model registry, or not in a state that allows the command."""


class DatasetError(RejectedError):
    """A training set that cannot be built as asked; the message names cut, span or column."""


class SpoolError(RejectedError):
    """The device's spool cannot be opened or is not this device's.

    Operator action: the message names the file; move it aside to start empty (its rows are lost).
    """


class QueryError(RejectedError):
    """SQL that DuckDB refuses, or a cut that does not exist."""


class TaskLostError(PipelineError):
    """Commit n of the task exists already: another worker owns it. Discard and reload."""


class TaskStoppedError(PipelineError):
    """The landing job of some tasks fails through our own fault: nothing of them was committed.

    Operator action: the message names job and exception; the task goes on by itself once it is mended.
    """

    def __init__(self, stopped: Mapping[int, str]) -> None:
        super().__init__("; ".join(f"task {task}: {reason}" for task, reason in stopped.items()))
        self.stopped = dict(stopped)


class OperatorError(PipelineError):
    """The pipeline cannot go on without a decision by a person.

    Operator action: docs/runbook.md has an entry for each message.
    """


class StackError(OperatorError):
    """The local stack cannot start or stop; the message names what to install or change."""
