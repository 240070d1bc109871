"""Headers of sealed messages, of which each producer repeats most: those are decoded and checked once."""

from __future__ import annotations

from typing import NamedTuple

from schemas.envelope import Envelope, Proof, signed_bytes
from schemas.topics import Lane
from schemas.version_names import VERSION_HEADER, VersionHeader
from stream_processors.job import RawMessage

MOST_REPEATS = 10_000
"""Repeated parts that are remembered; at one more all are forgotten."""
_NAMES = ("schema", "profile", "spool_id", "lane", "msg_no", "n_rows", "raw_bytes", "digest", "signer",
          "signature")  # fmt: skip
_VERSION_PLACE = 2
"""Where the header ``profile_version`` stands, if a message has one; ``path`` comes last."""
_BEFORE_NUMBER = frozenset({"schema", "profile", VERSION_HEADER, "spool_id", "lane"})
_DIGEST_BYTES, _SIGNATURE_BYTES, _MOST_DIGITS = 32, 64, 18
_SIZES = tuple(n.to_bytes(4, "big") for n in range(_SIGNATURE_BYTES + 1))


class RepeatedHeaders(NamedTuple):
    """What is the same in many messages of a producer.

    Attributes:
        before: What a signature covers, up to the message number; after: the same from the signer on.
    """

    schema: str
    profile: str
    producer: str
    spool_id: str
    lane: Lane
    signer: str
    before: bytes
    after: bytes
    version: VersionHeader | None


class KnownMessage(NamedTuple):
    """Headers of a message whose repeated part was checked before."""

    envelope: Envelope
    proof: Proof
    signed: bytes


Repeat = tuple[str, bytes | None, bytes, bytes, bytes, bytes, bytes, bytes | None]


class KnownHeaders:
    """Reads headers that came before, but for numbers, digest and signature. Kept between calls."""

    def __init__(self) -> None:
        self._known: dict[Repeat, RepeatedHeaders] = {}

    def read(self, message: RawMessage) -> KnownMessage | None:
        """The headers; None: they are not as before, so they are to be read and checked in full."""
        headers, path, version = message.headers, None, None
        if len(headers) > len(_NAMES) and headers[-1][0] == "path" and headers[-1][1] is not None:
            headers, path = headers[:-1], headers[-1][1]
        if len(headers) > len(_NAMES) and headers[_VERSION_PLACE][0] == VERSION_HEADER:
            version = headers[_VERSION_PLACE][1] or b""  # without a value it is none that is known
            headers = [*headers[:_VERSION_PLACE], *headers[_VERSION_PLACE + 1 :]]
        try:
            (a, schema), (b, profile), (c, spool), (d, lane), (e, no), (f, rows), (g, raw), (h, digest), (
                i, signer), (j, signature) = headers  # fmt: skip
        except ValueError:  # more or fewer
            return None
        if (a, b, c, d, e, f, g, h, i, j) != _NAMES:
            return None
        known = self._known.get((message.topic, message.key, schema, profile, spool, lane, signer, version))
        if known is None or not (_is_natural(no) and _is_natural(rows) and _is_natural(raw)):
            return None
        if digest is None or len(digest) != _DIGEST_BYTES or signature is None:  # type: ignore[redundant-expr]
            return None
        if len(signature) != _SIGNATURE_BYTES:
            return None
        envelope = Envelope(
            known.schema, known.profile, known.producer, known.spool_id, known.lane,
            int(no), int(rows), int(raw), digest, known.signer, known.version,
        )  # fmt: skip
        signed = b"".join(
            (known.before, _NO, _SIZES[len(no)], no, _ROWS, _SIZES[len(rows)], rows, _RAW,
             _SIZES[len(raw)], raw, _DIGEST, digest, known.after)
        )  # fmt: skip
        return KnownMessage(envelope, Proof(signature, path), signed)

    def learn(self, message: RawMessage, envelope: Envelope) -> None:
        """Remember the repeated part of a message that was read and checked in full."""
        names = [name for name, _ in message.headers]
        if names[-1:] == ["path"]:
            names.pop()
        version = None
        if names[_VERSION_PLACE : _VERSION_PLACE + 1] == [VERSION_HEADER]:
            version = message.headers[_VERSION_PLACE][1]
            del names[_VERSION_PLACE]
        if tuple(names) != _NAMES:
            return
        if len(self._known) >= MOST_REPEATS:
            self._known.clear()
        fields = dict(message.headers)
        schema, profile, spool, lane, signer = (
            fields[n] for n in ("schema", "profile", "spool_id", "lane", "signer")
        )
        first = [h for h in message.headers if h[0] in _BEFORE_NUMBER]
        before = signed_bytes(message.topic, message.key or b"", first)
        after = signed_bytes("", b"", [("signer", signer)])[2 * _SIZE_BYTES :]
        key = (message.topic, message.key, schema, profile, spool, lane, signer, version)
        self._known[key] = RepeatedHeaders(
            envelope.schema, envelope.profile, envelope.producer, envelope.spool_id, envelope.lane,
            envelope.signer, before, after, envelope.version,
        )  # fmt: skip


_SIZE_BYTES = len(_SIZES[0])


def _named(name: str) -> bytes:
    """How a header's name stands in what a signature covers."""
    return len(name).to_bytes(_SIZE_BYTES, "big") + name.encode()


_NO, _ROWS, _RAW = _named("msg_no"), _named("n_rows"), _named("raw_bytes")
_DIGEST = _named("digest") + _SIZES[_DIGEST_BYTES]


def _is_natural(text: bytes) -> bool:
    return text is not None and text.isdigit() and len(text) <= _MOST_DIGITS  # type: ignore[redundant-expr]
