"""Waits for other processes to answer rows of the registry: one look serves all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from typing import Protocol

from sqlalchemy import Connection, RowMapping

from model_service.service.workers import WorkerThreads

POLL_S = 0.04


class AnsweredQuery(Protocol):
    """Finds answered rows."""

    def __call__(self, connection: Connection, /, *, ids: Collection[int]) -> Sequence[RowMapping]:
        """Those of the ids that are answered."""
        ...


class AnswerWaiter:
    """Waits for rows to be answered.

    Args:
        workers: Where to look.
        look: Those of the ids that are answered; each row has ``id``.
    """

    def __init__(self, workers: WorkerThreads, look: AnsweredQuery) -> None:
        self._workers, self._look = workers, look
        self._waiting: dict[int, list[asyncio.Future[RowMapping]]] = {}
        self._poll: asyncio.Task[None] | None = None

    async def of(self, row_id: int) -> RowMapping:
        """The row once it is answered; the caller bounds the time.

        Raises:
            ServiceUnavailableError: The registry is out of reach.
        """
        future: asyncio.Future[RowMapping] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(row_id, []).append(future)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._run())
        try:
            return await future
        finally:
            self._forget(row_id, future)

    async def _run(self) -> None:
        """Look for as long as anybody waits."""
        while ids := tuple(self._waiting):
            try:
                for row in await self._workers.read(partial(self._look, ids=ids)):
                    for future in self._waiting.get(row["id"], []):
                        if not future.done():
                            future.set_result(row)
            except Exception as exc:  # noqa: BLE001  (raised again by each who waits)
                self._fail(exc)
            await asyncio.sleep(POLL_S)

    def _fail(self, error: Exception) -> None:
        for future in [f for futures in self._waiting.values() for f in futures if not f.done()]:
            future.set_exception(error)

    def _forget(self, row_id: int, future: asyncio.Future[RowMapping]) -> None:
        futures = self._waiting[row_id]
        futures.remove(future)
        if not futures:
            del self._waiting[row_id]
