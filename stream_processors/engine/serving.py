"""Runs a Faust app in this process until it is asked to stop or crashes."""

from __future__ import annotations

import asyncio
import signal

import faust
from aiokafka.errors import KafkaConnectionError

from schemas.errors import BrokerUnavailableError
from stream_processors.engine.watchdog import Watchdog


def serve(app: faust.App, watchdog: Watchdog, bootstrap_servers: str) -> None:
    """Start, serve until SIGTERM or SIGINT, flush, leave the group.

    Raises:
        BrokerUnavailableError: No broker answers; the supervisor starts the worker again.
        Exception: The error that crashed the app.
    """
    try:
        asyncio.run(_serve(app, watchdog))
    except KafkaConnectionError as exc:
        raise BrokerUnavailableError(f"{bootstrap_servers}: {exc}") from exc


async def _serve(app: faust.App, watchdog: Watchdog) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watchdog.ensure_started()
    await app.start()
    ends = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(app.wait_until_stopped())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    watchdog.progress()
    reason = app.crash_reason
    await app.stop()
    watchdog.stop()
    if reason is not None:
        raise reason
