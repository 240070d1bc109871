"""A model service whose public process was taken over: right certificate, wrong answers, no signing key.

It has everything that the real public process can read, and serves what it likes; the demo shows how devices
answer.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from typing import Self

from model_service import (
    AccessList,
    CallDoor,
    ModelSettings,
    Registry,
    ServiceCall,
    StreamWakeup,
    TrustRepository,
    WorkerThreads,
    delivery,
    server,
)
from schemas.channel_documents import CANARY, ChannelDocument, Release, channel_path
from schemas.cohorts import EVERYBODY
from schemas.model_version import ModelVersion
from schemas.proto.delivery_pb2 import (
    ArtifactChunk,
    FetchArtifactRequest,
    FetchMetadataRequest,
    FetchMetadataResponse,
)

_START_S = 10.0
_REFRESH_S = 0.2

Artifact = Callable[[ArtifactChunk], ArtifactChunk]
Documents = Callable[[TrustRepository, dict[str, bytes]], dict[str, bytes]]


def honest_artifact(chunk: ArtifactChunk) -> ArtifactChunk:
    """The chunk as the repository holds it."""
    return chunk


def honest_documents(_repository: TrustRepository, documents: dict[str, bytes]) -> dict[str, bytes]:
    """The documents as the repository holds them."""
    return documents


def tamper_artifact(chunk: ArtifactChunk) -> ArtifactChunk:
    """The chunk with one bit flipped."""
    data = bytearray(chunk.data)
    data[len(data) // 2] ^= 1
    return ArtifactChunk(offset=chunk.offset, data=bytes(data))


def forge_instruction(group: str, version: str) -> Documents:
    """Adds a channel document that tells a group to install a version: well formed, newest, unsigned."""

    def forge(repository: TrustRepository, documents: dict[str, bytes]) -> dict[str, bytes]:
        family = ModelVersion.parse(version).family
        newest = max((c.seq for c in repository.channels(group).values()), default=0)
        now = datetime.now(UTC)
        channel = ChannelDocument(
            group=group,
            ring=CANARY,
            seq=newest + 1,
            rollout_id="forged",
            target={family: Release(version=version, sha256="0" * 64)},
            baseline={family: Release(version=version, sha256="0" * 64)},
            cohort=EVERYBODY,
            issued=now,
            expires=now + timedelta(days=1),
        )
        forged = json.dumps(channel.model_dump(mode="json")).encode()
        return {**documents, channel_path(group, CANARY): forged}

    return forge


class HostileService:
    """Serves deliveries in a thread of its own, until the end of the ``with`` block.

    Args:
        settings: Of the model service whose public process it replaces.
        artifact: Alters each chunk.
        documents: Alters the channel documents that it sends.
    """

    def __init__(
        self,
        settings: ModelSettings,
        artifact: Artifact = honest_artifact,
        documents: Documents = honest_documents,
    ) -> None:
        self._settings, self._artifact, self._documents = settings, artifact, documents
        self._loop = asyncio.new_event_loop()
        self._started, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        )
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait(_START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        registry, access, beacon = Registry(self._settings.database_url), AccessList(), StreamWakeup()
        workers = WorkerThreads(registry)
        try:
            await workers.read(access.refresh)
            deliver = _Delivery(self._settings, workers, beacon, self._artifact, self._documents)
            rules = delivery.rules(self._settings)
            listener = server.Listener(
                self._settings,
                server.credentials(self._settings, mutual=True),
                server.callers(self._settings),
                [CallDoor(access).guard(server.DELIVERY, deliver, rules)],
            )
            port = await listener.start(f"{self._settings.host}:0")
            self.address = f"{self._settings.host}:{port}"
            self._started.set()
            while not self._end.is_set():
                await workers.read(access.refresh)
                await asyncio.sleep(_REFRESH_S)
            beacon.drain()
            await listener.stop(0.5)
        finally:
            workers.close()
            registry.close()


class _Delivery(delivery.ModelDelivery):
    """The real handlers, with two answers altered."""

    def __init__(
        self,
        settings: ModelSettings,
        workers: WorkerThreads,
        beacon: StreamWakeup,
        artifact: Artifact,
        documents: Documents,
    ) -> None:
        super().__init__(settings, workers, beacon)
        self._repository = TrustRepository(settings.repository, settings.proposals)
        self._alter_chunk, self._alter_documents = artifact, documents

    async def fetch_metadata(self, request: FetchMetadataRequest, call: ServiceCall) -> FetchMetadataResponse:
        """The real metadata, with altered documents."""
        reply = await super().fetch_metadata(request, call)
        altered = self._alter_documents(self._repository, {f.name: f.data for f in reply.documents})
        del reply.documents[:]
        for name, data in altered.items():
            reply.documents.add(name=name, data=data)
        return reply

    async def fetch_artifact(
        self, request: FetchArtifactRequest, call: ServiceCall
    ) -> AsyncGenerator[bytes, None]:
        """The altered chunks, serialized."""
        async for chunk in super().fetch_artifact(request, call):
            yield self._alter_chunk(ArtifactChunk.FromString(chunk)).SerializeToString()
