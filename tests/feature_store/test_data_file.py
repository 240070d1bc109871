"""Data files state their content in their names."""

import hashlib

import pyarrow as pa
import pytest

from feature_store import parquet
from feature_store.data_file import Origin, content_problem, digest_of, file_name, origin
from schemas.errors import DamagedLakeError
from tests.feature_store.lakes import LEFT, rows, two_tables


@pytest.fixture
def file(tmp_path):
    lake = two_tables(tmp_path)
    [staged] = lake.stage(LEFT.name, rows(range(50)), "task-00", 7)
    return tmp_path / LEFT.name / staged.path


def test_the_name_says_who_wrote_the_file_and_begins_its_sha256(file):
    assert origin(file.name) == Origin("task-00", 7, 5)
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(digest_of(file.name))
    assert content_problem(file, file.stat().st_size) is None


def test_two_files_of_one_content_have_two_names():
    content = pa.py_buffer(b"same")
    assert file_name(Origin("t", 0, 1), content) != file_name(Origin("t", 0, 1), content)


def test_a_name_of_release_0_2_0_states_no_digest():
    assert digest_of("task-00.000000000007.30.0123456789abcdef.parquet") is None
    assert origin("task-00.000000000007.30.0123456789abcdef.parquet") == Origin("task-00", 7, 30)
    assert origin("part-0001.parquet") is None


@pytest.mark.parametrize("nameless", [False, True], ids=["digest", "page checksums alone"])
def test_no_turned_bit_in_the_rows_is_read_as_another_value(file, nameless):
    if nameless:
        file = file.rename(file.with_name("task-00.000000000007.5.0123456789abcdef.parquet"))
    whole = file.read_bytes()
    columns = rows([]).schema
    expected = parquet.read(file, columns)
    for at in range(0, len(whole) * 8, 23):
        altered = bytearray(whole)
        altered[at // 8] ^= 1 << (at % 8)
        file.write_bytes(altered)
        try:
            read = parquet.read(file, columns)
        except (DamagedLakeError, ValueError):
            continue
        assert nameless, f"bit {at} was read in spite of the digest"
        assert read.equals(expected), f"bit {at}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "is missing"), (b"", "0 of"), (b"x" * 40, "40 of")],
    ids=["missing", "empty", "torn"],
)
def test_what_is_wrong_with_a_file_is_said_in_words(file, content, problem):
    size = file.stat().st_size
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert problem in content_problem(file, size)
