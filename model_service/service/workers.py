"""Threads for what would block the event loop: one for the registry, a few for files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection

from model_service.registry.database import Registry

T = TypeVar("T")
FILE_THREADS = 4


class Workers:
    """Runs registry work in turn in one thread, so that it never waits for itself, and file work in others.

    Args:
        registry: The registry.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._one = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="files")

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run the work in one transaction.

        Raises:
            ServiceUnavailableError: The database stayed locked or out of reach.
        """
        return await asyncio.get_running_loop().run_in_executor(self._one, self._in_transaction, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run the work on one consistent look.

        Raises:
            ServiceUnavailableError: The database stayed out of reach.
        """
        return await asyncio.get_running_loop().run_in_executor(self._one, self._in_look, work)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run work on files."""
        return await asyncio.get_running_loop().run_in_executor(self._files, work)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._one.shutdown()
        self._files.shutdown()

    def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        with self._registry.transaction() as connection:
            return work(connection)

    def _in_look(self, work: Callable[[Connection], T]) -> T:
        with self._registry.reading() as connection:
            return work(connection)
