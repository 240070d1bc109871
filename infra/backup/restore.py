"""Restores a state folder from a backup, shows what that loses, and makes the fleet trust it again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from infra.backup.backup_manifest import DATA, BackupManifest, damaged_files, read_manifest
from infra.backup.pipeline_marks import pipeline_marks
from infra.backup.state_copy import REPLACED
from infra.backup.take import count_rows
from infra.settings import StackSettings
from infra.stack.model_settings import model_settings
from infra.stack.stack_file import RESTORING, StackLock
from model_service import Registry, trust_catch_up
from schemas.durable import DISK
from schemas.errors import BackupError, PipelineError
from schemas.instants import utc_now

KEPT = ("logs", "previous-demo")
"""Folders of the state folder that a restore leaves alone."""


@dataclass(frozen=True)
class RestoreRequest:
    """What a person asks for.

    Attributes:
        revoked: Devices that were revoked since the backup.
        keep_log: Keep the broker's present data: the lake then reads again what it lacks.
        other: Go on although the backup is of another pipeline than the state folder.
    """

    backup: Path
    revoked: tuple[str, ...] = ()
    keep_log: bool = False
    other: bool = False


@dataclass
class Restored:
    """What a restore did.

    Attributes:
        replaced: Folder that keeps the earlier state; None: there was none.
        lost: By table, rows that queries saw before and do not see now; None: nobody can tell.
        revoked: Devices and certificates that were revoked again.
        uninvited: Devices that joined after the backup and must be invited again.
        raised: New version by role; seqs by group.
        waiting: Roles that devices know in a higher version and whose offline keys are missing, and why.
    """

    manifest: BackupManifest
    replaced: Path | None = None
    lost: dict[str, int] | None = None
    voided_tokens: int = 0
    revoked: list[str] = field(default_factory=list)
    uninvited: list[str] = field(default_factory=list)
    raised: dict[str, int] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)


def restore(
    settings: StackSettings,
    request: RestoreRequest,
    progress: Callable[[str], None],
    clock: Callable[[], datetime] = utc_now,
) -> Restored:
    """Put a backup in the place of the state folder. The stack must be down.

    Nothing is deleted: the earlier state moves to a folder beside it.

    Raises:
        BackupError: A stack is up, or the backup is damaged, of a later format or of another pipeline.
    """
    manifest = read_manifest(request.backup)
    progress("verifying the backup")
    if bad := list(damaged_files(request.backup, manifest.files)):
        names = ", ".join(bad[:3])
        raise BackupError(
            f"{len(bad)} files of {request.backup} are damaged, such as {names}: use another one"
        )
    lock = StackLock(settings.state_dir)
    if not lock.acquire():
        raise BackupError(f"a stack is up in {settings.state_dir}: `edgeloop down` first")
    try:
        _refuse_another_pipeline(settings.state_dir, request)
        found = Restored(manifest)
        _move_away(settings.state_dir, clock())
        found.replaced = _newest_replaced(settings.state_dir)
        _bring(settings.state_dir, request, manifest, found.replaced, progress)
        found.lost = _lost(manifest, found.replaced, kept_log=request.keep_log)
        progress("making the fleet trust the restored service")
        _trust_step(settings, request, found)
    finally:
        lock.release()
    return found


def _refuse_another_pipeline(state_dir: Path, request: RestoreRequest) -> None:
    present, saved = pipeline_marks(state_dir), pipeline_marks(request.backup / DATA)
    if present and saved and present.isdisjoint(saved) and not request.other:
        raise BackupError(
            f"{request.backup} is a backup of another pipeline than the one in {state_dir}: restore it into "
            "a folder of its own (--state-dir), or give --other-pipeline to replace this one by it"
        )


def _move_away(state_dir: Path, now: datetime) -> None:
    skipped = (*KEPT, "stack.lock")
    left = [p for p in state_dir.iterdir() if p.name not in skipped and not p.name.startswith(REPLACED)]
    if not left:
        return
    replaced = state_dir / f"{REPLACED}{now:%Y%m%dT%H%M%SZ}"
    DISK.make_folder(replaced, private=True)
    for path in left:
        DISK.rename(path, replaced / path.name)


def _newest_replaced(state_dir: Path) -> Path | None:
    """The newest state that was replaced as a whole: what an interrupted restore left does not count."""
    found = [p for p in state_dir.glob(f"{REPLACED}*") if not (p / RESTORING).exists()]
    return max(found, default=None)


def _bring(
    state_dir: Path,
    request: RestoreRequest,
    manifest: BackupManifest,
    replaced: Path | None,
    progress: Callable[[str], None],
) -> None:
    progress("copying the backup")
    kept = replaced / "kafka" if request.keep_log and replaced is not None else None
    if request.keep_log and (kept is None or not kept.is_dir()):
        raise BackupError("there is no log to keep: leave --keep-log out")
    # The marker goes last: a restore that is interrupted leaves a folder in which no stack starts.
    DISK.write(state_dir / RESTORING, b"a restore was interrupted: run it again\n")
    for name, saved in manifest.files.items():
        if kept is not None and name.startswith("kafka/"):
            continue
        target = state_dir / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(request.backup / DATA / name, target)
        target.chmod(saved.mode)
        DISK.sync_file(target)
    if kept is not None:
        shutil.copytree(kept, state_dir / "kafka", dirs_exist_ok=True)
    for folder, _, _ in os.walk(state_dir):
        DISK.sync_folder(Path(folder))
    (state_dir / RESTORING).unlink()


def _lost(manifest: BackupManifest, replaced: Path | None, *, kept_log: bool) -> dict[str, int] | None:
    """Rows by table that the replaced lake showed and the backup does not have."""
    if kept_log:
        return {}
    if replaced is None or not (replaced / "lake").is_dir():
        return None
    try:
        _, before = count_rows(replaced / "lake")
    except (PipelineError, OSError, ValueError):
        return None
    lost = {table: n - manifest.rows.get(table, 0) for table, n in before.items()}
    return {table: n for table, n in lost.items() if n > 0}


def _trust_step(settings: StackSettings, request: RestoreRequest, found: Restored) -> None:
    models = model_settings(settings)
    if not models.root.is_dir():
        return
    earlier = None
    if found.replaced is not None and (found.replaced / "models" / "registry.db").is_file():
        earlier = trust_catch_up.look_at_replaced(found.replaced / "models" / "registry.db")
    revoked: Iterable[str] = request.revoked
    serials: Iterable[str] = ()
    if earlier is not None:
        revoked, serials = {*revoked, *earlier.revoked}, earlier.revoked_serials
    if found.replaced is not None:  # whatever has become of the registry there
        copies = trust_catch_up.revoked_beside(found.replaced / "models")
        revoked, serials = {*revoked, *copies.devices}, {*serials, *copies.serials}
    now = time.time()
    with closing(Registry.open(models.database_url, models.root)) as registry:
        found.voided_tokens = trust_catch_up.void_tokens(registry, now)
        found.revoked = trust_catch_up.revoke_again(registry, revoked, serials, now)
        if earlier is not None:
            found.uninvited = trust_catch_up.unknown_devices(registry, earlier.joined)
    done = trust_catch_up.catch_up(
        models, None if earlier is None else earlier.reported, trust_catch_up.MARGIN
    )
    found.raised, found.seqs = dict(done.versions.raised), done.seqs
    found.waiting = dict(done.versions.waiting)
