"""Samples from an OPC UA server. asyncio runs in a thread of its own, and hands readings over."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from edge_producer.sources.opcua_address import ChannelNode, OpcUaAddress
from edge_producer.sources.opcua_session import GOODBYE_S, NodeReport, OpcUaSession, check_access
from edge_producer.sources.reading_queue import ChannelReading
from edge_producer.sources.reported_channels import ReportedChannels
from edge_producer.sources.samples import Sample
from edge_producer.sources.source_access import SourceAccess
from schemas.errors import SourceLostError
from schemas.profile import Profile

COUNTED = ("subscribed", "server_overrun", "bad", "uncertain", "unknown_node")


class OpcUaSource:
    """One session with a server.

    The server reports a value once, and then only another one. What it has not reported again stands while it
    answers, and is repeated in steps of the profile's rate. A bad or uncertain value is none, and ends that.

    Args:
        address: The server, and how it is spoken to.
        nodes: What is subscribed to.
        profile: Channels, rate and ``[source]``.
        access: Credentials; ``ca`` holds the server's certificate, or its authority's.
        wall: What time it is, for certificates.
        name: Part of the session's name.

    Raises:
        SourceError: Credentials do not go with the address, or the profile's time zone is unknown.
    """

    def __init__(
        self,
        address: OpcUaAddress,
        nodes: Sequence[ChannelNode],
        profile: Profile,
        access: SourceAccess,
        wall: Callable[[], datetime],
        name: str = "edge",
    ) -> None:
        check_access(address, access)
        self._nodes, self._name = tuple(nodes), name
        self._channels = ReportedChannels(profile, COUNTED)
        self._reported: set[int] = set()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._session = OpcUaSession(
            address,
            self._nodes,
            access,
            1.0 / profile.sampling.rate_hz,
            wall,
            on_subscribed=self._on_subscribed,
            on_reports=self._on_reports,
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """As ``ReportedChannels.counts``, of which a payload is a value that the server reports.

        ``subscribed``: sessions in which the server took the subscription; ``unknown_node``: nodes that it
        did not have. Values that are ``bad`` or ``uncertain`` are not used, by their status; before a
        ``server_overrun`` the server dropped some.
        """
        return self._channels.counts

    def close(self) -> None:
        """Let ``samples`` end."""
        self._channels.close()

    def samples(self) -> Iterator[Sample]:
        """Samples of what the server reports, as it does.

        Raises:
            SourceLostError: The server cannot be reached or trusted, refuses the device, or was lost.
        """
        thread = threading.Thread(target=self._run, name="opcua", daemon=True)
        thread.start()
        try:
            while (samples := self._channels.next()) is not None:
                yield from samples
        finally:
            self.close()
            if self._running is not None:
                loop, task = self._running
                with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                    loop.call_soon_threadsafe(task.cancel)
            thread.join(2 * GOODBYE_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            self._channels.lose(SourceLostError("the session was ended"))
        except Exception as exc:  # noqa: BLE001  (raised again where the samples are read)
            self._channels.lose(exc)

    async def _serve(self) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._running = asyncio.get_running_loop(), task
        if not self._channels.closed:
            await self._session.serve(f"edgeloop {self._name}")

    def _on_subscribed(self, unknown: int) -> None:
        self._channels.count("unknown_node", unknown)
        self._channels.count("subscribed")

    def _on_reports(self, reports: list[NodeReport], published_us: int) -> None:
        self._channels.count("payloads", len(reports))
        self._channels.count("server_overrun", sum(report.overflowed for report in reports))
        self._channels.take(map(self._reading, reports), published_us)

    def _reading(self, report: NodeReport) -> ChannelReading:
        node = self._nodes[report.at]
        flaw = "" if report.quality == "good" else report.quality
        first = report.at not in self._reported
        self._reported.add(report.at)
        return ChannelReading(node.device_id, node.channel, report.given, report.us, flaw, first)
