"""``python -m edge_producer.tuf_client``: a device's own trust code over plain HTTP, for conformance suites.

    --metadata-dir D init ROOT
    --metadata-dir D --metadata-url U refresh
    --metadata-dir D --metadata-url U --target-name T --target-base-url B --target-dir X download

Exit code 0 or 1, 2 for misuse. Trusted metadata are kept under unversioned names in D. The tool keeps no time
of its own, so the system clock decides what has expired; a device uses ``TrustedTime``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from edge_producer.trust.http import HttpFiles
from edge_producer.trust.metadata_store import MetadataStore
from edge_producer.trust.workflow import MissingError, TargetFile, Workflow, fits_file
from schemas.durable import DISK
from schemas.errors import PipelineError, TrustError
from schemas.escaping import escaped_block
from schemas.updates import Attack

INITIAL = "initial_root"
"""The root from ``init``: every later run starts from it, and walks the roots that were verified since."""
EXIT_DONE, EXIT_FAILED = 0, 1
_NEEDED = {
    "init": (),
    "refresh": ("metadata_url",),
    "download": ("metadata_url", "target_name", "target_base_url", "target_dir"),
}


def main(argv: Sequence[str]) -> int:
    """Run one command."""
    parser = _parser()
    given = parser.parse_args(argv)
    missing = [name for name in _NEEDED[given.command] if getattr(given, name) is None]
    if missing:
        parser.error(f"{given.command} needs --{missing[0].replace('_', '-')}")
    try:
        if given.command == "init":
            init(given.metadata_dir, given.root)
        elif given.command == "refresh":
            refresh(given.metadata_dir, given.metadata_url)
        else:
            download(
                given.metadata_dir,
                given.metadata_url,
                given.target_name,
                given.target_base_url,
                given.target_dir,
            )
    except (PipelineError, MissingError, OSError) as exc:
        sys.stderr.write(escaped_block(f"tuf_client: {type(exc).__name__}: {exc}\n"))
        return EXIT_FAILED
    return EXIT_DONE


def init(metadata_dir: Path, root: Path) -> None:
    """Trust this root. It is verified at its first use."""
    data = root.read_bytes()
    DISK.write(metadata_dir / "root_history" / INITIAL, data)
    DISK.write(metadata_dir / "root.json", data)


def refresh(metadata_dir: Path, metadata_url: str) -> Workflow:
    """Bring the top-level metadata up to date.

    Raises:
        TrustError: Something does not verify.
        ServiceUnavailableError: The server does not answer.
    """
    root = (metadata_dir / "root_history" / INITIAL).read_bytes()
    workflow = Workflow(MetadataStore(metadata_dir), root, HttpFiles(metadata_url), lambda: datetime.now(UTC))
    workflow.refresh()
    return workflow


def download(
    metadata_dir: Path, metadata_url: str, target_name: str, target_base_url: str, target_dir: Path
) -> Path:
    """Refresh, then fetch a target unless it is there already.

    Returns:
        The file.

    Raises:
        TrustError: No role lists the target, or what came is not what was signed.
        ServiceUnavailableError: The server does not answer.
    """
    workflow = refresh(metadata_dir, metadata_url)
    entry = workflow.find(target_name)
    if entry is None:
        raise TrustError(f"no role lists {target_name}", Attack.UNSIGNED_INSTRUCTION)
    file = target_dir / quote(target_name, safe="")
    if not (file.exists() and fits_file(entry, file)):
        hashed = bool(workflow.root.consistent_snapshot)
        _fetch(HttpFiles(target_base_url), _remote_path(entry, hashed=hashed), entry, file)
    return file


def _remote_path(entry: TargetFile, *, hashed: bool) -> str:
    folder, slash, name = entry.path.rpartition("/")
    if hashed:
        name = f"{next(iter(entry.hashes.values()))}.{name}"
    return quote(f"{folder}{slash}{name}", safe="/~!$&'()*+,;=:@")


def _fetch(source: HttpFiles, remote: str, entry: TargetFile, file: Path) -> None:
    """Fetch into a part beside the file, resuming an earlier try; rename it once it verifies."""
    signed = "".join(f"{name}:{value}" for name, value in sorted(entry.hashes.items()))
    part = file.with_name(f".{hashlib.sha256(signed.encode()).hexdigest()[:16]}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = part.stat().st_size if part.exists() else 0
    if kept > entry.length or (kept == entry.length and not fits_file(entry, part)):
        part.unlink()
        kept = 0
    with part.open("r+b" if kept else "wb") as sink:
        for chunk, at in source.stream(remote, entry.length, kept) if kept < entry.length else ():
            if at < kept and at == 0:  # the server ignored the offset, and sends the whole file
                sink.truncate(0)
            sink.seek(at)
            sink.write(chunk)
        sink.flush()
        DISK.sync(sink.fileno(), part)
    if not fits_file(entry, part):
        part.unlink()
        raise TrustError(f"{entry.path} is not what was signed", Attack.TAMPERED_ARTIFACT)
    DISK.rename(part, file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edge_producer.tuf_client", description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name")
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
