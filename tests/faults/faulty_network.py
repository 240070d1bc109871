"""A network between devices and a server that can be cut, slow, flapping or silent."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Literal, Self

Mode = Literal["open", "cut", "slow", "silent"]
_CHUNK = 64 * 1024
_SLOW_BYTES_PER_S = 20_000
_SLOW_LATENCY_S = 0.3


class FaultyNetwork:
    """A TCP proxy in a thread of its own.

    ``cut`` drops every connection and refuses new ones; ``slow`` delays and throttles; ``silent`` accepts and
    keeps connections, but passes no byte, as a half-open link does.
    """

    def __init__(self, target: tuple[str, int], listen_port: int) -> None:
        self.target, self.listen_port = target, listen_port
        self.mode: Mode = "open"
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._audible = asyncio.Event()
        self._audible.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="faulty-network", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._call(self._end_relays())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, mode: Mode) -> None:
        """Change what the network does from now on."""
        self._call(self._set(mode))

    def _call(self, coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)  # type: ignore[arg-type]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._started.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.listen_port)

    async def _set(self, mode: Mode) -> None:
        self.mode = mode
        self._audible.clear() if mode == "silent" else self._audible.set()
        if mode == "cut":
            await self._close()
        elif self._server is None:
            await self._listen()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _end_relays(self) -> None:
        relays = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        pumps = [
            asyncio.ensure_future(self._pump(reader, back)),
            asyncio.ensure_future(self._pump(there, writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for each in (writer, back):
            self._writers.discard(each)
            each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._audible.wait()
                if self.mode == "slow":
                    await asyncio.sleep(_SLOW_LATENCY_S + len(data) / _SLOW_BYTES_PER_S)
                writer.write(data)
                await writer.drain()
