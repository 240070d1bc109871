"""The environment of a judge: its own, from hashed pins, made once and when they change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
STAMP = "made-from.sha256"
PYTHON = "3.11"


class JudgeUnavailableError(Exception):
    """A judge cannot be had on this machine; the message says what to do."""


def pins_of(judge: str) -> Path:
    """The hashed requirements of a judge."""
    return HERE / f"requirements-judge-{judge}.txt"


def python_of(judge: str, root: Path) -> Path:
    """Interpreter of the judge's environment, ``.venv-judge-NAME`` in the checkout.

    Raises:
        JudgeUnavailableError: There is no such Python, or the packages cannot be fetched.
    """
    folder = root / f".venv-judge-{judge}"
    python = folder / "bin" / "python"
    made_from = hashlib.sha256(pins_of(judge).read_bytes() + PYTHON.encode()).hexdigest()
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from:
        return python
    base = _base_python()
    sys.stderr.write(f"making the environment of judge {judge} in {folder} (once; some minutes)\n")
    shutil.rmtree(folder, ignore_errors=True)
    _run(judge, str(base), "-m", "venv", str(folder))
    # The pins are complete: nothing is left for pip to resolve.
    install = ("install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
    _run(judge, str(python), "-m", "pip", *install, "-r", str(pins_of(judge)))
    stamp.write_text(made_from, encoding="utf-8")
    return python


def _base_python() -> str:
    """A Python of the version that the pins are for."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        return sys.executable
    found = shutil.which(f"python{PYTHON}")
    if found is None:
        raise JudgeUnavailableError(f"Python {PYTHON} is not installed: the pins of the judges are for it")
    return found


def _run(judge: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if "ERROR" in line.upper()), lines[-1] if lines else "no word")
        raise JudgeUnavailableError(f"judge {judge} cannot be installed: {reason.strip()[:200]}")
