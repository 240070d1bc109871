"""What ``mutants.toml`` and ``equivalent.toml`` declare: modules, their tests, mutants without effect."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Safeguard:
    """A mutant written by hand, and the test that must notice it."""

    module: str
    was: str
    now: str
    test: str


@dataclass(frozen=True)
class Declared:
    """The table of modules, the operators, and the mutants that no test can kill.

    Attributes:
        modules: Path of a module, and the files of its own fast tests.
        equivalent: A mutant's name (module, place, was, now), and why nothing that calls the module can
            see the change.
    """

    operators: list[str]
    modules: dict[str, list[str]]
    safeguards: dict[str, Safeguard]
    equivalent: dict[tuple[str, str, str, str], str]


def read(folder: Path = HERE) -> Declared:
    """Reads both files."""
    table = tomllib.loads((folder / "mutants.toml").read_text(encoding="utf-8"))
    listed = tomllib.loads((folder / "equivalent.toml").read_text(encoding="utf-8"))["mutant"]
    equivalent = {(m["module"], m.get("place", ""), m["was"], m["now"]): m["why"] for m in listed}
    if len(equivalent) < len(listed):
        raise ValueError("equivalent.toml names a mutant twice")
    safeguards = {name: Safeguard(**entry) for name, entry in table["safeguards"].items()}
    return Declared(table["operators"], table["modules"], safeguards, equivalent)
