"""Settings that need not be given: those that a join bundle names, and the folder of the process's state."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_producer.join_files import joined_settings, keep_join, kept_joins, read_join
from edge_producer.settings import ENV_PREFIX
from schemas.errors import AccessError
from schemas.folder_access import guard_new_files
from schemas.join import JoinBundle

FOLDER = "edgeloop-edge"
"""Folder in the user's state folder: below it each device that was begun without --state-dir has its own."""
_STATE = f"{ENV_PREFIX}STATE_DIR"
_DEVICES = f"{ENV_PREFIX}DEVICES"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def usual_settings(
    join: Path | None, given: Mapping[str, tuple[Any, str]], environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Values for settings that nobody gives otherwise; keeps a bundle that is brought for the first time.

    Args:
        join: Join bundle that was named; None: the one that was kept, if there is just one.
        given: Settings by flag and file.
        environ: Variables; None: the process's own.

    Raises:
        ValueError: The bundle cannot be used, or is another device's than the settings name.
    """
    variables = os.environ if environ is None else environ
    named = _named_folder(given, variables)
    try:
        if join:
            return _of_bundle(join, named, given, variables)
        return _as_kept(named, _first_device(given, variables), default_root(variables))
    except AccessError as exc:
        raise ValueError(str(exc)) from exc
    except OSError as exc:
        raise ValueError(f"the join bundle cannot be kept: {exc}") from exc


def default_root(environ: Mapping[str, str]) -> Path:
    """Folder of the devices' folders (XDG base directory specification)."""
    said = environ.get("XDG_STATE_HOME", "")
    return (Path(said) if Path(said).is_absolute() else Path.home() / ".local/state") / FOLDER


def _named_folder(given: Mapping[str, tuple[Any, str]], environ: Mapping[str, str]) -> Path | None:
    by_case = {name.upper(): value for name, value in environ.items()}
    said = given["state_dir"][0] if "state_dir" in given else by_case.get(_STATE)
    if said is not None and not str(said).strip():
        raise ValueError(f"{_STATE} is empty: give a path, or leave the setting out")
    return None if said is None else Path(said)


def _of_bundle(
    path: Path, named: Path | None, given: Mapping[str, tuple[Any, str]], environ: Mapping[str, str]
) -> dict[str, Any]:
    bundle = read_join(path)
    device = bundle.device_id
    if "devices" in given and given["devices"][0] not in (device, [device]):
        where = given["devices"][1]
        raise ValueError(f"--join {path} is of {device}, but {where} names another: leave one of them out")
    folder = named or default_root(environ) / device
    guard_new_files(folder, None)
    keep_join(bundle, folder)
    return _settings(bundle, folder)


def _first_device(given: Mapping[str, tuple[Any, str]], environ: Mapping[str, str]) -> str | None:
    """The device that flag, file or variable names first."""
    by_case = {name.upper(): value for name, value in environ.items()}
    said = given["devices"][0] if "devices" in given else by_case.get(_DEVICES)
    first = said[0] if isinstance(said, list) and said else said
    name = first.strip(' []"').split(",")[0].strip(' "') if isinstance(first, str) else ""
    return name if _NAME.fullmatch(name) else None


def _as_kept(named: Path | None, device: str | None, root: Path) -> dict[str, Any]:
    """As at an earlier start: of the named folder, else the named device's, else of the only one there."""
    if named is None and device is not None:
        named = root / device
        return {"state_dir": named, **_as_kept(named, device, root)}
    folders = [named] if named is not None else sorted(p for p in root.glob("*") if p.is_dir())
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise ValueError(f"several devices were begun in {root}: name one with --state-dir ({names})")
    if not folders:
        raise ValueError("no device was begun here: --join FILE begins one, or --state-dir names its folder")
    [folder] = folders
    bundles = kept_joins(folder)
    if len(bundles) != 1:
        return {} if named is not None else {"state_dir": folder}
    return _settings(read_join(bundles[0]), folder)


def _settings(bundle: JoinBundle, folder: Path) -> dict[str, Any]:
    name = {"name": bundle.device_id} if _NAME.fullmatch(bundle.device_id) else {}
    return {"state_dir": folder, **name, **joined_settings(bundle, folder)}
