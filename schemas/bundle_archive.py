"""A bundle as one file: a tar of its members, no more, in one zstd frame, written and read with bounds.

The writer is reproducible: same files, same bytes. The reader stops at the first byte beyond the limit, so
that a small download cannot fill a device's memory.
"""

from __future__ import annotations

import io
import mmap
import tarfile
from collections.abc import Mapping, Sequence

import cramjam

from schemas.errors import BundleError, TrustError
from schemas.updates import Attack

MODEL, GOLDEN, MANIFEST = "model.onnx", "golden.arrow", "manifest.json"
MEMBERS = (MANIFEST, MODEL, GOLDEN)
MAX_ARTIFACT_BYTES = 64 * 1024**2
MAX_UNPACKED_BYTES = 128 * 1024**2
_FULL = "failed to write whole buffer"
"""What the decompressor says where the room it was given is full."""


def pack(files: Mapping[str, bytes], members: Sequence[str] = MEMBERS) -> bytes:
    """The artifact's bytes.

    Args:
        files: Bytes by name; exactly the members.
        members: Names, in the order of the archive.

    Raises:
        BundleError: Other members, or too large.
    """
    if set(files) != set(members):
        raise BundleError(f"a bundle holds {', '.join(members)}, not {', '.join(sorted(files))}")
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o444
            tar.addfile(member, io.BytesIO(files[name]))
    raw = sink.getvalue()
    if len(raw) > MAX_UNPACKED_BYTES:
        raise BundleError(f"a bundle of {len(raw)} bytes; the limit is {MAX_UNPACKED_BYTES}")
    import pyarrow as pa  # noqa: PLC0415  (heavy: a device, which only unpacks, does without)

    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(raw)
    packed: bytes = out.getvalue().to_pybytes()
    return packed


def unpack(data: bytes, members: Sequence[str] = MEMBERS) -> dict[str, bytes]:
    """Files of an artifact by name.

    Raises:
        TrustError: Too large, no zstd, no tar, or other members.
    """
    if len(data) > MAX_ARTIFACT_BYTES:
        raise TrustError(
            f"an artifact of {len(data)} bytes; the limit is {MAX_ARTIFACT_BYTES}", Attack.ENDLESS_DATA
        )
    raw = _decompressed(data)
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
            for member in tar:
                if member.name not in members or not member.isfile() or member.name in files:
                    raise TrustError(f"strange archive member {member.name[:80]!r}", Attack.UNSAFE_CONTENT)
                stream = tar.extractfile(member)
                files[member.name] = stream.read() if stream is not None else b""
    except (tarfile.TarError, EOFError, ValueError) as exc:
        raise TrustError(
            f"the artifact is not the archive of a bundle: {exc}", Attack.UNSAFE_CONTENT
        ) from exc
    if set(files) != set(members):
        raise TrustError(f"the archive lacks {sorted(set(members) - set(files))}", Attack.UNSAFE_CONTENT)
    return files


def _decompressed(data: bytes) -> bytes:
    # Memory that is mapped takes room only where it is written: as much as the content, not as the limit.
    with mmap.mmap(-1, MAX_UNPACKED_BYTES) as room:
        try:
            size = cramjam.zstd.decompress_into(data, room)
        except cramjam.DecompressionError as exc:
            if _FULL in str(exc):
                text = f"the artifact decompresses to more than {MAX_UNPACKED_BYTES} bytes"
                raise TrustError(text, Attack.ENDLESS_DATA) from exc
            raise TrustError(f"the artifact does not decompress: {exc}", Attack.UNSAFE_CONTENT) from exc
        return bytes(room[:size])
