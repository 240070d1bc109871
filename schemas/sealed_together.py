"""One signature for many messages of a producer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from schemas.envelope import PROOF_HEADERS, MessageSigner, SealedMessage, signed_by
from schemas.message_tree import leaf_of, signed_root, tree_of

FEWEST_SHARING, MOST_SHARING = 8, 16
"""Messages of one producer in one turn that share a signature. Each then carries some 130 bytes more, which
only pays where a backlog is sealed; in larger trees the way to the root costs what the signature saves."""


def signed_as_a_turn(messages: Sequence[SealedMessage], signer: MessageSigner) -> list[SealedMessage]:
    """What one producer seals in one turn, in order: with shared signatures where it is much."""
    signed: list[SealedMessage] = []
    for start in range(0, len(messages), MOST_SHARING):
        part = messages[start : start + MOST_SHARING]
        signed += sealed_together(part, signer) if len(part) >= FEWEST_SHARING else part
    return signed


def sealed_together(messages: Sequence[SealedMessage], signer: MessageSigner) -> list[SealedMessage]:
    """The same messages with one signature for all; their values are not looked at.

    Args:
        messages: 2 to ``message_tree.MOST_LEAVES``, each sealed alone by one producer.
        signer: The producer's key.
    """
    root, paths = tree_of([leaf_of(signed_by(m.topic, m.key, m.headers)) for m in messages])
    proof = ("signature", signer.sign(signed_root(root)))
    return [
        replace(m, headers=[*(h for h in m.headers if h[0] not in PROOF_HEADERS), proof, ("path", path)])
        for m, path in zip(messages, paths, strict=True)
    ]
