"""The broker's classes as the JVM keeps them (class data sharing): a broker starts in two thirds of the time.

`make setup` records the archive once beside the jars. A JVM that finds it unfit, of another build or of other
jars, says nothing and loads the jars as before.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def archive_of(java: str, jars: Path) -> Path:
    """Where the archive for this JVM is kept, whether it has been recorded or not.

    Args:
        java: Path of the program.
        jars: Folder of the broker's jars.
    """
    program = Path(java).resolve()
    stat = program.stat()
    facts = f"{program} {stat.st_size} {stat.st_mtime_ns}"
    return jars / f"classes-{hashlib.sha256(facts.encode()).hexdigest()[:12]}.jsa"


def sharing(archive: Path) -> list[str]:
    """Options of a JVM that uses the archive; none where there is none."""
    if not archive.is_file():
        return []
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]


def recording(archive: Path) -> list[str]:
    """Options of a JVM that writes the archive when it ends in good order."""
    return ["-XX:+IgnoreUnrecognizedVMOptions", f"-XX:ArchiveClassesAtExit={archive}", "-Xlog:cds=off"]
