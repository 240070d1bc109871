"""Sealed messages: small, the same at every resend, and broken by any change."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import (
    Envelope,
    MessageSigner,
    MessageVerifier,
    decode_rows,
    encode_rows,
    read_envelope,
    seal,
    verify,
)
from schemas.errors import DecodeError, MessageError, SignatureError
from schemas.row_schemas import fingerprint
from schemas.topics import Lane
from tests.simulators.messages import SimDevice, telemetry_batch

SIGNER = MessageSigner.generate()
VERIFIER = MessageVerifier(SIGNER.public_pem())


def sealed(n=3):
    value, raw = encode_rows(telemetry_batch("machine-00", 0, n))
    schema = fingerprint(telemetry_batch("machine-00", 0, 1).schema)
    envelope = Envelope(schema, "machine", "machine-00", "00aa", Lane.LIVE, 5, n, raw, b"", "")
    return seal("telemetry.v1", envelope, value, SIGNER)


def check(topic, key, headers, value):
    envelope, signature = read_envelope(key, headers)
    verify(topic, key, headers, value, envelope, signature, VERIFIER)


@pytest.mark.parametrize("n", [5, 10, 50, 500])
def test_a_message_is_never_larger_than_its_rows_as_json_from_5_rows_on(n):
    batch = telemetry_batch("machine-00", 0, n)
    message = SimDevice().telemetry(batch)
    as_json = sum(len(json.dumps(row, default=str, separators=(",", ":"))) for row in batch.to_pylist())
    assert message.size < as_json


def test_rows_come_back_as_they_went_in():
    batch = telemetry_batch("machine-00", 0, 20)
    value, raw = encode_rows(batch)
    assert decode_rows(value, raw, batch.schema).equals(batch)


def test_what_was_sealed_verifies():
    m = sealed()
    check(m.topic, m.key, m.headers, m.value)


def test_a_signature_does_not_hold_for_another_topic_or_key():
    m = sealed()
    for topic, key in (("summary.v1", m.key), (m.topic, b"machine-01")):
        with pytest.raises(SignatureError):
            check(topic, key, m.headers, m.value)


@given(seed=st.integers(0, 2**32))
def test_any_flipped_bit_is_noticed(seed):
    m, rng = sealed(), random.Random(seed)
    parts = [m.value, *(v for _, v in m.headers)]
    which = rng.randrange(len(parts))
    changed = bytearray(parts[which])
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    parts[which] = bytes(changed)
    headers = [(name, value) for (name, _), value in zip(m.headers, parts[1:], strict=True)]
    with pytest.raises(MessageError):
        check(m.topic, m.key, headers, parts[0])


@given(junk=st.binary(max_size=300), raw_bytes=st.integers(-1, 2**40))
def test_junk_never_decodes_and_never_takes_memory(junk, raw_bytes):
    with pytest.raises(DecodeError):
        decode_rows(junk, raw_bytes, telemetry_batch("machine-00", 0, 1).schema)


@pytest.mark.parametrize("missing", ["schema", "lane", "msg_no", "digest", "signature"])
def test_a_missing_header_is_named(missing):
    m = sealed()
    with pytest.raises(DecodeError, match=missing):
        read_envelope(m.key, [h for h in m.headers if h[0] != missing])


def test_a_doubled_header_is_refused():
    m = sealed()
    with pytest.raises(DecodeError, match="twice"):
        read_envelope(m.key, [*m.headers, ("lane", b"live")])


@pytest.mark.parametrize("number", [b"-1", b"1.5", b"", b"9" * 19, "²".encode()])
def test_a_number_that_is_no_natural_number_is_refused(number):
    m = sealed()
    with pytest.raises(DecodeError):
        read_envelope(m.key, [(k, number if k == "msg_no" else v) for k, v in m.headers])
