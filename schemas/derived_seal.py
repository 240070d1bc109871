"""Signatures of derived messages: the cloud's aggregates, verdicts, dead letters and lifecycle events.

Three headers are added: ``digest`` (SHA-256 of the value), ``signer`` (key id) and ``signature`` (P-256, as
devices sign), which covers topic, key and all other headers in their order. The topic is signed without its
namespace, so that a message stays valid when it is mirrored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from schemas.envelope import Headers, MessageSigner, MessageVerifier, signed_bytes
from schemas.errors import SignatureError

_DIGEST, _SIGNER, _SIGNATURE = "digest", "signer", "signature"


def seal_derived(
    topic: str, key: bytes, headers: Sequence[tuple[str, bytes]], value: bytes, signer: MessageSigner
) -> Headers:
    """Headers of a derived message with digest, signer and signature.

    Args:
        topic: Without namespace.
        key: As sent.
        headers: As sent; none of them has one of the three names.
        value: As sent.
        signer: Key of the process that sends it.
    """
    sealed = [*headers, (_DIGEST, hashlib.sha256(value).digest()), (_SIGNER, signer.key_id.encode())]
    return [*sealed, (_SIGNATURE, signer.sign(signed_bytes(topic, key, sealed)))]


def signer_of(headers: Headers) -> str:
    """Id of the key that the message says it is signed with; empty: it is not signed."""
    return (dict(headers).get(_SIGNER) or b"").decode("ascii", "replace")


def check_derived(
    topic: str, key: bytes, headers: Headers, value: bytes, keys: Mapping[str, MessageVerifier]
) -> None:
    """Return if one of the keys signed exactly this message.

    Args:
        topic: Without namespace.
        key: As the log has it.
        headers: As the log has them.
        value: As the log has it.
        keys: Keys that may sign messages of this topic, by id.

    Raises:
        SignatureError: A header is missing or doubled, the signer is unknown, or the signature does not hold.
    """
    fields = dict(headers)
    if len(fields) != len(headers):
        raise SignatureError("a header appears twice")
    if any(not isinstance(fields.get(name), bytes) for name in (_DIGEST, _SIGNER, _SIGNATURE)):
        raise SignatureError("the message is not signed")
    if any(content is None for content in fields.values()):
        raise SignatureError("a header has no value")
    verifier = keys.get(signer_of(headers))
    if verifier is None:
        raise SignatureError(f"key {fields[_SIGNER][:16]!r} may not sign messages of {topic}")
    if hashlib.sha256(value).digest() != fields[_DIGEST]:
        raise SignatureError("digest does not match the value")
    unsigned = [h for h in headers if h[0] != _SIGNATURE]
    verifier.verify(fields[_SIGNATURE], signed_bytes(topic, key, unsigned))
