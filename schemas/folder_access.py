"""Who may read what a process keeps: its owner, and one group if an operator names it.

Every process guards its folder at start; the group is called its data group. From then on each file it makes
is closed to others, whoever writes it (SQLite, a Java broker, a Parquet writer), because the umask does it:
0600 and 0700, or with a group 0640 and 0750. The folder passes its group on to what is made in it
(set-group-ID). Keys keep their own mode, 0600.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import OperatorError

log = logging.getLogger(__name__)

PRIVATE_FOLDERS = frozenset({"keys", "pki", "offline-keys", "join", "updates"})
PRIVATE_PREFIXES = ("excerpts_",)
"""Tables with raw samples: they keep the group and mode that they were given (`edgeloop excerpt readers`)."""
PRIVATE_SUFFIXES = (".key", ".pem", ".secret")
"""Names of what is never opened to the group: keys, tokens, certificates, a device's own files."""
_OWNER_ONLY, _OWNER_AND_GROUP = 0o077, 0o027
"""Values of the umask."""
_OTHERS, _GROUP, _GROUP_READS, _GROUP_ENTERS = 0o007, 0o070, 0o040, 0o050


def guard_new_files(folder: Path, group: str | None) -> None:
    """Set the umask of this process by who may read the folder; what is in it stays as it is.

    Args:
        folder: The state folder; it need not exist.
        group: Name of the group that may read; empty: only the owner may. None: as the folder's own mode
            says; a folder that is new, or that everybody may read, becomes its owner's alone.

    Raises:
        OperatorError: There is no such group.
    """
    os.umask(_OWNER_ONLY if _reading_group(folder, group) is None else _OWNER_AND_GROUP)


def guard_folder(folder: Path, group: str | None) -> None:
    """Make the folder if it is absent, and close it, what is in it and what comes into it to others.

    Files of other owners and links are left alone. What was closed once is not looked through again.

    Args:
        folder: The state folder.
        group: As for ``guard_new_files``.

    Raises:
        OperatorError: There is no such group, or this user is not in it.
    """
    guard_new_files(folder, group)
    gid = _reading_group(folder, group)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.geteuid() or _closed(found, gid):
            return
        for path, status, private in _below(folder, private=False):
            _close(path, status, gid, private=private)
        _close(folder, found, gid, private=False)  # last: its mode says that everything in it is closed
    except OSError as exc:
        if isinstance(exc, PermissionError) and group:
            raise OperatorError(
                f"cannot give {exc.filename} to the group of {folder}: this user is not in it"
            ) from exc
        # A disk that cannot be written ends no device; what needs to write there says so itself.
        log.warning("cannot close %s to other users: %s", folder, exc)


def close_new_folder(folder: Path) -> None:
    """Close a folder that was made just now to everybody but its owner, whatever its parent passes on."""
    folder.chmod(stat.S_IRWXU)


def _reading_group(folder: Path, group: str | None) -> int | None:
    """Id of the group that may read the folder; None: its owner alone."""
    if group is not None:
        return _group_id(group) if group else None
    with contextlib.suppress(OSError):
        found = folder.stat()
        if not found.st_mode & _OTHERS and found.st_mode & _GROUP_ENTERS == _GROUP_ENTERS:
            return found.st_gid
    return None


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as exc:
        raise OperatorError(f"there is no group {name!r} on this machine: make it, or name another") from exc


def _closed(found: os.stat_result, gid: int | None) -> bool:
    """Whether the folder has exactly the mode that closing it gives."""
    return stat.S_IMODE(found.st_mode) == _mode(found, gid, private=False) and gid in (None, found.st_gid)


def _mode(found: os.stat_result, gid: int | None, *, private: bool) -> int:
    mode = stat.S_IMODE(found.st_mode) & ~_OTHERS
    if gid is None:
        return mode & ~_GROUP & ~stat.S_ISGID
    if private:
        return mode
    return mode | (_GROUP_ENTERS | stat.S_ISGID if stat.S_ISDIR(found.st_mode) else _GROUP_READS)


def _close(path: Path, found: os.stat_result, gid: int | None, *, private: bool) -> None:
    """Give one file or folder its group and mode."""
    if found.st_uid != os.geteuid():
        return
    with contextlib.suppress(FileNotFoundError):
        if gid not in (None, found.st_gid) and not private:
            os.chown(path, -1, gid)
        wanted = _mode(found, gid, private=private)
        if wanted != stat.S_IMODE(found.st_mode):
            path.chmod(wanted)


def _below(folder: Path, *, private: bool) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Everything below a folder but links, folders after what is in them; and whether it is private."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                continue
            if entry.is_dir():
                own = entry.name in PRIVATE_FOLDERS or entry.name.startswith(PRIVATE_PREFIXES)
                inside = private or own
                yield from _below(path, private=inside)
            else:
                inside = private or entry.name.endswith(PRIVATE_SUFFIXES)
            with contextlib.suppress(FileNotFoundError):
                yield path, entry.stat(follow_symlinks=False), inside
