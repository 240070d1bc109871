"""Kafka's jars: resolved once with Maven into a cache outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.printing import size
from schemas.errors import StackError

POM = Path(__file__).with_name("pom.xml")
STAMP = "resolved-from.sha256"
NEEDED_BYTES = 200 * 1024**2
PROGRESS_EVERY_S = 5.0


def kafka_version(pom: Path = POM) -> str:
    """Version of the broker that the pom names."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", pom.read_text())
    if found is None:
        raise ValueError(f"{pom} has no <kafka.version>")
    return found.group(1)


def jars_folder(cache_dir: Path, pom: Path = POM) -> Path:
    """Folder of the jars of the pom's version, whether they are resolved or not."""
    return cache_dir / "kafka" / kafka_version(pom)


def are_resolved(cache_dir: Path, pom: Path = POM) -> bool:
    """True if the cache holds what exactly this pom resolves to."""
    stamp = jars_folder(cache_dir, pom) / STAMP
    return stamp.is_file() and stamp.read_text() == _digest(pom)


def resolve_jars(cache_dir: Path, progress: Callable[[str], None], pom: Path = POM) -> Path:
    """Folder with all jars of the broker; fetches them with Maven if they are not in the cache.

    Safe to call from several processes: one resolves, the others wait.

    Args:
        cache_dir: Root of the cache; the jars go to ``kafka/<version>`` in it.
        progress: Receives progress lines.
        pom: Lists the jars.

    Raises:
        StackError: Java, Maven or disk space is missing, or Maven failed.
    """
    if are_resolved(cache_dir, pom):
        return jars_folder(cache_dir, pom)
    folder = jars_folder(cache_dir, pom)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not are_resolved(cache_dir, pom):
                _resolve(folder, progress, pom)
    except OSError as exc:
        raise StackError(f"cannot write the jar cache {folder}: {exc.strerror or exc}") from exc
    return folder


def _resolve(folder: Path, progress: Callable[[str], None], pom: Path) -> None:
    require_program("java", "openjdk-17-jre-headless")
    maven = require_program("mvn", "maven")
    free = shutil.disk_usage(folder.parent).free
    if free < NEEDED_BYTES:
        raise StackError(
            f"{folder.parent} has {size(free)} free, Kafka's jars need {size(NEEDED_BYTES)}: "
            "free some space or set XDG_CACHE_HOME"
        )
    progress(f"fetching Kafka {kafka_version(pom)} with Maven into {folder} (about 45 MB, once)")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _run_maven(maven, pom, partial, progress)
    jars = len(list(partial.glob("*.jar")))
    (partial / STAMP).write_text(_digest(pom))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    progress(f"Kafka {kafka_version(pom)} is ready: {jars} jars")


def _run_maven(maven: str, pom: Path, target: Path, progress: Callable[[str], None]) -> None:
    command = [maven, "-B", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    command.append(f"-DoutputDirectory={target}")
    with subprocess.Popen(  # noqa: S603 - the program was looked up by name on PATH
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as maven_process:
        errors = _follow(maven_process.stdout or (), progress)
    if maven_process.returncode != 0:
        reason = errors[0] if errors else f"exit code {maven_process.returncode}"
        raise StackError(f"Maven could not fetch Kafka's jars: {reason} (is its repository reachable?)")


def _follow(lines: Iterator[str] | tuple[()], progress: Callable[[str], None]) -> list[str]:
    """Read Maven's output to its end and report progress; returns its error lines."""
    errors, downloads, reported_at = [], 0, time.monotonic()
    for line in lines:
        downloads += "Downloaded from" in line
        if line.startswith("[ERROR]"):
            errors.append(line.removeprefix("[ERROR]").strip())
        if time.monotonic() - reported_at > PROGRESS_EVERY_S:
            reported_at = time.monotonic()
            progress(f"  … {downloads} files")
    return [e for e in errors if e]


def require_program(name: str, debian_package: str) -> str:
    """Path of a program.

    Raises:
        StackError: The program is not on PATH; the message names the Debian package.
    """
    path = shutil.which(name)
    if path is None:
        raise StackError(f"{name} is not installed: apt-get install {debian_package}")
    return path


def _digest(pom: Path) -> str:
    return hashlib.sha256(pom.read_bytes()).hexdigest()
