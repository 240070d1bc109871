"""Artifacts: the same bytes from the same files, and nothing strange gets out of one."""

import io
import tarfile

import pyarrow as pa
import pytest

from schemas.bundle_archive import MAX_UNPACKED_BYTES, MEMBERS, pack, unpack
from schemas.errors import BundleError, TrustError
from schemas.updates import Attack

FILES = {name: f"content of {name}".encode() * 50 for name in MEMBERS}


def compressed(raw: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(raw)
    return out.getvalue().to_pybytes()


def archive(*members: tarfile.TarInfo, data: bytes = b"x") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for member in members:
            member.size = len(data) if member.isfile() else 0
            tar.addfile(member, io.BytesIO(data))
    return compressed(sink.getvalue())


def named(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


def test_what_was_packed_comes_out_and_the_bytes_are_reproducible():
    assert unpack(pack(FILES)) == FILES
    assert pack(dict(reversed(FILES.items()))) == pack(FILES)


def test_only_whole_bundles_are_packed():
    with pytest.raises(BundleError, match="a bundle holds"):
        pack({"model.onnx": b""})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zstd at all",
        compressed(b"no tar" * 500),
        pack(FILES)[:-20],
        archive(named("model.onnx")),
        archive(named("../evil")),
        archive(named("model.onnx"), named("model.onnx")),
        archive(named("model.onnx", tarfile.SYMTYPE)),
    ],
    ids=["empty", "no zstd", "no tar", "cut off", "incomplete", "escapes", "twice", "link"],
)
def test_anything_else_is_refused_as_unsafe(data: bytes):
    with pytest.raises(TrustError) as refused:
        unpack(data)
    assert refused.value.attack is Attack.UNSAFE_CONTENT


def test_a_small_download_cannot_fill_the_memory():
    bomb = compressed(bytes(MAX_UNPACKED_BYTES + 1))
    assert len(bomb) < 100_000
    with pytest.raises(TrustError) as refused:
        unpack(bomb)
    assert refused.value.attack is Attack.ENDLESS_DATA
