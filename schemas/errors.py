"""Errors that all packages share, by what the caller does next.

* PipelineError
  x RetryableError            the same call may succeed later: back off, try again
    + BrokerUnavailableError
    + LakeConflictError
    + ServiceUnavailableError
    + NotEnoughDataError      (a training run waits for more rows)
    + LookupFailedError
    + SourceLostError         (a live source: the device opens it again)
  x RejectedError             it never will: dead-letter it, refuse it, go on
    + ProfileError
      - NoSuchProfileError  (the file is missing, or is something else)
    + SourceError
      - NoSuchRecordingError (likewise)
      - DoubtfulRecordingError (it can be read in more than one way, or too much would be lost)
      - RepeatedRecordingError (it was replayed before)
    + MessageError            (class name and reason travel on the dead-letter topic)
      - UnknownSchemaError
      - DecodeError
      - SignatureError
      - ClonedIdentityError
      - ForeignBootError    (rows of a boot that another producer sends)
      - PolicyError
      - LimitError
      - ProfileVersionError (of a profile: not signed, not for this group, or never known)
        - UnknownVersionError (not known yet: its rows wait a while)
      - PoisonError
    + BundleError
    + TrustError              (carries the attack that the update resembles)
    + AccessError
    + RegistryError
    + DatasetError
    + SpoolError
      - SpoolInUseError
      - SpoolOwnerError     (of other devices, or of another profile)
      - SpoolUnavailableError (the disk does not take or give it now: try again)
        - SpoolCrowdedError (its own limit does not take it: make room)
      - SpoolDamagedError   (set it aside, salvage what can be read)
    + QueryError
      - UnreadableDataError
      - NoLakeError         (nothing has landed yet)
  x TaskLostError             another worker owns the task: discard, reload
  x TasksStoppedError         these tasks cannot go on, the others can: leave them, try them again later
  x OperatorError             a person must decide; the message names the range or file
    + DamagedLakeError        (what the file concerns stops, the rest goes on)
    + DamagedFileError        (the same, outside the lake)
    + StackError
    + BackupError
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


class SourceLostError(RetryableError):
    """A live source that cannot be reached, refuses the device or was lost.

    Operator action: none while it lasts minutes, the device opens it again; else see what the message names.
    """


class RejectedError(PipelineError):
    """The input can never be accepted; the caller dead-letters or refuses it."""


class ProfileError(RejectedError):
    """A profile file that does not parse or contradicts itself.

    Operator action: `edgeloop profile check FILE` names each field and what it wants.
    """


class NoSuchProfileError(ProfileError):
    """There is no such profile, or the file is no profile at all.

    Operator action: `edgeloop profile list` names those that there are; `edgeloop profile init FILE` drafts
    one from a file of measurements.
    """


class SourceError(RejectedError):
    """An input file or stream that cannot be read as the profile describes it.

    Operator action: the message names the column, line or encoding; fix the file or `[replay]`.
    """


class NoSuchRecordingError(SourceError):
    """There is no such file, or it is no file of measurements at all.

    Operator action: name a file of measurements (text in columns, Parquet, a workbook) or a folder of them.
    """


class DoubtfulRecordingError(SourceError):
    """A recording that can be read in more than one way, or of which more than a few per cent would be lost.

    Operator action: give the option that the message names, or --force to go on as the lines above say.
    """


class RepeatedRecordingError(SourceError):
    """A recording that was replayed before, or one over the same time of the same device.

    Operator action: --replace lets the earlier rows no longer count; --device names another device.
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


class ForeignBootError(MessageError):
    """Something about a boot that another producer is to send: device and gateway never send the same rows.

    Operator action: the reason names device, boot and producer; `edgeloop fleet assign` changes who sends.
    """


class PolicyError(MessageError):
    """Inclusion probabilities or rates that the device's policy does not allow."""


class LimitError(MessageError):
    """More spools or gaps in the numbers than one producer may make the cloud remember."""


class ProfileVersionError(MessageError):
    """A version of a profile that is not signed by who must, is not for this group, or stays unknown.

    Operator action: `edgeloop profile history NAME` lists the versions with their groups and signers.
    """


class UnknownVersionError(ProfileVersionError):
    """A version that this lake does not hold yet; the message that names it waits, within bounds."""


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


class PermitError(RejectedError):
    """A permit for an excerpt is not followed.

    Attributes:
        refusal: Why, in one of the words of ``schemas.excerpt_words.PermitRefusal``.

    Operator action: `edgeloop excerpt show` names it; docs/excerpts.md says what to do about each.
    """

    def __init__(self, message: str, refusal: str = "") -> None:
        super().__init__(message)
        self.refusal = refusal


class RegistryError(RejectedError):
    """The object of a command is not in the model registry, or not in a state that allows the command."""


class DatasetError(RejectedError):
    """A training set that cannot be built as asked; the message names cut, span or column."""


class SpoolError(RejectedError):
    """The device's spool cannot be opened or is not this device's.

    Operator action: the message names the file; move it aside to start empty (its rows are lost).
    """


class SpoolInUseError(SpoolError):
    """Another process decides for these devices."""


class SpoolOwnerError(SpoolError):
    """The spool belongs to other devices, or holds what another profile has to send."""


class SpoolUnavailableError(SpoolError):
    """The disk is full, read-only or broken: the spool can be neither read nor written now."""


class SpoolCrowdedError(SpoolUnavailableError):
    """A transaction would make the spool larger than it may be, or the disk fuller than it may."""


class SpoolDamagedError(SpoolError):
    """The content of the spool is not what was written, or another version wrote it.

    Args:
        message: What was found.
        stale: It is whole, but older than it was: what it holds may have been sent under other numbers.
    """

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class QueryError(RejectedError):
    """SQL that DuckDB refuses, or a cut that does not exist."""


class NoLakeError(QueryError):
    """There is no lake in the folder: nothing has landed yet, or another folder is meant.

    Operator action: `edgeloop replay FILE --profile PROFILE`, `edgeloop up` or `edgeloop demo` makes one;
    EDGELOOP_STATE_DIR or --state-dir names another folder.
    """


class UnreadableDataError(QueryError):
    """DuckDB cannot read a data file; whoever asked verifies the files and asks again without damaged ones.

    Operator action: `edgeloop lake check` names the file; with `--repair` it restores it if it can.
    """


class TaskLostError(PipelineError):
    """Commit n of the task exists already: another worker owns it. Discard and reload."""


class TasksStoppedError(PipelineError):
    """These tasks cannot go on; everything else was committed.

    A part of the lake that they need is damaged, or their landing job fails through our own fault.

    Operator action: the message names the file, or job and exception; the tasks go on by themselves once it
    is mended.

    Attributes:
        reasons: Why, by number of the task.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = dict(reasons)


class OperatorError(PipelineError):
    """The pipeline cannot go on without a decision by a person.

    Operator action: docs/runbook.md has an entry for each message.
    """


class DamagedLakeError(OperatorError):
    """A file of the lake is torn, altered, missing or of another moment; only what needs it stops.

    Operator action: `edgeloop lake check` names every such file; with `--repair` it heals what it can.
    """


class DamagedFileError(OperatorError):
    """A file of state is torn, altered, missing or of another moment; only what needs it stops.

    Operator action: the message names file, consequence and remedy; docs/reliability.md lists every file.
    """


class StackError(OperatorError):
    """The local stack cannot start or stop; the message names what to install or change."""


class BackupError(OperatorError):
    """A backup cannot be taken or restored; the message names what to change."""
