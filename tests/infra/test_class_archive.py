"""The archive of the broker's classes: each JVM has its own, and one that does not fit harms nothing."""

import shutil
from pathlib import Path

import pytest

from infra.kafka.class_archive import archive_of, sharing
from infra.kafka.class_recording import record_classes
from infra.kafka.kafka_broker import KafkaBroker
from infra.kafka.kafka_jars import jars_folder, require_program


def test_another_build_of_the_jvm_has_another_archive_and_without_one_nothing_is_asked_of_it(tmp_path: Path):
    java = tmp_path / "java"
    java.write_bytes(b"a program")
    first = archive_of(str(java), tmp_path)
    assert archive_of(str(java), tmp_path) == first
    assert sharing(first) == []
    first.write_bytes(b"classes")
    assert f"-XX:SharedArchiveFile={first}" in sharing(first)
    java.write_bytes(b"another program")
    assert sharing(archive_of(str(java), tmp_path)) == []


@pytest.mark.long
@pytest.mark.kafka
def test_a_broker_starts_with_the_archive_that_was_recorded_and_beside_one_that_is_no_archive(
    tmp_path: Path, cache_dir: Path
):
    own = tmp_path / "cache"
    kept = jars_folder(cache_dir)
    shutil.copytree(kept, jars_folder(own), ignore=shutil.ignore_patterns("classes-*"))
    said: list[str] = []
    archive = record_classes(own, said.append)
    assert archive.stat().st_size > 10**7
    assert len(said) == 1
    assert (
        record_classes(own, said.append)
        == archive
        == archive_of(require_program("java", ""), jars_folder(own))
    )
    assert len(said) == 1
    for number, damage in enumerate((lambda: None, lambda: archive.write_bytes(b"no archive at all"))):
        damage()
        with KafkaBroker(tmp_path / str(number), own) as broker:
            maps = Path(f"/proc/{broker.child.pid}/maps").read_text()
            assert (archive.name in maps) is (number == 0)
