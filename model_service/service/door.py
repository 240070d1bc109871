"""The door to gRPC's calls: checks identity, role and deadline of every call, and maps its errors.

Handlers behind it are plain: ``async (request, call) -> reply``, or an async generator of replies.
Interceptors would be the usual place, but they do not see the peer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from model_service.holder import Holder
from model_service.identity.certificates import read_holder
from model_service.service.access import AccessList
from model_service.service.refusals import LateError, status_of
from schemas.errors import AccessError, OperatorError, PipelineError
from schemas.updates import Role

log = logging.getLogger(__name__)

DETAILS_KEY = "grpc-status-details-bin"
MARGIN_S = 0.1
"""Subtracted from a caller's deadline, so that a refusal reaches the caller before it gives up."""
ANYBODY: frozenset[Role] = frozenset()
DEVICES = frozenset({Role.DEVICE})


@dataclass(frozen=True)
class AccessRule:
    """Who may call a method, and for how long.

    Attributes:
        roles: The caller needs one of these; ``ANYBODY``: no certificate is needed (server-TLS listener).
        limit_s: Longest time of a call, whatever deadline the caller has set.
    """

    roles: frozenset[Role]
    limit_s: float


@dataclass(frozen=True)
class ServiceCall:
    """What a handler knows about its call.

    Attributes:
        peer: Holder of the client certificate; None on the server-TLS listener.
        until: Time of the running event loop by which to answer; never later than the certificate's end.
        check: Raises AccessError once the peer is no longer let in; streams call it again and again.
    """

    peer: Holder | None
    until: float
    check: Callable[[], None]

    @property
    def actor(self) -> str:
        """Name of the caller, for records; empty on the server-TLS listener."""
        return "" if self.peer is None else self.peer.name

    @property
    def roles(self) -> frozenset[Role]:
        """Roles of the certificate."""
        return ANYBODY if self.peer is None else self.peer.roles

    @property
    def remaining_s(self) -> float:
        """Seconds left to answer in; never negative."""
        return max(0.0, self.until - asyncio.get_running_loop().time())


Unary = Callable[[Any, ServiceCall], Awaitable[Message]]
Stream = Callable[[Any, ServiceCall], AsyncGenerator[Message, None]]


class CallDoor:
    """Wraps plain handlers in the checks.

    Args:
        access: Decides who is let in.
    """

    def __init__(self, access: AccessList) -> None:
        self._access = access
        self.refused: dict[str, int] = {}
        """Refused calls by gRPC code."""

    def guard(
        self, service: ServiceDescriptor, implementation: object, rules: Mapping[str, AccessRule]
    ) -> grpc.GenericRpcHandler:
        """The checked handlers of a service's methods, in the form that gRPC takes.

        Args:
            service: Descriptor of the service.
            implementation: Has a handler for each method, named after it in snake_case.
            rules: By method name; every method must have one.

        Raises:
            ValueError: A method has no rule.
        """
        if missing := {m.name for m in service.methods} - set(rules):
            raise ValueError(f"no access rule for {', '.join(sorted(missing))}")
        handlers = {m.name: self._handler(m, implementation, rules[m.name]) for m in service.methods}
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _handler(self, method: MethodDescriptor, implementation: object, rule: AccessRule) -> Any:
        handle = getattr(implementation, _snake(method.name))
        request = GetMessageClass(method.input_type)
        if method.server_streaming:
            make, behaviour = grpc.unary_stream_rpc_method_handler, self._stream(method, handle, rule)
        else:
            make, behaviour = grpc.unary_unary_rpc_method_handler, self._unary(method, handle, rule)
        return make(behaviour, request_deserializer=request.FromString, response_serializer=_serialize)

    def _unary(self, method: MethodDescriptor, handle: Unary, rule: AccessRule) -> Any:
        async def behaviour(request: Message, context: Any) -> Any:
            async def answer(call: ServiceCall) -> Message:
                return await handle(request, call)

            return await self._run(method, rule, request, context, answer)

        return behaviour

    def _stream(self, method: MethodDescriptor, handle: Stream, rule: AccessRule) -> Any:
        async def behaviour(request: Message, context: Any) -> None:
            async def answer(call: ServiceCall) -> None:
                async with aclosing(handle(request, call)) as messages:
                    async for message in messages:
                        await context.write(message)

            await self._run(method, rule, request, context, answer)

        return behaviour

    async def _run(
        self,
        method: MethodDescriptor,
        rule: AccessRule,
        request: Message,
        context: Any,
        answer: Callable[[ServiceCall], Awaitable[Any]],
    ) -> Any:
        limit_s = _limit(rule, context.time_remaining())
        try:
            call = self._admit(method, rule, request, context, limit_s)
            return await _in_time(answer(call), limit_s, method.name)
        except OperatorError as exc:
            log.error("%s: %s", method.name, exc)  # noqa: TRY400  (the message says what to do)
            await self._abort(context, exc)
        except PipelineError as exc:
            log.info("%s refused: %s", method.name, exc)
            await self._abort(context, exc)
        except Exception as exc:  # the text of an unforeseen error must not reach the caller
            log.exception("%s failed", method.name)
            await self._abort(context, exc)

    def _admit(
        self, method: MethodDescriptor, rule: AccessRule, request: Message, context: Any, limit_s: float
    ) -> ServiceCall:
        # Step 1: identity. The listener for strangers has none to check.
        until = asyncio.get_running_loop().time() + limit_s
        if rule.roles == ANYBODY:
            return ServiceCall(None, until, lambda: None)
        peer = _peer(context)

        def check() -> None:
            self._access.check(peer, rule.roles, method.name)

        # Step 2: certificate, revocations and role.
        check()
        # Step 3: no call outlives its certificate.
        until = min(until, asyncio.get_running_loop().time() + self._access.remaining_s(peer))
        # Step 4: a device acts for itself alone.
        if rule.roles == DEVICES and peer.name != (claimed := getattr(request, "device_id", "")):
            raise AccessError(f"{peer.name} may not act for {claimed[:64]!r}")
        return ServiceCall(peer, until, check)

    async def _abort(self, context: Any, error: Exception) -> None:
        status = status_of(error)
        code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
        self.refused[code.name] = self.refused.get(code.name, 0) + 1
        await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))


async def _in_time(answer: Awaitable[Any], limit_s: float, method: str) -> Any:
    """Await the answer.

    Raises:
        LateError: It took longer than ``limit_s``.
    """
    try:
        async with asyncio.timeout(limit_s) as timeout:
            return await answer
    except TimeoutError as exc:
        if timeout.expired():
            raise LateError(f"{method} took longer than {limit_s:.1f} s") from exc
        raise


def _peer(context: Any) -> Holder:
    pems = context.auth_context().get("x509_pem_cert", ())
    if not pems:
        raise AccessError("this call needs a client certificate")
    return read_holder(bytes(pems[0]))


def _limit(rule: AccessRule, remaining_s: float | None) -> float:
    if remaining_s is None:
        return rule.limit_s
    return min(rule.limit_s, max(0.0, remaining_s - MARGIN_S))


def _serialize(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
