"""Environments of the peers: each its own, from its pinned requirements, in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from infra.settings import default_cache_dir

HERE = Path(__file__).parent
STAMP = "made-from.sha256"
SHIPPED_WITH_PYSPARK = "scala-library,hadoop-client-api,hadoop-client-runtime"


class PeerUnavailableError(Exception):
    """A peer cannot be had on this machine; the message says why in one line."""


def python_of(peer: str) -> Path:
    """Interpreter of the peer's environment; made where it is missing or was made from other pins.

    Raises:
        PeerUnavailableError: It cannot be made.
    """
    requirements = HERE / peer / "requirements.txt"
    folder = _cache() / peer
    python = folder / "bin" / "python"
    made_from = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if not _is(folder, made_from):
        print(f"making the environment of {peer} in {folder} (once)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run(peer, sys.executable, "-m", "venv", str(folder))
        install = ("-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(requirements))
        _run(peer, str(python), *install)
        (folder / STAMP).write_text(made_from)
    return python


def spark_jars() -> Path:
    """Folder of what pyspark does not ship: its Kafka source and Delta, fetched once with Maven.

    Raises:
        PeerUnavailableError: Java or Maven is missing, or they cannot be fetched.
    """
    pom, folder = HERE / "spark" / "pom.xml", _cache() / "spark-jars"
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise PeerUnavailableError(f"{program} is not installed")
    made_from = hashlib.sha256(pom.read_bytes()).hexdigest()
    if not _is(folder, made_from):
        print(f"fetching Spark's jars into {folder} (once)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        copy = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}")
        _run(
            "spark", "mvn", "-q", "-B", "-f", str(pom), *copy, f"-DexcludeArtifactIds={SHIPPED_WITH_PYSPARK}"
        )
        (folder / STAMP).write_text(made_from)
    return folder


def _cache() -> Path:
    return default_cache_dir(os.environ) / "peers"


def _is(folder: Path, made_from: str) -> bool:
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text() == made_from


def _run(peer: str, *command: str) -> None:
    Path(_cache()).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if "ERROR" in line.upper()), lines[-1] if lines else "no word")
        raise PeerUnavailableError(f"{peer} cannot be installed: {reason.strip()[:200]}")
