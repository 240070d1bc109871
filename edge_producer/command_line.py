"""The arguments of `edgeloop-edge`: settings by flag, file or environment, in this order of precedence."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_producer.settings import ENV_PREFIX, EdgeSettings

CONFIG = f"{ENV_PREFIX}CONFIG"
_SECRET = ("source_password",)
"""No flags: what is running on a machine can be read by everybody on it."""


@dataclass(frozen=True)
class EdgeCommand:
    """What was asked for.

    Attributes:
        name: ``run``, ``update``, ``relearn`` or ``status``.
        given: Settings by flag and file, with where each comes from.
        devices: Devices of `relearn`.
        as_json: Print the status as it is.
    """

    name: str
    given: Mapping[str, tuple[Any, str]]
    devices: tuple[str, ...] = ()
    as_json: bool = False


def usual_state_dir(environ: Mapping[str, str]) -> Path:
    """Where the device's own folder is if nobody says: one of the user who runs it."""
    return Path(environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "edgeloop-edge"


def parse_arguments(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> EdgeCommand:
    """The command, and the settings of its flags and its file.

    Raises:
        ValueError: The file of settings cannot be read, or names an unknown setting.
        SystemExit: The arguments are none, or ask for help, which was printed.
    """
    environ = os.environ if environ is None else environ
    asked = _parser().parse_args(list(argv))
    given: dict[str, tuple[Any, str]] = {}
    config = asked.config or environ.get(CONFIG)
    if config:
        given |= {name: (value, f"{config}: {name}") for name, value in _read(Path(config)).items()}
    flags = {name: getattr(asked, name) for name in _flags()}
    given |= {name: (value, _flag(name)) for name, value in flags.items() if value is not None}
    if asked.join is not None:
        given |= _joining(Path(asked.join), given)
    return EdgeCommand(
        asked.command, given, tuple(getattr(asked, "relearned", ())), getattr(asked, "json", False)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeloop-edge",
        description="Senses, decides, acts and sends on the device.",
        epilog=f"Each setting may be given as a flag, in a TOML file (--config) or as {ENV_PREFIX}NAME.",
    )
    shared = argparse.ArgumentParser(add_help=False)
    settings = shared.add_argument_group("settings")
    settings.add_argument("--config", metavar="FILE", help=f"TOML file of settings ({CONFIG})")
    settings.add_argument("--join", metavar="FILE", help="join bundle of the one device, DEVICE.json")
    texts = setting_texts()
    for name in _flags():
        settings.add_argument(_flag(name), metavar="VALUE", help=texts.get(name, "").replace("%", "%%"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "run", parents=[shared], allow_abbrev=False, help="sense until the source ends or a signal comes"
    )
    update = commands.add_parser(
        "update", parents=[shared], allow_abbrev=False, help="fetch, try and report models once"
    )
    update.add_argument("--once", action="store_true", required=True)
    relearn = commands.add_parser(
        "relearn", parents=[shared], allow_abbrev=False, help="learn anew what is usual for a device"
    )
    relearn.add_argument("relearned", nargs="+", metavar="DEVICE")
    status = commands.add_parser(
        "status", parents=[shared], allow_abbrev=False, help="what the device knows of itself, offline too"
    )
    status.add_argument("--json", action="store_true", help="as JSON")
    return parser


def setting_texts() -> dict[str, str]:
    """What each setting is for, from where it is documented: the settings' own attributes."""
    _, _, text = inspect.getdoc(EdgeSettings).partition("Attributes:\n")  # type: ignore[union-attr]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning).replace("``", "") for name, meaning in entries}


def _flags() -> list[str]:
    return [name for name in EdgeSettings.model_fields if name not in _SECRET]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read(path: Path) -> dict[str, Any]:
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ValueError(f"{path} cannot be read: {exc}") from exc
    unknown = sorted(set(given) - set(EdgeSettings.model_fields))
    if unknown:
        raise ValueError(f"{path}: unknown settings {', '.join(unknown)}: check the spelling")
    return given


def _joining(bundle: Path, given: Mapping[str, tuple[Any, str]]) -> dict[str, tuple[Any, str]]:
    """The settings that a join bundle stands for; its file is named for its device."""
    device = bundle.stem
    if "devices" in given and given["devices"][0] not in (device, [device]):
        raise ValueError(
            f"--join {bundle} is of {device}, but --devices names another: leave one of them out"
        )
    if not bundle.is_file():
        raise ValueError(f"--join {bundle}: no such file; it is named DEVICE.json, as it was made")
    return {"join_dir": (bundle.parent, "--join"), "devices": ([device], "--join")}
