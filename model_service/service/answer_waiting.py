"""Waits until other processes have answered rows of the registry; one query serves all callers that wait."""

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
        workers: Run the query.
        query: Returns those of the ids that are answered; each row has ``id``.
    """

    def __init__(self, workers: WorkerThreads, query: AnsweredQuery) -> None:
        self._workers, self._query = workers, query
        self._waiting: dict[int, list[asyncio.Future[RowMapping]]] = {}
        self._poll: asyncio.Task[None] | None = None

    async def of(self, row_id: int) -> RowMapping:
        """The row once it is answered; the caller limits the time.

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
        """Query for as long as a caller waits."""
        while ids := tuple(self._waiting):
            try:
                for row in await self._workers.read(partial(self._query, ids=ids)):
                    for future in self._waiting.get(row["id"], []):
                        if not future.done():
                            future.set_result(row)
            except Exception as exc:  # noqa: BLE001  (raised again in each caller that waits)
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
