"""A session with an OPC UA server, and a subscription in it. The one door to asyncua (extra ``[opcua]``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from asyncua import Client, ua
from asyncua.client.ua_client import UaClientState
from asyncua.common.utils import ServiceError
from asyncua.crypto import security_policies
from asyncua.crypto.uacrypto import CertProperties, der_from_x509, x509_from_der

from edge_producer.sources.opcua_address import UNSECURED, ChannelNode, OpcUaAddress
from edge_producer.sources.opcua_trust import application_uri, check_server
from edge_producer.sources.source_access import SourceAccess
from schemas.errors import SourceError, SourceLostError
from schemas.instants import to_us

log = logging.getLogger(__name__)
logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # what matters of it is raised here, and said once

MOST_AT_SERVER = 256
"""Values of a node that the server is asked to keep between two reports."""
TIMEOUT_S, GOODBYE_S, LOOK_S = 10.0, 1.0, 1.0
LOST_AFTER_S, LOST_AFTER = 10.0, 5
"""A subscription is lost after so long, and so many intervals, without a word."""
SESSION_S, CHANNEL_S = 60.0, 3600.0
RETRY_NODES_S = 30.0
"""How often nodes that the server did not know are asked for again."""
OVERFLOW = 0x480
"""Bits of a status code that say that the server has dropped values of the node."""
UNIX_ERA = datetime(1970, 1, 1, tzinfo=UTC)


class NodeReport(NamedTuple):
    """What the server reports of one node.

    Attributes:
        at: Which of the nodes that were asked for.
        given: Its value, of whatever type.
        us: When it was measured, µs since 1970; None: the server does not say.
        quality: ``good``, ``uncertain`` or ``bad``.
        overflowed: The server has dropped values before this one.
    """

    at: int
    given: Any
    us: int | None
    quality: str
    overflowed: bool


class OpcUaSession:
    """What asyncio runs for an OPC UA source.

    Args:
        address: The server, and how it is spoken to.
        nodes: What is subscribed to.
        access: Credentials; ``ca`` holds the server's certificate, or its authority's.
        step_s: How often values are wanted.
        wall: What time it is, for certificates.
        on_subscribed: Called with the number of nodes that the server does not have.
        on_reports: Called with what the server reports, and when it does, µs since 1970. With nothing, too:
            then all is as it was.
    """

    def __init__(
        self,
        address: OpcUaAddress,
        nodes: Sequence[ChannelNode],
        access: SourceAccess,
        step_s: float,
        wall: Callable[[], datetime],
        *,
        on_subscribed: Callable[[int], None],
        on_reports: Callable[[list[NodeReport], int], None],
    ) -> None:
        self._address, self._nodes, self._access = address, tuple(nodes), access
        self._step_s, self._wall = step_s, wall
        self._publish_ms = address.publish_ms or min(max(1000 * step_s, 100.0), 1000.0)
        self._on_subscribed, self._on_reports = on_subscribed, on_reports
        self._heard_s = 0.0
        self._unknown = list(range(len(self._nodes)))

    async def serve(self, name: str) -> None:
        """Connect, subscribe, and go on until the server is lost.

        Args:
            name: Of the session, for people at the server.

        Raises:
            SourceLostError: The server cannot be reached or trusted, refuses the device, or was lost.
        """
        client = Client(self._address.url, timeout=TIMEOUT_S, watchdog_intervall=TIMEOUT_S / 2)
        client.name = client.description = name
        client.session_timeout, client.secure_channel_timeout = int(1000 * SESSION_S), int(1000 * CHANNEL_S)
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def on_lost(exc: Exception) -> None:
            _settle(lost, f"the connection was lost: {described(exc)}")

        client.connection_lost_callback = on_lost
        try:
            await self._secure(client)
            await client.connect()
            try:
                await self._watch(client, await self._subscribe(client, lost), lost)
            finally:
                await _part(client)
        except (ServiceError, ua.UaError, OSError, TimeoutError, ValueError) as exc:
            raise SourceLostError(f"{self._address.url}: {described(exc)}") from exc
        finally:
            await _hang_up(client)

    async def _secure(self, client: Client) -> None:
        """Choose the secure channel, with the server's certificate checked, and name the user."""
        access = self._access
        if self._address.security == UNSECURED:
            return
        if access.ca is None or access.cert is None or access.key is None:
            raise SourceLostError("certificates are missing")  # check_access says which
        client.application_uri = application_uri(access.cert)
        policy = getattr(security_policies, f"SecurityPolicy{self._address.security}")
        mode = ua.MessageSecurityMode.SignAndEncrypt
        offered = await client.connect_and_get_server_endpoints()
        fitting = [e for e in offered if e.SecurityPolicyUri == policy.URI and e.SecurityMode == mode]
        if not fitting:
            raise ValueError(
                f"the server does not offer {self._address.security} with encryption, but "
                f"{', '.join(sorted({_offer(e) for e in offered}))}: choose one by ?security="
            )
        certificate = x509_from_der(fitting[0].ServerCertificate)
        if certificate is None:
            raise ValueError("the server shows no certificate")
        check_server(certificate, self._address.host, access.ca, self._wall())
        own = CertProperties(access.cert, "pem"), CertProperties(access.key, "pem")
        theirs = CertProperties(der_from_x509(certificate), "der")
        try:
            await client.set_security(policy, *own, server_certificate=theirs, mode=mode)
        except (OSError, ValueError, TypeError) as exc:
            raise ValueError(f"the certificates of the source cannot be read: {exc}") from exc
        if access.username:
            client.set_user(access.username)
            client.set_password(access.password() or "")

    async def _subscribe(self, client: Client, lost: asyncio.Future[str]) -> int:
        """Make the subscription; returns its number."""
        asked = ua.CreateSubscriptionParameters()
        asked.RequestedPublishingInterval = self._publish_ms
        asked.RequestedMaxKeepAliveCount = 1  # what stands is confirmed in every interval
        asked.RequestedLifetimeCount = max(int(1000 * SESSION_S / self._publish_ms), 10)
        asked.PublishingEnabled = True

        def on_publish(result: ua.PublishResult) -> None:
            parts = result.NotificationMessage.NotificationData or ()
            for ended in (part for part in parts if isinstance(part, ua.StatusChangeNotification)):
                _settle(lost, f"the server ended the subscription: {ended.Status.name}")
            self._take(result.NotificationMessage)

        self._heard_s = time.monotonic()
        session = client.uaclient.session
        given = await session.create_subscription(asked, on_publish)
        self._publish_ms = given.RevisedPublishingInterval or self._publish_ms
        problem = await self._monitor(client, given.SubscriptionId)
        if len(self._unknown) == len(self._nodes):
            raise ValueError(problem)
        if problem:
            log.warning("source %s: %s; the other channels go on", self._address.url, problem)
        self._on_subscribed(len(self._unknown))
        return int(given.SubscriptionId)

    async def _monitor(self, client: Client, subscription: int) -> str:
        """Ask for the nodes that are not known yet; returns what is wrong with those that remain."""
        wanted = self._unknown
        namespaces: Sequence[str] = ()
        if any(self._nodes[at].node.startswith("nsu=") for at in wanted):
            namespaces = await client.get_namespace_array()
        items = ua.CreateMonitoredItemsParameters(
            SubscriptionId=subscription,
            TimestampsToReturn=ua.TimestampsToReturn.Both,
            ItemsToCreate=[self._item(at, namespaces) for at in wanted],
        )
        results = await client.uaclient.session.create_monitored_items(items)
        refused = [
            (at, r.StatusCode.name) for at, r in zip(wanted, results, strict=True) if r.StatusCode.is_bad()
        ]
        self._unknown = [at for at, _ in refused]
        return "; ".join(
            f"no node {self._nodes[at].node} for {self._nodes[at].channel}: {w}" for at, w in refused
        )

    def _item(self, at: int, namespaces: Sequence[str]) -> ua.MonitoredItemCreateRequest:
        node = node_id(self._nodes[at].node, namespaces)
        return ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(
                ClientHandle=at,
                SamplingInterval=1000 * self._step_s,
                Filter=ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp),
                QueueSize=MOST_AT_SERVER,
                DiscardOldest=True,
            ),
        )

    async def _watch(self, client: Client, subscription: int, lost: asyncio.Future[str]) -> None:
        """Wait until the server is lost, which is raised."""
        silent_s = max(LOST_AFTER_S, LOST_AFTER * self._publish_ms / 1000)
        asked_s = time.monotonic()
        while True:
            await asyncio.wait({lost}, timeout=LOOK_S)
            if lost.done():
                raise ValueError(lost.result())
            now_s = time.monotonic()
            if client.state is not UaClientState.CONNECTED:  # which the library itself may see late
                raise ValueError("the connection was lost")
            if now_s - self._heard_s > silent_s:
                raise ValueError(
                    f"the server has reported nothing for {silent_s:.0f} s, not even that it lives"
                )
            if self._unknown and now_s - asked_s > RETRY_NODES_S:
                asked_s = now_s
                await self._monitor(client, subscription)

    def _take(self, message: ua.NotificationMessage) -> None:
        self._heard_s = time.monotonic()
        published = message.PublishTime
        reports = [
            self._report(item)
            for part in message.NotificationData or ()
            if isinstance(part, ua.DataChangeNotification)
            for item in part.MonitoredItems
            if item.ClientHandle < len(self._nodes)
        ]
        self._on_reports(reports, to_us(_aware(published) if published else self._wall()))

    def _report(self, item: ua.MonitoredItemNotification) -> NodeReport:
        value = item.Value
        status = value.StatusCode or ua.StatusCode()
        quality = "good" if status.is_good() else "uncertain" if status.is_uncertain() else "bad"
        stamp = value.SourceTimestamp if self._address.time == "source" else value.ServerTimestamp
        us = None if stamp is None or _aware(stamp) < UNIX_ERA else to_us(_aware(stamp))
        given = None if value.Value is None else value.Value.Value
        return NodeReport(item.ClientHandle, given, us, quality, status.value & OVERFLOW == OVERFLOW)


def check_access(address: OpcUaAddress, access: SourceAccess) -> None:
    """Refuse credentials that cannot work, or would not be kept secret.

    Raises:
        SourceError: Certificates are missing, or a password would be readable.
    """
    if address.security == UNSECURED:
        if access.username:
            raise SourceError(
                f"{address.url}: a password could be read without a secure channel: drop ?security=none, "
                "or the user name"
            )
        return
    files = {"EDGE_SOURCE_CA": access.ca, "EDGE_SOURCE_CERT": access.cert, "EDGE_SOURCE_KEY": access.key}
    missing = ", ".join(name for name, path in files.items() if path is None)
    if missing:
        raise SourceError(
            f"{address.url} with {address.security} needs {missing}: the server's certificate or its "
            "authority's, and a certificate and key of the device's own; ?security=none speaks openly"
        )


def node_id(text: str, namespaces: Sequence[str]) -> ua.NodeId:
    """A node's id on a server, with a namespace by its name found among those that the server has.

    Raises:
        ValueError: The server has no such namespace.
    """
    if text.startswith("nsu="):
        name, _, rest = text.removeprefix("nsu=").partition(";")
        if name not in namespaces:
            raise ValueError(f"the server has no namespace {name}, but {', '.join(namespaces)}")
        text = f"ns={namespaces.index(name)};{rest}"
    return ua.NodeId.from_string(text)


def described(exc: BaseException) -> str:
    """What an error of the library says to a person."""
    if isinstance(exc, ServiceError | ua.UaStatusCodeError):
        status = ua.StatusCode(exc.code)
        return f"the server refuses: {status.name}: {status.doc}"
    if isinstance(exc, TimeoutError):
        return "the server does not answer in time"
    return str(exc) or type(exc).__name__


async def _part(client: Client) -> None:
    """End a session if the server lets us, and the connection in any case."""
    protocol = client.uaclient.protocol
    with contextlib.suppress(Exception):
        async with asyncio.timeout(GOODBYE_S):
            await client.disconnect()
    await _abort(protocol)


async def _hang_up(client: Client) -> None:
    """Close the connection, also one that was refused half-way, with what is still to be written."""
    await _abort(client.uaclient.protocol)


async def _abort(protocol: Any) -> None:
    if protocol is not None and protocol.transport is not None:
        protocol.transport.abort()
        await asyncio.sleep(0)  # it is closed in the loop's next turn


def _settle(lost: asyncio.Future[str], why: str) -> None:
    if not lost.done():
        lost.set_result(why)


def _aware(stamp: datetime) -> datetime:
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)


def _offer(endpoint: ua.EndpointDescription) -> str:
    policy = (endpoint.SecurityPolicyUri or "").rpartition("#")[2]
    return f"{policy} ({endpoint.SecurityMode.name})"
