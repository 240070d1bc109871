"""Threads for work that would block the event loop: registry writes, registry reads, files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection

from model_service.registry.database import Registry

T = TypeVar("T")
FILE_THREADS = 4


class WorkerThreads:
    """Runs all writes in one thread, so that none waits for a lock of another; reads wait for no lock.

    Args:
        registry: The registry.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="writes")
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="reads")
        self._files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="files")

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run the work in one transaction.

        Raises:
            ServiceUnavailableError: The database stayed locked or out of reach.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writes, self._in_transaction, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run the work on one consistent state.

        Raises:
            ServiceUnavailableError: The database stayed out of reach.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reads, self._in_read, work)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run work on files."""
        return await asyncio.get_running_loop().run_in_executor(self._files, work)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        for pool in (self._writes, self._reads, self._files):
            pool.shutdown()

    def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        with self._registry.transaction() as connection:
            return work(connection)

    def _in_read(self, work: Callable[[Connection], T]) -> T:
        with self._registry.reading() as connection:
            return work(connection)
