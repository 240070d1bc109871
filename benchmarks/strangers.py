"""Reports of good devices while thousands of strangers hold connections from one address."""

from __future__ import annotations

import resource
import statistics
import time
from typing import Any

import numpy as np
import psutil

from benchmarks.delivery import clients, results
from benchmarks.delivery_site import Site, cpu_s
from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from model_service.address import read_address

STRANGERS, DEVICES, MEASURED_S = 10_000, 20, 20.0
KINDS = {
    "silent": "plain TCP that sends nothing",
    "half": "TLS handshakes that stop after the ClientHello",
    "idle": "TLS connections that send nothing",
    "slow": "a ClientHello at one byte a second",
}
MODULE = "benchmarks.stranger_clients"


def run(on: Stage) -> list[Measured]:
    """Run every kind of stranger on both ports; prints a table."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the clients inherit it
    try:
        return _measure(on)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _measure(on: Stage) -> list[Measured]:
    site = Site(on.folder / "strangers")
    count = round(STRANGERS * on.effort.scale)
    seconds = MEASURED_S * min(1.0, 2 * on.effort.scale)
    rows, kept, fresh = [], [], []
    for number, kind in enumerate(("none", *KINDS)):
        for port in ("enrolment",) if kind == "none" else ("enrolment", "delivery"):
            found = _one(site, kind, port, count, seconds, f"s{number}{port[0]}")
            rows.append([f"{kind}, {port}", *_row(found)])
            if kind != "none":
                kept.append(_p99(found["kept"]))
                fresh.append(_p99(found["fresh"]))
    heads = (
        "strangers",
        "held",
        "ended",
        "p50 ms",
        "p99 ms",
        "max ms",
        "new connection p99 ms",
        "errors",
        "CPU %",
    )
    print(table((*heads, "MB"), rows), flush=True)
    story = (
        f"{count} strangers from the devices' own address, {DEVICES} devices; the worst of 4 kinds on 2 ports"
    )
    return [
        Measured(
            "strangers/report",
            "report p99 over an open connection, ms (floor <= 1,000 ms)",
            (max(kept),),
            f"median of the 8: {statistics.median(kept):.0f}; {story}",
        ),
        Measured(
            "strangers/connect",
            "report p99 over a new connection, ms",
            (max(fresh),),
            f"median of the 8: {statistics.median(fresh):.0f}; {story}",
        ),
    ]


def _one(site: Site, kind: str, port: str, count: int, seconds: float, prefix: str) -> dict[str, Any]:
    with site.serving() as process:
        address = read_address(site.settings)
        assert address is not None
        at = address.enrollment_port if port == "enrolment" else address.delivery_port
        given = str(site.clients(DEVICES, prefix))
        crowd = [] if kind == "none" else [[kind, str(at), str(count)]]
        with clients(crowd, MODULE) as strangers, clients([["devices", given, str(seconds)]], MODULE) as good:
            used, began = cpu_s(process), time.monotonic()
            [found] = results(good)
            if found["errors"]:
                print(f"{kind}, {port}: errors {found['errors']}", flush=True)
            share = (cpu_s(process) - used) / (time.monotonic() - began)
            held = results(strangers)[0] if strangers else {}
            return {**found, **held, "cpu": share, "mb": _mb(process)}


def _mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


def _row(found: dict[str, Any]) -> list[str]:
    kept = np.array(found["kept"]) * 1e3
    return [
        str(found.get("held", 0)),
        str(found.get("ended", 0) + found.get("refused", 0)),
        f"{np.percentile(kept, 50):.0f}",
        f"{np.percentile(kept, 99):.0f}",
        f"{kept.max():.0f}",
        f"{_p99(found['fresh']):.0f}",
        str(sum(found["errors"].values())),
        f"{found['cpu']:.0%}",
        f"{found['mb']:.0f}",
    ]


def _p99(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99)) * 1e3
