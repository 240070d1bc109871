"""Our errors as gRPC statuses with details, each mapped once: google.rpc ErrorInfo, BadRequest, RetryInfo."""

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
INTERNAL = "internal error: the service's log has it"
WAITS = "the service waits for its operator: its log says why"


class UnknownNameError(RegistryError):
    """What a call names does not exist."""


class BadFieldError(RejectedError):
    """A request whose field cannot be what it is."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.description = message


class OutOfRangeError(BadFieldError):
    """An offset behind the end of what it points into."""


class LateError(RetryableError):
    """The call's time is over."""


CODES: tuple[tuple[type[PipelineError], int], ...] = (
    (OutOfRangeError, code_pb2.OUT_OF_RANGE),
    (BadFieldError, code_pb2.INVALID_ARGUMENT),
    (UnknownNameError, code_pb2.NOT_FOUND),
    (AccessError, code_pb2.PERMISSION_DENIED),
    (ClonedIdentityError, code_pb2.ALREADY_EXISTS),
    (LateError, code_pb2.DEADLINE_EXCEEDED),
    (RetryableError, code_pb2.UNAVAILABLE),
    (RejectedError, code_pb2.FAILED_PRECONDITION),
)
"""First match decides. What is not here is INTERNAL, and its text stays here."""


def status_of(error: Exception) -> status_pb2.Status:
    """The status that a caller sees of an error."""
    for kind, code in CODES:
        if isinstance(error, kind):
            return _status(code, str(error), _details(error))
    if isinstance(error, OperatorError):  # its text names our files
        retry = ServiceUnavailableError(WAITS, retry_after_s=30.0)
        return _status(code_pb2.UNAVAILABLE, WAITS, _details(retry))
    return _status(code_pb2.INTERNAL, INTERNAL, [_info("INTERNAL")])


def reason_of(kind: type[Exception]) -> str:
    """The error's class as google.rpc.ErrorInfo spells reasons: ``AccessError`` is ``ACCESS_ERROR``."""
    name = kind.__name__
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(name)).upper()


def _details(error: Exception) -> list[Message]:
    told = {"attack": error.attack.value} if isinstance(error, TrustError) else {}
    details: list[Message] = [_info(reason_of(_public(type(error))), told)]
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
    """The class that callers know: ours are shades of those in schemas/errors.py."""
    return next(k for k in kind.__mro__ if k.__module__ == "schemas.errors")


def _info(reason: str, told: dict[str, str] | None = None) -> Message:
    info: Message = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=told or {})
    return info


def _status(code: int, message: str, details: Sequence[Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        one = Packed()
        one.Pack(detail)
        packed.append(one)
    return status_pb2.Status(code=code, message=message, details=packed)
