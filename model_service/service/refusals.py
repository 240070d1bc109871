"""Maps errors to gRPC statuses with details: google.rpc ErrorInfo, BadRequest, RetryInfo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from schemas.errors import (
    AccessError,
    ClonedIdentityError,
    OperatorError,
    PipelineError,
    RegistryError,
    RejectedError,
    RetryableError,
    ServiceUnavailableError,
    TrustError,
)

DOMAIN: Final = "edgeloop.v1"
INTERNAL = "internal error: see the log of the model service"
WAITS = "the service needs its operator: see the log of the model service"


class UnknownNameError(RegistryError):
    """What a call names does not exist."""


class BadFieldError(RejectedError):
    """A field of the request has an impossible value."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.description = message


class OutOfRangeError(BadFieldError):
    """The offset lies beyond the end of the artifact."""


class LateError(RetryableError):
    """The call's time is over."""


class OverBudgetError(RetryableError):
    """The caller has called too often, or has too many calls that run."""


CODES: tuple[tuple[type[PipelineError], int], ...] = (
    (OutOfRangeError, code_pb2.OUT_OF_RANGE),
    (BadFieldError, code_pb2.INVALID_ARGUMENT),
    (UnknownNameError, code_pb2.NOT_FOUND),
    (AccessError, code_pb2.PERMISSION_DENIED),
    (ClonedIdentityError, code_pb2.ALREADY_EXISTS),
    (LateError, code_pb2.DEADLINE_EXCEEDED),
    (OverBudgetError, code_pb2.RESOURCE_EXHAUSTED),
    (RetryableError, code_pb2.UNAVAILABLE),
    (RejectedError, code_pb2.FAILED_PRECONDITION),
)
"""The first match decides. Any other error is INTERNAL, and its text is not sent."""


def status_of(error: Exception) -> status_pb2.Status:
    """The status that a caller gets for an error."""
    for kind, code in CODES:
        if isinstance(error, kind):
            return _status(code, str(error), _details(error))
    if isinstance(error, OperatorError):  # its text names files of this machine
        retry = ServiceUnavailableError(WAITS, retry_after_s=30.0)
        return _status(code_pb2.UNAVAILABLE, WAITS, _details(retry))
    return _status(code_pb2.INTERNAL, INTERNAL, [_info("INTERNAL")])


def reason_of(kind: type[Exception]) -> str:
    """The error's class as google.rpc.ErrorInfo spells reasons: ``AccessError`` is ``ACCESS_ERROR``."""
    name = kind.__name__
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(name)).upper()


def _details(error: Exception) -> list[Message]:
    metadata = {"attack": error.attack.value} if isinstance(error, TrustError) else {}
    details: list[Message] = [_info(reason_of(_public(type(error))), metadata)]
    if isinstance(error, BadFieldError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.description
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, RetryableError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_s * 1e3))
        details.append(retry)
    return details


def _public(kind: type[Exception]) -> type[Exception]:
    """The class that callers know: the nearest base class in schemas/errors.py."""
    return next(k for k in kind.__mro__ if k.__module__ == "schemas.errors")


def _info(reason: str, metadata: dict[str, str] | None = None) -> Message:
    info: Message = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata or {})
    return info


def _status(code: int, message: str, details: Sequence[Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        one = Packed()
        one.Pack(detail)
        packed.append(one)
    return status_pb2.Status(code=code, message=message, details=packed)
