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
        name: ``run``, ``update``, ``relearn``, ``status``, ``check`` or ``consent``.
        given: Settings by flag and file, with where each comes from.
        devices: Devices of `relearn` and `consent`.
        as_json: Print the status as it is.
        join: Join bundle that was brought; None: none was named.
        action: Of `consent`: ``on``, ``off`` or ``show``.
    """

    name: str
    given: Mapping[str, tuple[Any, str]]
    devices: tuple[str, ...] = ()
    as_json: bool = False
    join: Path | None = None
    action: str = ""


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
    join = None if asked.join is None else Path(asked.join)
    relearned, as_json = tuple(getattr(asked, "relearned", ())), getattr(asked, "json", False)
    devices = tuple(getattr(asked, "consenting", relearned))
    return EdgeCommand(asked.command, given, devices, as_json, join, getattr(asked, "action", ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeloop-edge",
        description="Senses, decides, acts and sends on the device.",
        epilog=f"Each setting may be given as a flag, in a TOML file (--config) or as {ENV_PREFIX}NAME: `run "
        "--help` explains them. What a join bundle names need not be given.",
    )
    shared = argparse.ArgumentParser(add_help=False)
    settings = shared.add_argument_group("settings")
    settings.add_argument("--config", metavar="FILE", help=f"TOML file of settings ({CONFIG})")
    settings.add_argument(
        "--join", metavar="FILE", help="join bundle of the device, needed at its first start"
    )
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
    consent = commands.add_parser(
        "consent",
        parents=[shared],
        allow_abbrev=False,
        help="whether raw samples may leave by an approver's permit: off until it is switched on here",
    )
    consent.add_argument("action", choices=("on", "off", "show"))
    consent.add_argument(
        "consenting", nargs="*", metavar="DEVICE", help="all of the process where none is named"
    )
    consent.add_argument("--json", action="store_true", help="as JSON")
    commands.add_parser(
        "check", parents=[shared], allow_abbrev=False, help="look whether service and broker can be reached"
    )
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
