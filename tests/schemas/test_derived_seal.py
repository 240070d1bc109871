"""What the cloud derives is signed: who holds no key can make, change or move no message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.derived_seal import check_derived, seal_derived, signer_of
from schemas.envelope import MessageSigner, MessageVerifier
from schemas.errors import SignatureError

SIGNER = MessageSigner.generate()
KEYS = {SIGNER.key_id: MessageVerifier(SIGNER.public_pem())}
TOPIC, KEY, VALUE = "aggregate.v1", b"machine/hall/a/x86", b'{"n": 5}'
HEADERS = [("source_topic", b"telemetry.v1"), ("event_id", b"task-03/7/0")]
SEALED = seal_derived(TOPIC, KEY, HEADERS, VALUE, SIGNER)


def test_a_sealed_message_is_accepted_and_names_its_signer():
    check_derived(TOPIC, KEY, SEALED, VALUE, KEYS)
    assert SEALED[: len(HEADERS)] == HEADERS
    assert signer_of(SEALED) == SIGNER.key_id
    assert signer_of(HEADERS) == ""


@given(st.sampled_from(range(len(SEALED))), st.integers(0, 10**6), st.sampled_from([1, 2, 16, 128]))
def test_no_bit_of_a_header_can_be_changed(index, at, bit):
    name, content = SEALED[index]
    at %= len(content)
    changed = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
    headers = [*SEALED[:index], (name, changed), *SEALED[index + 1 :]]
    with pytest.raises(SignatureError):
        check_derived(TOPIC, KEY, headers, VALUE, KEYS)


@pytest.mark.parametrize(
    ("topic", "key", "headers", "value"),
    [
        ("drift.v1", KEY, SEALED, VALUE),
        (TOPIC, b"machine/hall/b/x86", SEALED, VALUE),
        (TOPIC, b"", SEALED, VALUE),
        (TOPIC, KEY, SEALED, VALUE + b" "),
        (TOPIC, KEY, SEALED[1:], VALUE),
        (TOPIC, KEY, [SEALED[1], SEALED[0], *SEALED[2:]], VALUE),
        (TOPIC, KEY, [*SEALED, ("more", b"x")], VALUE),
        (TOPIC, KEY, [*SEALED, SEALED[-1]], VALUE),
        (TOPIC, KEY, [h for h in SEALED if h[0] != "signature"], VALUE),
        (TOPIC, KEY, [(n, None if n == "event_id" else c) for n, c in SEALED], VALUE),
        (TOPIC, KEY, [(n, None if n == "signature" else c) for n, c in SEALED], VALUE),
        (TOPIC, KEY, [(n, b"\xff\x00" if n == "signer" else c) for n, c in SEALED], VALUE),
        (TOPIC, KEY, [], VALUE),
        (TOPIC, KEY, seal_derived(TOPIC, KEY, HEADERS, VALUE, MessageSigner.generate()), VALUE),
    ],
)
def test_nothing_else_is_accepted(topic, key, headers, value):
    with pytest.raises(SignatureError):
        check_derived(topic, key, headers, value, KEYS)


def test_header_boundaries_cannot_be_moved():
    sealed = seal_derived(TOPIC, KEY, [("ab", b"c")], VALUE, SIGNER)
    for name, content in (("a", b"bc"), ("abc", b"")):
        with pytest.raises(SignatureError):
            check_derived(TOPIC, KEY, [(name, content), *sealed[1:]], VALUE, KEYS)
