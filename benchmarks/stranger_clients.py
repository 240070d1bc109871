"""Connections without a caller, by the thousand, and good devices beside them: each a process of its own.

Prints one JSON line when it is ready, waits for a line on standard input, works, prints its result.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from pathlib import Path

import grpc

from benchmarks.delivery_clients import OPTIONS, credentials, report
from schemas.proto.delivery_pb2 import ReportRequest
from schemas.proto.delivery_pb2_grpc import ModelDeliveryStub

OPENING = 256
"""Connections that are being opened at a time."""
REOPEN_S = 30.0
PAUSE_S = 0.5
"""Pause of a good device between two reports."""
RETRIES = [("grpc.initial_reconnect_backoff_ms", 500), ("grpc.min_reconnect_backoff_ms", 500)]
"""As in the device's own client."""


def client_hello():
    """The first bytes of a TLS connection."""
    context, sent = ssl.create_default_context(), ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake ended before it began")


class Stranger(asyncio.Protocol):
    """One connection of a kind; it is opened again a while after it was ended."""

    def __init__(self, crowd):
        self.crowd = crowd

    def connection_made(self, transport):
        self.crowd.open.add(transport)
        self.transport = transport
        if self.crowd.kind == "half":
            transport.write(self.crowd.hello)

    def connection_lost(self, _error):
        self.crowd.open.discard(self.transport)
        self.crowd.counts["ended"] += 1
        self.crowd.later()


class Crowd:
    def __init__(self, kind, port, count):
        self.kind, self.port, self.count = kind, port, count
        self.hello, self.open, self.counts = client_hello(), set(), Counter()
        self.turns, self.most = asyncio.Semaphore(OPENING), 0
        self.context = ssl.create_default_context() if kind == "idle" else None
        if self.context is not None:
            self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
            self.context.set_alpn_protocols(["h2"])  # gRPC ends others at once
        self.loop = asyncio.get_running_loop()

    async def start(self):
        await asyncio.gather(*(self.connect() for _ in range(self.count)))

    async def connect(self):
        async with self.turns:
            try:
                await self.loop.create_connection(
                    lambda: Stranger(self), "127.0.0.1", self.port, ssl=self.context
                )
                self.counts["opened"] += 1
            except OSError:
                self.counts["refused"] += 1
                self.later()

    def later(self):
        self.loop.call_later(REOPEN_S, lambda: self.loop.create_task(self.connect()))

    async def drip(self):
        """Slow senders: one byte of the ClientHello a second."""
        for at in range(len(self.hello)):
            for transport in list(self.open):
                transport.write(self.hello[at : at + 1])
            await asyncio.sleep(1.0)


async def strangers(kind, port, count):
    crowd = Crowd(kind, port, count)
    drip = asyncio.create_task(crowd.drip()) if kind == "slow" else None
    await crowd.start()
    report({"ready": len(crowd.open)})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    report({**crowd.counts, "held": len(crowd.open)})
    del drip


async def devices(given, seconds):
    """Every device reports over one connection again and again; the last four open a new one each time."""
    names = list(given["devices"])
    kept, fresh, errors = [], [], Counter()

    async def send(channel, name, number, into):
        request = ReportRequest(device_id=name, report_no=number, nonce=str(number), state="idle")
        began = time.monotonic()
        try:
            await ModelDeliveryStub(channel).Report(request, timeout=10, wait_for_ready=True)
        except grpc.aio.AioRpcError as exc:
            errors[exc.code().name] += 1
        into.append(time.monotonic() - began)

    def channel_of(name):
        target = f"127.0.0.1:{given['port']}"
        return grpc.aio.secure_channel(target, credentials(given, name), [*OPTIONS, *RETRIES])

    async def keep(name, until):
        async with channel_of(name) as channel:
            number = 0
            while time.monotonic() < until:
                number += 1
                await send(channel, name, number, kept if number > 1 else fresh)
                await asyncio.sleep(PAUSE_S)

    async def renew(name, until):
        number = 0
        while time.monotonic() < until:
            number += 1
            async with channel_of(name) as channel:
                await send(channel, name, number, fresh)
            await asyncio.sleep(PAUSE_S)

    report({"ready": len(names)})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    until = time.monotonic() + seconds
    await asyncio.gather(*(keep(n, until) for n in names[:-4]), *(renew(n, until) for n in names[-4:]))
    report({"kept": kept, "fresh": fresh, "errors": errors})


def main(argv):
    if argv[0] == "devices":
        asyncio.run(devices(json.loads(Path(argv[1]).read_text()), float(argv[2])))
    else:
        asyncio.run(strangers(argv[0], int(argv[1]), int(argv[2])))


if __name__ == "__main__":
    main(sys.argv[1:])
