"""A file of state that carries its digest is read as it was written, or not at all."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=6).filter(lambda key: key != "digest"), VALUES, max_size=5)


@given(OBJECTS)
def test_what_was_written_is_read(raw):
    assert checked(with_digest(orjson.dumps(raw)), "it") == raw


@given(OBJECTS, st.data())
def test_no_turned_bit_gives_another_value(raw, data):
    written = bytearray(with_digest(orjson.dumps(raw)))
    at = data.draw(st.integers(0, len(written) * 8 - 1))
    written[at // 8] ^= 1 << (at % 8)
    try:
        read = checked(bytes(written), "it")
    except DamagedLakeError:
        return
    assert {key: read.get(key) for key in raw} == raw  # a bit of the digest's own name was turned


@given(OBJECTS, st.data())
def test_no_beginning_of_a_file_is_taken_for_the_file(raw, data):
    written = with_digest(orjson.dumps(raw))
    with pytest.raises(DamagedLakeError, match="it is damaged"):
        checked(written[: data.draw(st.integers(0, len(written) - 1))], "it")


def test_files_without_a_digest_are_read_as_they_are():
    assert checked(b'{"format":1}', "it") == {"format": 1}
    with pytest.raises(DamagedLakeError, match="no JSON object"):
        checked(b"[1]", "it")
