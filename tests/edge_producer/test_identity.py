"""Laws of a device's identity."""

import stat

import pytest

from edge_producer.identity import load_or_create
from schemas.envelope import Verifier
from schemas.errors import SpoolError


def test_identity_is_made_once_and_kept_private(tmp_path):
    first, again = load_or_create(tmp_path, "d-1"), load_or_create(tmp_path, "d-1")
    assert first.secret == again.secret
    assert first.key_id == again.key_id == Verifier(first.public_pem.encode()).key_id
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {0o600}


def test_devices_differ(tmp_path):
    one, two = load_or_create(tmp_path, "d-1"), load_or_create(tmp_path, "d-2")
    assert one.key_id != two.key_id
    assert one.secret != two.secret


def test_a_damaged_key_is_refused_not_replaced(tmp_path):
    load_or_create(tmp_path, "d-1")
    (tmp_path / "d-1.pem").write_text("gone")
    with pytest.raises(SpoolError, match="d-1"):
        load_or_create(tmp_path, "d-1")
    assert (tmp_path / "d-1.pem").read_text() == "gone"
