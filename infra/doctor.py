"""The checks of `edgeloop doctor`: whether this machine can run the stack, and what to do where it cannot."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_jars import are_resolved, jars_folder
from infra.printing import size
from infra.process.ports import LOOPBACK, is_free
from infra.settings import StackSettings
from infra.stack.stack_file import is_held, read_stack, stack_troubles
from schemas.errors import PipelineError

Level = Literal["ok", "warn", "fail"]
PYTHONS = ((3, 11), (3, 12), (3, 13))
"""Versions that the project supports."""
_NOT_NEEDED = ("dev", "notebook")
"""Extras without which everything runs."""
_GIB = 1024**3


@dataclass(frozen=True)
class MachineCheck:
    """One finding.

    Attributes:
        name: What was checked.
        verdict: ``warn``: it works, but not for long or not at its best.
        found: What was found.
        advice: What to do; empty if nothing is wrong.
    """

    name: str
    verdict: Level
    found: str
    advice: str = ""


def examine(settings: StackSettings) -> list[MachineCheck]:
    """All checks, in the order in which a person would fix what they find."""
    return [
        python(),
        packages(),
        java(),
        maven(settings.cache_dir),
        jars(settings.cache_dir),
        folder(settings.state_dir),
        disk(settings.state_dir),
        memory(),
        open_files(),
        port(settings),
        stack(settings.state_dir),
        *([broker(settings.broker)] if settings.broker else []),
    ]


def python(version: Sequence[int] = sys.version_info[:3]) -> MachineCheck:
    """The interpreter's version.

    Args:
        version: The running interpreter's; tests give another.
    """
    found = f"{'.'.join(map(str, version))} at {sys.executable}"
    if tuple(version[:2]) in PYTHONS:
        return MachineCheck("Python", "ok", found)
    names = [f"{major}.{minor}" for major, minor in PYTHONS]
    advice = f"install Python {', '.join(names[:-1])} or {names[-1]}, then make clean and make setup"
    return MachineCheck("Python", "fail", found, advice)


def packages() -> MachineCheck:
    """Every package that the installed project requires."""
    try:
        wanted = metadata.requires("edgeloop") or []
    except metadata.PackageNotFoundError:
        return MachineCheck("packages", "fail", "edgeloop is not installed", "make setup")
    runtime = [w for w in wanted if not any(f'extra == "{extra}"' in w for extra in _NOT_NEEDED)]
    problems = [p for p in map(_problem, runtime) if p]
    if problems:
        return MachineCheck("packages", "fail", "; ".join(problems[:3]), "make setup")
    return MachineCheck(
        "packages", "ok", f"edgeloop {metadata.version('edgeloop')}, {len(runtime)} requirements met"
    )


def _problem(requirement: str) -> str | None:
    name = re.split(r"[\s\[<>=!~;]", requirement)[0]
    pinned = re.search(r"==([^\s;,]+)", requirement.split(";", maxsplit=1)[0])
    try:
        have = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is missing"
    if pinned is not None and have != pinned.group(1):
        return f"{name} is {have}, not {pinned.group(1)}"
    return None


def java() -> MachineCheck:
    """Java 17 or newer."""
    advice = "apt-get install openjdk-17-jre-headless"
    path = shutil.which("java")
    if path is None:
        return MachineCheck("Java", "fail", "not on PATH", advice)
    output = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    version = re.search(r'version "(\d+)[^"]*"', output.stderr + output.stdout)
    if version is None or int(version.group(1)) < 17:
        return MachineCheck("Java", "fail", version.group(0) if version else "unknown version", advice)
    return MachineCheck("Java", "ok", f"{version.group(0)} at {path}")


def maven(cache_dir: Path) -> MachineCheck:
    """Maven, which is needed until the broker's jars are in the cache."""
    path = shutil.which("mvn")
    if path is not None:
        return MachineCheck("Maven", "ok", path)
    verdict: Level = "warn" if are_resolved(cache_dir) else "fail"
    return MachineCheck("Maven", verdict, "not on PATH", "apt-get install maven (it fetches the broker)")


def jars(cache_dir: Path) -> MachineCheck:
    """The broker's jars."""
    where = jars_folder(cache_dir)
    if are_resolved(cache_dir):
        return MachineCheck("Kafka jars", "ok", f"{len(list(where.glob('*.jar')))} in {where}")
    return MachineCheck(
        "Kafka jars", "warn", f"not in {where}", "make setup (or the first `edgeloop up`) fetches them"
    )


def folder(state_dir: Path) -> MachineCheck:
    """The state folder can be written."""
    probe = state_dir / ".doctor"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        probe.write_text("ok")
        probe.unlink()
    except OSError as exc:
        reason = exc.strerror or str(exc)
        return MachineCheck(
            "state folder",
            "fail",
            f"{state_dir}: {reason}",
            "set EDGELOOP_STATE_DIR to a folder that you can write",
        )
    return MachineCheck("state folder", "ok", str(state_dir))


def disk(state_dir: Path) -> MachineCheck:
    """Free space where the stack writes."""
    existing = next(p for p in (state_dir, *state_dir.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    found = f"{size(free)} free at {existing}"
    if free < _GIB:
        return MachineCheck(
            "disk", "fail", found, "free some space, or set EDGELOOP_STATE_DIR to another disk"
        )
    if free < 5 * _GIB:
        return MachineCheck("disk", "warn", found, "a demo fits; replaying long recordings may not")
    return MachineCheck("disk", "ok", found)


def memory() -> MachineCheck:
    """Memory that is available to programs."""
    available = psutil.virtual_memory().available
    found = f"{size(available)} available"
    if available < _GIB:
        return MachineCheck(
            "memory", "fail", found, "close other programs: broker, worker and devices need about 1 GB"
        )
    if available < 2 * _GIB:
        return MachineCheck("memory", "warn", found, "run one worker, and EDGELOOP_KAFKA_HEAP_MB=256")
    return MachineCheck("memory", "ok", found)


def open_files() -> MachineCheck:
    """How many files a process may open; the broker needs three per partition, and its connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        return MachineCheck("open files", "warn", f"at most {hard}", "raise the hard limit: ulimit -Hn 65536")
    return MachineCheck(
        "open files", "ok", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}"
    )


def port(settings: StackSettings) -> MachineCheck:
    """The configured port of the stack's own broker."""
    if settings.broker is not None or settings.kafka_port is None:
        return MachineCheck(
            "port", "ok", "none is needed" if settings.broker else "a free one is taken at each start"
        )
    if is_held(settings.state_dir):
        return MachineCheck("port", "ok", f"{settings.kafka_port}, used by the stack that is up")
    if is_free(settings.kafka_port):
        return MachineCheck("port", "ok", f"{settings.kafka_port} is free")
    advice = "stop the program that listens there, or unset EDGELOOP_KAFKA_PORT"
    return MachineCheck("port", "fail", f"{settings.kafka_port} on {LOOPBACK} is taken", advice)


def stack(state_dir: Path) -> MachineCheck:
    """The processes of the stack that is up, and how the last start ended."""
    found = read_stack(state_dir)
    if not is_held(state_dir):
        if found is not None and found.state == "failed":
            return MachineCheck("stack", "warn", f"the last start failed: {found.error}", "edgeloop up")
        return MachineCheck("stack", "ok", "not up")
    if troubles := stack_troubles(state_dir):
        return MachineCheck("stack", "fail", "; ".join(troubles), "mend what the last line says; see the log")
    return MachineCheck("stack", "ok", f"up, {len(found.processes) if found else 0} processes run")


def broker(address: str) -> MachineCheck:
    """The cluster that EDGELOOP_BROKER names."""
    try:
        KafkaAdmin(address, timeout_s=3.0).wait_ready(3.0)
    except PipelineError as exc:
        return MachineCheck("broker", "fail", str(exc), "check EDGELOOP_BROKER and the network, or unset it")
    return MachineCheck("broker", "ok", address)
