"""The door to gRPC's calls: checks identity, role and deadline of every call, and maps its errors.

Handlers behind it are plain: ``async (request, call) -> reply``, or an async generator of replies.
Interceptors would be the usual place, but they do not see the peer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from model_service.holder import Holder
from model_service.identity.certificates import read_holder
from model_service.service.access import AccessList
from model_service.service.call_budgets import CallBudgets, CallRate
from model_service.service.connections.connection_bounds import network_of
from model_service.service.connections.connection_relay import ConnectionRelay
from model_service.service.refusal_log import RefusalLog
from model_service.service.refusals import BadFieldError, LateError, OverBudgetError, status_of
from model_service.service.request_decoding import UndecodableRequest, decoder
from schemas.errors import AccessError, OperatorError, PipelineError
from schemas.updates import Role

log = logging.getLogger(__name__)

DETAILS_KEY = "grpc-status-details-bin"
MARGIN_S = 0.1
"""Subtracted from a caller's deadline, so that a refusal reaches the caller before it gives up."""
ANYBODY: frozenset[Role] = frozenset()
DEVICES = frozenset({Role.DEVICE})
AT_ONCE, AT_ONCE_OF_ADDRESS = 32, 256
"""Calls that may run at the same time: of one caller, and of one address without certificates, behind which
may be a whole site."""
_RETRY_S = 5.0
_USUAL = CallRate(burst=600, per_s=20.0)


@dataclass(frozen=True)
class AccessRule:
    """Who may call a method, for how long, and how often.

    Attributes:
        roles: The caller needs one of these; ``ANYBODY``: no certificate is needed (server-TLS listener).
        limit_s: Longest time of a call, whatever deadline the caller has set.
        rate: Of each caller; of each address where there is no certificate.
    """

    roles: frozenset[Role]
    limit_s: float
    rate: CallRate = _USUAL


@dataclass(frozen=True)
class ServiceCall:
    """What a handler knows about its call.

    Attributes:
        peer: Holder of the client certificate; None on the server-TLS listener.
        until: Time of the running event loop by which to answer; never later than the certificate's end.
        check: Raises AccessError once the peer is no longer let in; streams call it again and again.
        identify: Takes the name of a caller who has shown, without a certificate, who it is: its connection
            is no stranger's any more.
    """

    peer: Holder | None
    until: float
    check: Callable[[], None]
    identify: Callable[[str], None]

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
Stream = Callable[[Any, ServiceCall], AsyncGenerator[Message | bytes, None]]
"""Gives messages, or bytes that are one."""


class CallDoor:
    """Wraps plain handlers in the checks.

    Args:
        access: Decides who is let in.
        relay: Knows the connections; None: gRPC listens on the network by itself, as in tests.
        budgets: Decide how often each caller may call.

    Attributes:
        refused: Refused calls by gRPC code.
        refusals: Decides which of them the log names one by one.
    """

    def __init__(
        self, access: AccessList, relay: ConnectionRelay | None = None, budgets: CallBudgets | None = None
    ) -> None:
        self._access, self._relay = access, relay
        self._budgets = CallBudgets() if budgets is None else budgets
        self._running: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.refusals = RefusalLog()

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

    def log_sums(self) -> None:
        """Write the sums of refusals that were not logged one by one; call it every few seconds."""
        for line in self.refusals.sums(time.monotonic()):
            log.info("%s", line)

    def _handler(self, method: MethodDescriptor, implementation: object, rule: AccessRule) -> Any:
        handle = getattr(implementation, _snake(method.name))
        if method.server_streaming:
            make, behaviour = grpc.stream_stream_rpc_method_handler, self._stream(method, handle, rule)
        else:
            make, behaviour = grpc.stream_unary_rpc_method_handler, self._unary(method, handle, rule)
        # All methods read their request as a stream, which is the same on the wire: else gRPC would wait for
        # it before any check, without a limit.
        decode = decoder(GetMessageClass(method.input_type))
        return make(behaviour, request_deserializer=decode, response_serializer=_serialize)

    def _unary(self, method: MethodDescriptor, handle: Unary, rule: AccessRule) -> Any:
        async def behaviour(requests: Any, context: Any) -> Any:
            async def answer(call: ServiceCall) -> Message:
                return await handle(await _request(requests, rule, call), call)

            return await self._run(method, rule, context, answer)

        return behaviour

    def _stream(self, method: MethodDescriptor, handle: Stream, rule: AccessRule) -> Any:
        async def behaviour(requests: Any, context: Any) -> None:
            async def answer(call: ServiceCall) -> None:
                many = method.client_streaming
                given = _decoded(requests) if many else await _request(requests, rule, call)
                async with aclosing(handle(given, call)) as messages:
                    async for message in messages:
                        await context.write(message)

            await self._run(method, rule, context, answer)

        return behaviour

    async def _run(
        self,
        method: MethodDescriptor,
        rule: AccessRule,
        context: Any,
        answer: Callable[[ServiceCall], Awaitable[Any]],
    ) -> Any:
        limit_s = _limit(rule, context.time_remaining())
        try:
            with self._admitted(method, rule, context, limit_s) as call:
                return await _in_time(answer(call), limit_s, method.name)
        except Exception as exc:  # noqa: BLE001  (the text of an unforeseen error must not reach the caller)
            await self._refuse(method, context, exc)

    @contextmanager
    def _admitted(
        self, method: MethodDescriptor, rule: AccessRule, context: Any, limit_s: float
    ) -> Iterator[ServiceCall]:
        """Let the call in, and count it while it runs."""
        until = asyncio.get_running_loop().time() + limit_s
        # Step 1: identity, certificate, revocations and role. The listener for strangers has none to check.
        if rule.roles == ANYBODY:
            call = self._stranger(context, until)
            caller, most = f"address {network_of(self._address(context))}", AT_ONCE_OF_ADDRESS
        else:
            call = self._holder(method, rule, context, until)
            caller, most = call.actor, AT_ONCE
        # Step 2: the caller's budget. What it is refused from here on, it has paid for.
        self._budgets.spend((caller, method.full_name), rule.rate)
        if self._running[caller] >= most:
            raise OverBudgetError(f"{most} calls of {caller} run already", _RETRY_S)
        self._running[caller] += 1
        try:
            yield call
        finally:
            self._running -= Counter([caller])

    def _holder(self, method: MethodDescriptor, rule: AccessRule, context: Any, until: float) -> ServiceCall:
        peer = _peer(context)

        def check() -> None:
            self._access.check(peer, rule.roles, method.name)

        check()
        self._identify(context, peer.name)
        # No call outlives its certificate.
        until = min(until, asyncio.get_running_loop().time() + self._access.remaining_s(peer))
        return ServiceCall(peer, until, check, lambda _name: None)

    def _stranger(self, context: Any, until: float) -> ServiceCall:
        return ServiceCall(
            None, until, lambda: None, lambda name: self._identify(context, f"{name}, enrolling")
        )

    def _identify(self, context: Any, name: str) -> None:
        if self._relay is not None:
            self._relay.identify(context.peer(), name)

    def _address(self, context: Any) -> str:
        return "" if self._relay is None else self._relay.address(context.peer())

    async def _refuse(self, method: MethodDescriptor, context: Any, error: Exception) -> None:
        """Answer with the error, and log it unless the same method was refused so a moment ago."""
        status = status_of(error)
        code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
        self.refused[code.name] += 1
        is_ours = isinstance(error, PipelineError)
        text = f"{method.name} refused: {error}" if is_ours else f"{method.name} failed: {error!r}"
        if line := self.refusals.line(f"{method.full_name} {code.name}", text, time.monotonic()):
            level = logging.ERROR if isinstance(error, OperatorError) or not is_ours else logging.INFO
            log.log(level, "%s", line, exc_info=None if is_ours else error)
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


async def _request(requests: AsyncIterator[Any], rule: AccessRule, call: ServiceCall) -> Message:
    """The only request of a call.

    Raises:
        BadFieldError: It is no message, or there is none.
        AccessError: A device acts for another one.
    """
    async with aclosing(_decoded(requests)) as decoded:
        async for request in decoded:
            if rule.roles == DEVICES and call.actor != (claimed := getattr(request, "device_id", "")):
                raise AccessError(f"{call.actor} may not act for {claimed[:64]!r}")
            return request
    raise BadFieldError("request", "the call has none")


async def _decoded(requests: AsyncIterator[Any]) -> AsyncGenerator[Message, None]:
    """The requests of a stream.

    Raises:
        BadFieldError: One of them is no message.
    """
    async for request in requests:
        if isinstance(request, UndecodableRequest):
            raise request.error
        yield request


def _peer(context: Any) -> Holder:
    pems = context.auth_context().get("x509_pem_cert", ())
    if not pems:
        raise AccessError("this call needs a client certificate")
    return read_holder(bytes(pems[0]))


def _limit(rule: AccessRule, remaining_s: float | None) -> float:
    if remaining_s is None:
        return rule.limit_s
    return min(rule.limit_s, max(0.0, remaining_s - MARGIN_S))


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
