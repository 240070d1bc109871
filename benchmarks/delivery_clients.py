"""The clients of the delivery scenarios, in processes of their own: their CPU time is not the service's.

Prints one JSON line when it is ready, waits for a line on standard input, works, prints its result.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc

from schemas.proto.delivery_pb2 import FetchArtifactRequest, WatchRequest
from schemas.proto.delivery_pb2_grpc import ModelDeliveryStub

OPTIONS = [
    ("grpc.ssl_target_name_override", "localhost"),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 1024**2),
]
AT_ONCE = 32


def credentials(given, name):
    key, certificate = given["devices"][name]
    return grpc.ssl_channel_credentials(given["ca"].encode(), key.encode(), certificate.encode())


def report(value):
    print(json.dumps(value), flush=True)


async def watch(given, hints):
    """One connection and stream per device; then the times at which each got each hint."""
    turns, open_streams = asyncio.Semaphore(AT_ONCE), []
    got = {name: [] for name in given["devices"]}
    missing, complete = set(got), asyncio.Event()

    async def follow(name, stream, opened):
        async for hint in stream:
            got[name].append((hint.timestamp_version, time.monotonic()))
            opened.set()
            missing.discard(name if len(got[name]) > hints else None)
            if not missing:
                complete.set()

    async def start(name):
        async with turns:
            channel = grpc.aio.secure_channel(f"127.0.0.1:{given['port']}", credentials(given, name), OPTIONS)
            stream = ModelDeliveryStub(channel).Watch(WatchRequest(device_id=name))
            opened = asyncio.Event()
            open_streams.append((channel, asyncio.create_task(follow(name, stream, opened))))
            await opened.wait()

    await asyncio.gather(*(start(name) for name in got))
    report({"ready": len(got)})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await asyncio.wait_for(complete.wait(), 30)
    report([at for received in got.values() for at in received[1:]])
    for _, task in open_streams:
        task.cancel()


async def download(given, digest):
    """Every device fetches the artifact once, all at the same time."""
    channels = {
        name: grpc.aio.secure_channel(f"127.0.0.1:{given['port']}", credentials(given, name), OPTIONS)
        for name in given["devices"]
    }
    for channel in channels.values():
        await channel.channel_ready()

    async def fetch(name, channel):
        request = FetchArtifactRequest(device_id=name, sha256=digest)
        size = 0
        async for chunk in ModelDeliveryStub(channel).FetchArtifact(request):
            size += len(chunk.data)
        return size

    report({"ready": len(channels)})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    began = time.monotonic()
    sizes = await asyncio.gather(*(fetch(name, channel) for name, channel in channels.items()))
    report({"bytes": sum(sizes), "seconds": time.monotonic() - began})


def download_https(given, digest, port):
    """The same from nginx, with the same certificates, over HTTP/1.1."""
    connections = [_connect(given, name, port) for name in given["devices"]]
    sizes = []

    def fetch(connection):
        connection.sendall(f"GET /{digest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        buffer, size = bytearray(1 << 18), 0
        while n := connection.recv_into(buffer):
            size += n
        sizes.append(size)

    report({"ready": len(connections)})
    sys.stdin.readline()
    began = time.monotonic()
    threads = [threading.Thread(target=fetch, args=(c,)) for c in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report({"bytes": sum(sizes), "seconds": time.monotonic() - began})


def _connect(given, name, port):
    context = ssl.create_default_context(cadata=given["ca"])
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder) / "pair.pem"
        pair.write_text("".join(given["devices"][name]))
        context.load_cert_chain(pair)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")


def main(argv):
    given = json.loads(Path(argv[1]).read_text())
    if argv[0] == "watch":
        asyncio.run(watch(given, int(argv[2])))
    elif argv[0] == "download":
        asyncio.run(download(given, argv[2]))
    else:
        download_https(given, argv[2], int(argv[3]))


if __name__ == "__main__":
    main(sys.argv[1:])
