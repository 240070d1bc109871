"""Records the archive of the broker's classes: a broker of its own runs once, and writes them as it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.kafka.class_archive import archive_of, recording
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import BROKER, KafkaBroker
from infra.kafka.kafka_jars import require_program, resolve_jars
from schemas.errors import StackError

_RECORDING_S = 60.0


class RecordedBroker(KafkaBroker):
    """A broker whose JVM writes an archive of its classes when it ends in good order.

    Args:
        root: Folder of the broker.
        cache_dir: Root of the jar cache.
        archive: The file to write.
    """

    def __init__(self, root: Path, cache_dir: Path, archive: Path) -> None:
        super().__init__(root, cache_dir)
        self._archive = archive

    def _java(self, java: str, jars: Path, main: str, *arguments: str) -> list[str]:
        command = super()._java(java, jars, main, *arguments)
        return [command[0], *(recording(self._archive) if main == BROKER else []), *command[1:]]


def record_classes(cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """Record the classes once for this JVM; returns the archive's path.

    Args:
        cache_dir: Root of the jar cache.
        progress: Receives progress lines.

    Raises:
        StackError: As in ``KafkaBroker.start``, or the cache cannot be written.
    """
    java, jars = require_program("java", "openjdk-17-jre-headless"), resolve_jars(cache_dir, progress)
    archive = archive_of(java, jars)
    if archive.is_file():
        return archive
    progress("recording the broker's classes, so that it starts in two thirds of the time (once)")
    try:
        with TemporaryDirectory(dir=jars) as folder:
            made = Path(folder) / archive.name
            with RecordedBroker(Path(folder) / "broker", cache_dir, made) as broker:
                KafkaAdmin(broker.bootstrap_servers).create_topics("recording")
                broker.stop(_RECORDING_S)
            if made.is_file():  # a JVM that knows no archives writes none, and needs none
                for older in jars.glob("classes-*.jsa"):
                    older.unlink(missing_ok=True)
                made.rename(archive)
    except OSError as exc:
        raise StackError(f"cannot write the jar cache {jars}: {exc.strerror or exc}") from exc
    return archive
