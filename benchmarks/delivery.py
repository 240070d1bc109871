"""One serving process over mutual TLS: hints to many watchers, artifacts beside nginx, the no-op check."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.delivery_clients import OPTIONS, credentials
from benchmarks.delivery_site import Meter, Site, cpu_s, nginx
from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from schemas.proto.delivery_pb2 import FetchMetadataRequest
from schemas.proto.delivery_pb2_grpc import ModelDeliveryStub

WATCHERS, HINTS = 1000, 5
PROCESSES = 2
"""Client processes that share the watchers."""
ARTIFACT_BYTES = 20 * 1024**2
DOWNLOADERS = (1, 10)
CHECKS = 50
MIB, KIB, GB = 2**20, 2**10, 1e9


def run(on: Stage) -> list[Measured]:
    """Run all scenarios of this module; prints their tables."""
    site = Site(on.folder / "delivery")
    return [
        *watchers(site, round(WATCHERS * on.effort.scale), on.effort.runs),
        *artifacts(site, round(ARTIFACT_BYTES * on.effort.scale), on.effort.runs),
        no_op(site),
    ]


def watchers(site: Site, count: int, runs: int) -> list[Measured]:
    """Delay of a hint to all watchers, and memory of the service for each."""
    p50, p99, memory, cpu = [], [], [], []
    for number in range(runs):
        with site.serving() as process:
            files = [site.clients(count // PROCESSES, f"w{number}{i}") for i in range(PROCESSES)]
            before = process.memory_info().rss
            with clients([["watch", str(f), str(HINTS)] for f in files]) as found:
                memory.append((process.memory_info().rss - before) / count / KIB)
                used = cpu_s(process)
                lags = _hint(site, found)
                cpu.append((cpu_s(process) - used) / HINTS / count * 1e6)
        if len(lags) != count * HINTS:
            raise RuntimeError(f"{len(lags)} of {count * HINTS} hints arrived")
        p50.append(float(np.percentile(lags, 50)) * 1e3)
        p99.append(float(np.percentile(lags, 99)) * 1e3)
    story = f"{count} watchers, {HINTS} publications, {PROCESSES} client processes on the same cores"
    each = f"p50 {statistics.median(p50):.0f} ms; {statistics.median(cpu):.0f} us of the service's CPU a hint"
    return [
        Measured(
            "delivery/hint",
            "publication to hint received, p99 over all, ms",
            tuple(p99),
            f"{each}; {story}; the service looks every 100 ms",
        ),
        Measured("delivery/watcher", "memory of the service a watcher, KiB", tuple(memory), story),
    ]


def _hint(site: Site, found: list[subprocess.Popen[str]]) -> list[float]:
    """Publish a few times; seconds from each publication to each receipt."""
    published = []
    for _ in range(HINTS):
        published.append(site.publish())
        time.sleep(1.5)
    newest = _newest(site)
    at = {newest - HINTS + 1 + i: when for i, when in enumerate(published)}
    return [when - at[version] for received in results(found) for version, when in received]


def _newest(site: Site) -> int:
    path = site.settings.repository / "metadata" / "timestamp.json"
    return int(json.loads(path.read_bytes())["signed"]["version"])


def artifacts(site: Site, size: int, runs: int) -> list[Measured]:
    """Download the same file from the service and from nginx, in turn."""
    digest, file = site.artifact(size)
    measured, rows = [], []
    for count in DOWNLOADERS:
        ours, theirs = [], []
        for number in range(runs):
            with site.serving() as process, nginx(site, file) as peer:
                given = str(site.clients(count, f"d{count}{number}"))
                ours.append(_download(process, ["download", given, digest]))
                if peer is not None:
                    port, other = peer
                    theirs.append(_download(other, ["https", given, digest, str(port)]))
        measured.append(_throughput(count, size, ours, theirs))
        for name, got in (("edgeloop", ours), ("nginx", theirs)):
            if got:
                speed, cost = (statistics.median(x) for x in zip(*got, strict=True))
                rows.append([f"{name}, {count} at once", f"{speed:.0f}", f"{cost:.2f}"])
    print(table(("artifact over mutual TLS", "MiB/s", "CPU s/GB"), rows), flush=True)
    return measured


def _throughput(
    count: int, size: int, ours: list[tuple[float, float]], theirs: list[tuple[float, float]]
) -> Measured:
    cost = statistics.median(c for _, c in ours)
    beside = f"{cost:.2f} CPU s/GB of the service"
    if theirs:
        speed, other = (statistics.median(x) for x in zip(*theirs, strict=True))
        ratio = statistics.median(s for s, _ in ours) / speed
        beside += f"; nginx {speed:.0f} MiB/s (ours {ratio:.2f} of it), {other:.2f} CPU s/GB"
    else:
        beside += "; nginx is not installed, so no peer: apt-get install nginx-light"
    story = f"{size / MIB:.0f} MiB, {count} at once, clients in Python on the same cores"
    return Measured(
        f"delivery/artifact-{count}",
        "artifact over mutual TLS, MiB/s",
        tuple(speed for speed, _ in ours),
        f"{beside}; {story}",
    )


def _download(process: psutil.Process, arguments: list[str]) -> tuple[float, float]:
    """MiB per second, and CPU seconds of the server per GB."""
    with clients([arguments]) as found:
        used = cpu_s(process)
        [result] = results(found)
        used = cpu_s(process) - used
    return result["bytes"] / MIB / result["seconds"], used / (result["bytes"] / GB)


def no_op(site: Site) -> Measured:
    """A device that has everything checks for news: bytes of a warm connection, both ways, TLS included."""
    with site.serving():
        given = json.loads(site.clients(1, "n").read_text())
        [name] = given["devices"]
        meter = Meter(site.port)
        with grpc.secure_channel(f"127.0.0.1:{meter.port}", credentials(given, name), OPTIONS) as channel:
            stub = ModelDeliveryStub(channel)
            first = stub.FetchMetadata(FetchMetadataRequest(device_id=name), timeout=10)
            cold = meter.up + meter.down
            request = _holding(name, site, first)
            size = request.ByteSize() + stub.FetchMetadata(request, timeout=10).ByteSize()
            up, down, took = meter.up, meter.down, []
            for _ in range(CHECKS):
                began = time.monotonic()
                stub.FetchMetadata(request, timeout=10)
                took.append(time.monotonic() - began)
            up, down = (meter.up - up) / CHECKS, (meter.down - down) / CHECKS
        meter.close()
    return Measured(
        "delivery/no-op",
        "bytes of a check that finds nothing new, both ways",
        (up + down,),
        f"1 round trip, {up:.0f} up, {down:.0f} down, {size} of them messages; p50 {_ms(took)} ms;"
        f" handshake and first fetch of everything {cold:,} B",
    )


def _holding(name: str, site: Site, reply: Any) -> FetchMetadataRequest:
    """The request of a device that has everything."""
    documents = {f.name: hashlib.sha256(f.data).hexdigest() for f in reply.documents}
    versions = {"timestamp": _newest(site)}
    for file in reply.metadata:
        number, _, rest = file.name.partition(".")
        if number.isdigit():
            role = rest.removesuffix(".json")
            versions[role] = max(int(number), versions.get(role, 0))
    return FetchMetadataRequest(device_id=name, versions=versions, documents=documents)


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f}"


@contextmanager
def clients(
    arguments: list[list[str]], module: str = "benchmarks.delivery_clients"
) -> Iterator[list[subprocess.Popen[str]]]:
    """Client processes, connected and ready."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", module]
    made = [
        subprocess.Popen([*command, *a], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for a in arguments
    ]
    try:
        for one in made:
            assert one.stdout is not None
            if "ready" not in one.stdout.readline():
                raise RuntimeError("a client ended before it was ready")
        yield made
    finally:
        for one in made:
            one.kill()
            one.wait()


def results(clients: list[subprocess.Popen[str]]) -> list[Any]:
    """Start the clients' work; returns what each measured."""
    for one in clients:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    return [json.loads(one.stdout.readline()) for one in clients if one.stdout is not None]
