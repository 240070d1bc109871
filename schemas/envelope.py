"""Sealed messages: rows as bytes, headers, digest and signature.

A message is sealed once. A resend is byte for byte the same, so a known message number with another digest
means that two writers share one identity. The signature covers topic, headers and value, of one message or of
many (``message_tree``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from schemas.arrow_bounds import check_unpacked
from schemas.errors import DecodeError, SignatureError
from schemas.lz4_block import pack, unpack
from schemas.message_tree import leaf_of, root_of, signed_root
from schemas.packed_rows import PACKING, pack_rows
from schemas.row_batch import RowBatch
from schemas.row_schemas import fingerprint
from schemas.topics import Lane
from schemas.version_names import VERSION_HEADER, VersionHeader

if TYPE_CHECKING:  # a device does without pyarrow
    import pyarrow as pa

_ECDSA = ec.ECDSA(hashes.SHA256())
MAX_KEY_BYTES = 256
"""Longest message key: the id of a producer."""
MAX_HEADERS = 32
MAX_HEADER_BYTES = 8 * 1024
"""Bound on all headers of a message together, names included."""
_COORDINATE_BYTES = 32
_MOST_HELD = 4
"""Signatures that a key remembers: a producer's messages come in the order in which it sealed them."""
PROOF_HEADERS = frozenset({"signature", "path"})
"""What a signature does not cover: itself, and the way to what it covers."""
_KEY_ID_CHARS = 16

Headers = list[tuple[str, bytes]]


class Envelope(NamedTuple):
    """A message's headers and key, decoded.

    Attributes:
        schema: Fingerprint of the rows' Arrow schema, or ``json`` for a JSON event.
        profile: Profile the rows belong to.
        producer: Id of the device or labeller that sealed it; also the message key.
        spool_id: Id of the producer's spool file, 16 hex digits.
        lane: Lane of the message number.
        msg_no: Dense number within (producer, spool_id, lane), from 0.
        n_rows: Rows inside.
        raw_bytes: Length of the value before compression.
        digest: SHA-256 of the value as sent.
        signer: Id of the signing key.
        version: Version of the profile that the rows' boots run; None: they name none, as in release 0.2.0.
    """

    schema: str
    profile: str
    producer: str
    spool_id: str
    lane: Lane
    msg_no: int
    n_rows: int
    raw_bytes: int
    digest: bytes
    signer: str
    version: VersionHeader | None = None


class Proof(NamedTuple):
    """That a message is its producer's.

    Attributes:
        path: Way from the message to the root that is signed; None: the message itself is.
    """

    signature: bytes
    path: bytes | None = None


@dataclass(frozen=True)
class SealedMessage:
    """A message as it is sent to the broker, with the same bytes at every resend."""

    topic: str
    key: bytes
    headers: Headers
    value: bytes

    @property
    def size(self) -> int:
        """Bytes of key, headers and value."""
        return len(self.key) + len(self.value) + sum(len(k) + len(v) for k, v in self.headers)


class MessageSigner:
    """A device's P-256 key."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.key_id = key_id(key.public_key())

    @classmethod
    def generate(cls) -> MessageSigner:
        """A signer with a new random key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> MessageSigner:
        """The signer with the key in this PKCS#8 PEM.

        Raises:
            SignatureError: Not an unencrypted P-256 private key.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as exc:
            raise SignatureError(f"not a private key in PEM: {exc}") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SignatureError("the device key must be a P-256 key")
        return cls(key)

    def private_pem(self) -> bytes:
        """PKCS#8 PEM, unencrypted: write it with mode 0600."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def public_pem(self) -> bytes:
        """SubjectPublicKeyInfo PEM, to register."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, data: bytes) -> bytes:
        """Signature as r and s, 32 bytes each."""
        r, s = decode_dss_signature(self._key.sign(data, _ECDSA))
        return r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")


class MessageVerifier:
    """A device's public key."""

    def __init__(self, public_pem: bytes) -> None:
        key = serialization.load_pem_public_key(public_pem)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise SignatureError("the device key must be a P-256 key")
        self._key = key
        self.key_id = key_id(key)
        self._held: set[tuple[bytes, bytes]] = set()

    def verify_once(self, signature: bytes, data: bytes) -> None:
        """As ``verify``; nothing is computed where the same came a short while ago, and held.

        Raises:
            SignatureError: It is not valid.
        """
        if (signature, data) in self._held:
            return
        self.verify(signature, data)
        if len(self._held) >= _MOST_HELD:
            self._held.clear()
        self._held.add((signature, data))

    def verify(self, signature: bytes, data: bytes) -> None:
        """Return if the signature is valid.

        Raises:
            SignatureError: It is not.
        """
        if len(signature) != 2 * _COORDINATE_BYTES:
            raise SignatureError(f"signature of {len(signature)} bytes, expected {2 * _COORDINATE_BYTES}")
        r = int.from_bytes(signature[:_COORDINATE_BYTES], "big")
        s = int.from_bytes(signature[_COORDINATE_BYTES:], "big")
        try:
            self._key.verify(encode_dss_signature(r, s), data, _ECDSA)
        except InvalidSignature as exc:
            raise SignatureError("the signature does not hold for topic, headers and value") from exc


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """First 16 hex digits of SHA-256 over the key's SubjectPublicKeyInfo."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:_KEY_ID_CHARS]


class Rows(Protocol):
    """Rows that can be written as an Arrow record batch: a ``RowBatch``, or one of pyarrow's."""

    def serialize(self) -> bytes:
        """The message, without the schema."""


def encode_rows(batch: Rows) -> tuple[bytes, int]:
    """Rows as one lz4 block of an Arrow record batch message without its schema, or of packed rows.

    Compressed as a whole, so that the batch's own metadata shrinks too: it is most of a small message. Rows
    whose layout has the key ``packing`` are packed (``schemas.packed_rows``).

    Returns:
        The compressed bytes and their length before compression.
    """
    packed = isinstance(batch, RowBatch) and PACKING in batch.layout.metadata
    raw = pack_rows(batch) if packed else batch.serialize()  # type: ignore[arg-type]  # it is a RowBatch
    return pack(raw), len(raw)


def decode_rows(value: bytes, raw_bytes: int, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of a sealed message.

    Every length is checked before anything of that length is read or made (``schemas.arrow_bounds``).

    Raises:
        DecodeError: The bytes do not have the length ``raw_bytes`` or the columns of ``schema``, hold too
            many rows, or would unpack to more than they are.
    """
    import pyarrow as pa  # noqa: PLC0415  (heavy: a device does without)

    from schemas.packed_arrow import unpacked_batch  # noqa: PLC0415  (likewise)

    raw = unpack(value, raw_bytes)
    try:
        if PACKING.encode() in (schema.metadata or {}):
            batch = unpacked_batch(raw, schema)
        else:
            message = pa.ipc.read_message(raw)
            check_unpacked(message)
            batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, EOFError, ValueError) as exc:
        raise DecodeError(f"value does not decode as {fingerprint(schema)}: {exc}") from exc
    for field, column in zip(schema, batch.columns, strict=True):
        if column.null_count and not field.nullable:
            raise DecodeError(f"column {field.name} may not be null")
    return batch


def seal(topic: str, envelope: Envelope, value: bytes, signer: MessageSigner) -> SealedMessage:
    """Message with digest, signer and signature filled in.

    Args:
        topic: Topic name without namespace: a message stays valid when it is mirrored.
        envelope: ``digest`` and ``signer`` in it are ignored and computed here.
        value: Bytes as they go to the broker.
        signer: The producer's key.
    """
    filled = envelope._replace(digest=hashlib.sha256(value).digest(), signer=signer.key_id)
    headers = _to_headers(filled)
    signature = signer.sign(signed_bytes(topic, filled.producer.encode(), headers))
    return SealedMessage(topic, filled.producer.encode(), [*headers, ("signature", signature)], value)


def blank_message(topic: str, envelope: Envelope) -> SealedMessage:
    """A message as large as ``seal`` would make it, but for the value; its signature does not hold."""
    digest, signer = bytes(hashlib.sha256().digest_size), "0" * _KEY_ID_CHARS
    headers = _to_headers(envelope._replace(digest=digest, signer=signer))
    signature = bytes(2 * _COORDINATE_BYTES)
    return SealedMessage(topic, envelope.producer.encode(), [*headers, ("signature", signature)], b"")


def read_envelope(key: bytes | None, headers: Headers) -> tuple[Envelope, Proof]:
    """Envelope of a message, and its proof, not yet verified.

    Raises:
        DecodeError: A header is missing, doubled or malformed, or key or headers are too long.
    """
    if key is not None and len(key) > MAX_KEY_BYTES:
        raise DecodeError(f"the key has {len(key)} bytes; at most {MAX_KEY_BYTES}")
    if len(headers) > MAX_HEADERS:
        raise DecodeError(f"the message has {len(headers)} headers; at most {MAX_HEADERS}")
    fields = dict(headers)
    if len(fields) != len(headers):
        raise DecodeError("a header appears twice")
    if None in fields.values():
        raise DecodeError("a header has no value")
    size = sum(map(len, fields)) + sum(map(len, fields.values()))
    if size > MAX_HEADER_BYTES:
        raise DecodeError(f"the headers have {size} bytes; at most {MAX_HEADER_BYTES}")
    try:
        envelope = Envelope(
            schema=fields["schema"].decode("ascii"),
            profile=fields["profile"].decode("ascii"),
            producer=(key or b"").decode("utf-8"),
            spool_id=fields["spool_id"].decode("ascii"),
            lane=Lane(fields["lane"].decode("ascii")),
            msg_no=_natural(fields["msg_no"]),
            n_rows=_natural(fields["n_rows"]),
            raw_bytes=_natural(fields["raw_bytes"]),
            digest=fields["digest"],
            signer=fields["signer"].decode("ascii"),
            version=VersionHeader.parse(fields[VERSION_HEADER]) if VERSION_HEADER in fields else None,
        )
        return envelope, Proof(fields["signature"], fields.get("path"))
    except KeyError as exc:
        raise DecodeError(f"header {exc} is missing") from exc
    except (UnicodeDecodeError, ValueError) as exc:
        raise DecodeError(f"malformed header: {exc}") from exc


def verify(
    topic: str,
    key: bytes,
    headers: Headers,
    value: bytes,
    envelope: Envelope,
    proof: Proof,
    verifier: MessageVerifier,
) -> None:
    """Return if digest and signature are valid.

    Raises:
        SignatureError: One of them is not.
    """
    verify_signed(signed_by(topic, key, headers), value, envelope, proof, verifier)


def verify_signed(
    signed: bytes, value: bytes, envelope: Envelope, proof: Proof, verifier: MessageVerifier
) -> None:
    """Return if digest and signature are valid.

    Args:
        signed: What the signature covers (``signed_by``).
        value: Bytes as they came.
        envelope: States their digest.
        proof: As the headers have it.
        verifier: The signer's key.

    Raises:
        SignatureError: One of them is not.
    """
    if hashlib.sha256(value).digest() != envelope.digest:
        raise SignatureError("digest does not match the value")
    if proof.path is not None:
        verifier.verify_once(proof.signature, signed_root(root_of(leaf_of(signed), proof.path)))
    else:
        verifier.verify(proof.signature, signed)


def _to_headers(envelope: Envelope) -> Headers:
    return [
        ("schema", envelope.schema.encode()),
        ("profile", envelope.profile.encode()),
        *([(VERSION_HEADER, envelope.version.encode())] if envelope.version is not None else []),
        ("spool_id", envelope.spool_id.encode()),
        ("lane", envelope.lane.encode()),
        ("msg_no", b"%d" % envelope.msg_no),
        ("n_rows", b"%d" % envelope.n_rows),
        ("raw_bytes", b"%d" % envelope.raw_bytes),
        ("digest", envelope.digest),
        ("signer", envelope.signer.encode()),
    ]


def signed_bytes(topic: str, key: bytes, headers: Headers) -> bytes:
    """What a signature covers: topic, key and headers in order, each with its length before it."""
    parts = [_sized(topic.encode()), _sized(key)]
    for name, value in headers:
        parts += (_SIZED_NAMES.get(name) or _sized(name.encode()), len(value).to_bytes(4, "big"), value)
    return b"".join(parts)


def signed_by(topic: str, key: bytes, headers: Headers) -> bytes:
    """What the signature in these headers covers, alone or as a leaf: all but itself and the path to it."""
    return signed_bytes(topic, key, [h for h in headers if h[0] not in PROOF_HEADERS])


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


_SIZED_NAMES = {
    name: _sized(name.encode())
    for name in (
        "schema", "profile", "spool_id", "lane", "msg_no", "n_rows", "raw_bytes", "digest", "signer"
    )
}  # fmt: skip
"""Made once: they stand in every message."""


def _natural(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise ValueError(f"not a natural number: {text[:24]!r}")
    return int(text)
