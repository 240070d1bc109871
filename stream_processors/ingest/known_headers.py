"""Headers of sealed messages, of which each producer repeats most: those are decoded and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

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
_WITH_PATH = (*_NAMES, "path")
_WITH_VERSION = (*_NAMES[:_VERSION_PLACE], VERSION_HEADER, *_NAMES[_VERSION_PLACE:])
_WITH_BOTH = (*_WITH_VERSION, "path")
_MOST_PATH_BYTES = 1024
"""A longer one is left to the full reading, which refuses it."""
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


Repeat = tuple[str, bytes | None, bytes, bytes, bytes, bytes, bytes, bytes | None]


class KnownMessage(NamedTuple):
    """Headers of a message whose repeated part was read in full before."""

    envelope: Envelope
    proof: Proof
    signed: bytes


Learnt = tuple[Repeat, RepeatedHeaders]
_NOTHING: dict[Repeat, RepeatedHeaders] = {}
_UNKNOWN = (None, None)


class KnownHeaders:
    """Reads headers that came before, but for numbers, digest and signature. Kept between calls."""

    def __init__(self) -> None:
        self._known: dict[Repeat, RepeatedHeaders] = {}

    def read(self, message: RawMessage) -> KnownMessage | None:
        """The headers; None: they are not as before, so they are to be read and checked in full."""
        return self.look(message, _NOTHING)[0]

    def look(
        self, message: RawMessage, unproved: Mapping[Repeat, RepeatedHeaders]
    ) -> tuple[KnownMessage | None, Learnt | None]:
        """The same, and the repeated part, where it is one of the unproved; None: a signature over it held.

        Args:
            message: As it came.
            unproved: Repeated parts that were read and checked in full in this call; what they say is known,
                who said so is not.
        """
        fields = _fields(message)
        if fields is None:
            return _UNKNOWN
        schema, profile, version, spool, lane, no, rows, raw, digest, signer, signature, path = fields
        key = (message.topic, message.key, schema, profile, spool, lane, signer, version)
        known, learnt = self._known.get(key), None
        if known is None:
            known = unproved.get(key)
            if known is None:
                return _UNKNOWN
            learnt = (key, known)
        if not (_is_natural(no) and _is_natural(rows) and _is_natural(raw)):
            return _UNKNOWN
        if digest is None or len(digest) != _DIGEST_BYTES or signature is None:
            return _UNKNOWN
        if len(signature) != _SIGNATURE_BYTES or (path is not None and len(path) > _MOST_PATH_BYTES):
            return _UNKNOWN
        envelope = Envelope(
            known.schema, known.profile, known.producer, known.spool_id, known.lane,
            int(no), int(rows), int(raw), digest, known.signer, known.version,
        )  # fmt: skip
        signed = b"".join(
            (known.before, _NO, _SIZES[len(no)], no, _ROWS, _SIZES[len(rows)], rows, _RAW,
             _SIZES[len(raw)], raw, _DIGEST, digest, known.after)
        )  # fmt: skip
        return KnownMessage(envelope, Proof(signature, path), signed), learnt

    def learn(self, message: RawMessage, envelope: Envelope) -> None:
        """Remember the repeated part of a message that was read and checked in full."""
        learnt = repeated_of(message, envelope)
        if learnt is not None:
            self.keep(learnt)

    def keep(self, learnt: Learnt) -> None:
        """Remember a repeated part."""
        key, repeated = learnt
        if key not in self._known:
            if len(self._known) >= MOST_REPEATS:
                self._known.clear()
            self._known[key] = repeated


def repeated_of(message: RawMessage, envelope: Envelope) -> Learnt | None:
    """The repeated part of a message that was read and checked in full; None: it has another shape."""
    fields = _fields(message)
    if fields is None:
        return None
    schema, profile, version, spool, lane, _, _, _, _, signer, _, _ = fields
    first = [h for h in message.headers if h[0] in _BEFORE_NUMBER]
    before = signed_bytes(message.topic, message.key or b"", first)
    after = signed_bytes("", b"", [("signer", signer)])[2 * _SIZE_BYTES :]
    key = (message.topic, message.key, schema, profile, spool, lane, signer, version)
    return key, RepeatedHeaders(
        envelope.schema, envelope.profile, envelope.producer, envelope.spool_id, envelope.lane,
        envelope.signer, before, after, envelope.version,
    )  # fmt: skip


def _fields(message: RawMessage) -> tuple[Any, ...] | None:
    """Values of the headers in the order of ``_WITH_BOTH``, None where there is none; None: another shape."""
    headers = message.headers
    if not len(_NAMES) <= len(headers) <= len(_WITH_BOTH):
        return None
    pairs: Any = zip(*headers, strict=True)
    names, values = pairs
    at = _VERSION_PLACE
    if names == _NAMES:
        return (*values[:at], None, *values[at:], None)
    if names == _WITH_PATH:
        return None if values[-1] is None else (*values[:at], None, *values[at:])
    if names == _WITH_VERSION:
        return (*values[:at], values[at] or b"", *values[at + 1 :], None)
    if names == _WITH_BOTH:
        return None if values[-1] is None else (*values[:at], values[at] or b"", *values[at + 1 :])
    return None


_SIZE_BYTES = len(_SIZES[0])


def _named(name: str) -> bytes:
    """How a header's name stands in what a signature covers."""
    return len(name).to_bytes(_SIZE_BYTES, "big") + name.encode()


_NO, _ROWS, _RAW = _named("msg_no"), _named("n_rows"), _named("raw_bytes")
_DIGEST = _named("digest") + _SIZES[_DIGEST_BYTES]


def _is_natural(text: bytes) -> bool:
    return text is not None and text.isdigit() and len(text) <= _MOST_DIGITS  # type: ignore[redundant-expr]
