"""One signature for many messages: each verifies alone, and nothing else does."""

import hashlib

import pytest

from schemas.envelope import (
    Envelope,
    MessageSigner,
    MessageVerifier,
    encode_rows,
    read_envelope,
    seal,
    signed_by,
    verify,
)
from schemas.errors import MessageError, SignatureError
from schemas.message_tree import MOST_LEAVES, leaf_of, root_of, signed_root, tree_of
from schemas.sealed_together import sealed_together
from schemas.topics import Lane
from tests.simulators.messages import telemetry_batch

SIGNER = MessageSigner.generate()
VERIFIER = MessageVerifier(SIGNER.public_pem())
# Leaves and roots that the authors of Certificate Transparency test their implementations with.
CT_LEAVES = [bytes.fromhex(h) for h in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
CT_ROOTS = {
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def messages(n, signer=SIGNER, device="d-1"):
    value, raw = encode_rows(telemetry_batch(device, 0, 2))
    return [
        seal(
            "telemetry.v1",
            Envelope("f", "machine", device, "aa", Lane.LIVE, i, 2, raw, b"", ""),
            value,
            signer,
        )
        for i in range(n)
    ]


def check(message, verifier=VERIFIER, **changes):
    parts = {"topic": message.topic, "headers": message.headers, "value": message.value, **changes}
    envelope, proof = read_envelope(message.key, parts["headers"])
    verify(parts["topic"], message.key, parts["headers"], parts["value"], envelope, proof, verifier)


def with_header(message, name, value):
    return [(k, value if k == name else v) for k, v in message.headers]


@pytest.mark.parametrize("n", sorted(CT_ROOTS))
def test_roots_are_those_of_certificate_transparency(n):
    assert tree_of([leaf_of(leaf) for leaf in CT_LEAVES[:n]])[0].hex() == CT_ROOTS[n]


@pytest.mark.parametrize("n", [*range(2, 20), 31, 32, 33, MOST_LEAVES])
def test_each_path_leads_from_its_own_leaf_to_the_root_and_from_no_other(n):
    leaves = [leaf_of(i.to_bytes(2, "big")) for i in range(n)]
    root, paths = tree_of(leaves)
    for i, path in enumerate(paths):
        assert root_of(leaves[i], path) == root
        with_another = leaves[(i + 1) % n]
        assert root_of(with_another, path) != root


@pytest.mark.parametrize("n", [0, 1, MOST_LEAVES + 1])
def test_a_tree_has_at_least_two_leaves_and_a_bounded_number(n):
    with pytest.raises(ValueError, match="a tree of"):
        tree_of([bytes(32)] * n)


@pytest.mark.parametrize(
    "path",
    [b"", b"\0\0\0", bytes(4) + bytes(31), b"\0\2\0\2" + bytes(32), b"\0\0\0\2", b"\0\0\0\2" + bytes(64),
     b"\0\0\xff\xff" + bytes(16 * 32), b"\0\4\0\5" + bytes(64)],
)  # fmt: skip
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(SignatureError):
        root_of(bytes(32), path)


@pytest.mark.parametrize("n", [2, 8, 13])
def test_each_message_of_a_tree_verifies_alone_in_any_order(n):
    sealed = sealed_together(messages(n), SIGNER)
    assert len({dict(m.headers)["signature"] for m in sealed}) == 1
    for message in (*sealed[::-1], sealed[n // 2]):
        check(message, MessageVerifier(SIGNER.public_pem()))


def test_the_same_messages_are_signed_over_whatever_signed_them_before():
    alone = messages(9)
    once = sealed_together(alone, SIGNER)
    again = sealed_together(once, SIGNER)
    assert [dict(m.headers)["path"] for m in again] == [dict(m.headers)["path"] for m in once]
    for message in again:
        check(message)


@pytest.mark.parametrize("n", [8, 11])
def test_no_bit_of_a_header_and_no_byte_of_a_value_can_change(n):
    sealed = sealed_together(messages(n), SIGNER)
    for message in sealed:
        check(message)  # so the root is known to hold, and only the way to it can refuse what follows
    message = sealed[-1]
    for name, value in message.headers:
        for bit in range(0, 8 * len(value), 1 if name == "path" else 8):
            changed = bytearray(value)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(MessageError):
                check(message, headers=with_header(message, name, bytes(changed)))
    with pytest.raises(SignatureError):
        check(message, value=message.value[:-1] + b"\0\1")
    with pytest.raises(SignatureError):
        check(message, topic="summary.v1")


def test_a_message_of_a_tree_passes_neither_without_its_path_nor_with_a_neighbours():
    first, second, *_ = sealed_together(messages(8), SIGNER)
    check(first)
    with pytest.raises(SignatureError):
        check(first, headers=[h for h in first.headers if h[0] != "path"])
    with pytest.raises(SignatureError):
        check(first, headers=with_header(first, "path", dict(second.headers)["path"]))


def test_an_empty_path_is_refused_too():
    alone = messages(1)[0]
    check(alone)
    with pytest.raises(SignatureError):
        check(alone, headers=[*alone.headers, ("path", b"")])


def test_a_signature_over_one_message_is_none_over_a_tree_and_the_other_way_round():
    one, other = messages(2)
    data = signed_by(one.topic, one.key, one.headers)
    path = tree_of([leaf_of(data), leaf_of(signed_by(other.topic, other.key, other.headers))])[1][0]
    with pytest.raises(SignatureError):
        check(one, headers=[*one.headers, ("path", path)])
    root = root_of(leaf_of(data), path)
    assert not signed_root(root).startswith(data[:4])


def test_an_inner_node_is_no_leaf():
    left, right = (leaf_of(x) for x in (b"a", b"b"))
    root, _ = tree_of([left, right])
    assert root == hashlib.sha256(b"\x01" + left + right).digest() != leaf_of(left + right)


def test_another_producers_key_does_not_hold():
    stranger = MessageSigner.generate()
    with pytest.raises(SignatureError):
        check(sealed_together(messages(8, stranger), stranger)[0])
