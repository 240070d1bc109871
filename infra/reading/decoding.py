"""Turns the bytes of a text file into UTF-8: decompresses, and finds the encoding over the whole file."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from charset_normalizer import from_bytes

from schemas.errors import SourceError

BLOCK_BYTES = 4 << 20
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, tried in this order: the mark of UTF-32-LE begins with that of UTF-16-LE."""
_WESTERN = re.compile(
    r"^[\x00-\x7fäöüÄÖÜßéèêëàâáîïíìôóòûùúçñÉÈÀÁÍÓÚÇÑøåæœØÅÆõãÕÃ°µ²³±·÷¹¼½¾§€‰—“”„…«»¿¡ªº`¨\xa0"
    r"\xb4\xd7\u2013\u2018\u2019]*$"
)
"""Letters and signs of Western Europe, with acute accent, times, dash and quotes."""
_HIDDEN = re.compile(r"(^|/)(__MACOSX/|\.)")
"""What a desktop puts into an archive beside the files."""
_SAMPLE_BYTES = 1 << 18
_FEW_BROKEN = 0.02


@dataclass(frozen=True, slots=True)
class TextForm:
    """How a file's bytes are text.

    Attributes:
        compression: ``gzip``, ``bzip2``, ``xz``, ``zip``, or empty.
        evidence: Why this encoding.
        noisy: Whether the text must be rewritten before it is cut into cells.
    """

    encoding: str
    compression: str
    evidence: str
    noisy: bool


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, decompressed.

    Raises:
        SourceError: The file is missing, or its compression is damaged.
    """
    try:
        with _decompressed(path) as file:
            yield file
    except FileNotFoundError as exc:
        raise SourceError(f"{path}: no such file") from exc
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as exc:
        raise SourceError(f"{path}: its compression is damaged or it is cut short: {exc}") from exc
    except OSError as exc:
        raise SourceError(f"{path}: cannot be read: {exc}") from exc


def compression_of(path: Path) -> str:
    """The compression that a file's first bytes name; empty: none."""
    with path.open("rb") as file:
        head = file.read(6)
    marks = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
    return next((name for mark, name in marks.items() if head.startswith(mark)), "")


def is_workbook(path: Path) -> bool:
    """Whether a file is a workbook, whatever its name ends in."""
    if compression_of(path) != "zip":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return False
    return any(n.startswith("xl/workbook") for n in names) or {"mimetype", "content.xml"} <= set(names)


def text_form(path: Path, said: str = "") -> TextForm:
    """How to read a file as text, judged by all of its bytes.

    Args:
        path: The file.
        said: Encoding that the profile names; taken where the bytes do not tell otherwise.

    Raises:
        SourceError: The file cannot be read, or is no text.
    """
    with opened(path) as file:
        head = file.read(_SAMPLE_BYTES)
    if not head.strip():
        raise SourceError(f"{path}: is empty")
    kind = compression_of(path)
    mark = next((e for m, e in _MARKS.items() if head.startswith(m)), "")
    if mark:
        return TextForm(mark, kind, "byte order mark", noisy=True)
    # Western text in UTF-16 without a mark has a zero in every second byte.
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        every = head[first:400:2]
        if every.count(0) > 0.8 * len(every) > 1:
            return TextForm(encoding, kind, "every second byte is zero", noisy=True)
    whole, broken, odd, noisy = _scan(path)
    if broken == 0:
        evidence = "valid UTF-8 throughout" if whole else "plain ASCII"
        return TextForm("utf-8", kind, evidence, noisy=noisy or bool(kind))
    if broken <= _FEW_BROKEN * whole:
        return TextForm("utf-8", kind, f"UTF-8 with {broken} damaged characters", noisy=True)
    return TextForm(*_legacy(path, odd, said, kind), noisy=True)


def lines(path: Path, form: TextForm) -> Iterator[str]:
    """The file's lines, decoded, without their ends and without null characters."""
    with (
        opened(path) as file,
        io.TextIOWrapper(file, form.encoding, errors="replace") as text,
    ):
        for line in text:
            yield line.rstrip("\n").replace("\0", "").lstrip("\ufeff")


def _scan(path: Path) -> tuple[int, int, bytes, bool]:
    """Characters beyond ASCII, broken ones, lines that hold such, and whether there is noise."""
    whole = broken = 0
    odd, noisy = b"", False
    with opened(path) as file:
        rest = b""
        while block := file.read(BLOCK_BYTES):
            data = rest + block
            cut = data.rfind(b"\n") + 1 or len(data)
            data, rest = data[:cut], data[cut:]
            noisy = noisy or b"\0" in data or b"\n#" in data or data.startswith(b"#")
            if data.isascii():
                continue
            good, bad = _counted(data)
            whole, broken = whole + good, broken + bad
            if bad and len(odd) < _SAMPLE_BYTES:
                odd += b"\n".join(line for line in data.split(b"\n") if not line.isascii())[:_SAMPLE_BYTES]
        if not rest.isascii():
            good, bad = _counted(rest)
            whole, broken, odd = whole + good, broken + bad, odd + rest[:_SAMPLE_BYTES]
    return whole, broken, odd, noisy


def _counted(data: bytes) -> tuple[int, int]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode(errors="replace")
    broken = text.count("\ufffd")
    return sum(1 for b in data if b >= 0xC0) - min(broken, len(data)), broken


def _legacy(path: Path, odd: bytes, said: str, kind: str) -> tuple[str, str, str]:
    """Encoding of text that is not UTF-8, compression and evidence."""
    with opened(path) as file:
        sample = file.read(4096) + b"\n" + odd
    if said and codecs.lookup(said).name not in ("utf-8", "ascii"):
        try:
            sample.decode(said)
        except UnicodeDecodeError:
            pass
        else:
            return said, kind, "named by the profile"
    western = sample.decode("cp1252", errors="replace")
    if _WESTERN.match(western.replace("\n", " ").replace("\r", " ")):
        return "cp1252", kind, "not UTF-8; every character is usual in Western text"
    best = from_bytes(sample).best()
    if best is None:
        raise SourceError(f"{path}: holds bytes that are no text in any known encoding: is it a binary file?")
    return best.encoding, kind, "not UTF-8; the likeliest by its letters (charset-normalizer)"


def _decompressed(path: Path) -> IO[bytes]:
    kind = compression_of(path)
    if kind == "gzip":
        return cast("IO[bytes]", gzip.open(path))
    if kind == "bzip2":
        return cast("IO[bytes]", bz2.open(path))
    if kind == "xz":
        return cast("IO[bytes]", lzma.open(path))
    if kind == "zip":
        archive = zipfile.ZipFile(path)
        members = [m for m in archive.namelist() if not m.endswith("/") and not _HIDDEN.search(m)]
        if len(members) != 1:
            raise SourceError(f"{path}: holds {len(members)} files: unpack it, and name the folder")
        return archive.open(members[0])
    return path.open("rb")
