"""Bytes of every published schema version stay readable: what a device sealed last year still lands."""

import json

import pytest

from schemas.envelope import decode_rows
from schemas.row_schemas import fingerprint
from tests.schemas.golden_rows import GOLDEN
from tests.schemas.make_golden import FOLDER


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_decode_to_the_rows_they_were_made_of(name):
    head = json.loads((FOLDER / f"{name}.json").read_text())
    decoded = decode_rows((FOLDER / f"{name}.bin").read_bytes(), head["raw_bytes"], GOLDEN[name].schema)
    assert decoded.equals(GOLDEN[name])


@pytest.mark.parametrize("name", GOLDEN)
def test_a_published_fingerprint_never_changes(name):
    assert fingerprint(GOLDEN[name].schema) == json.loads((FOLDER / f"{name}.json").read_text())["schema"]


def test_documentation_is_no_part_of_the_fingerprint():
    schema = GOLDEN["books.v1"].schema
    bare = schema.empty_table().schema.remove_metadata().with_metadata(schema.metadata)
    renamed = schema.set(0, schema.field(0).with_name("device"))
    assert fingerprint(bare) == fingerprint(schema) != fingerprint(renamed)
