"""Tables of docs/reliability.md as test cases: a file, a kind of damage, and the promise in the cell."""

from __future__ import annotations

from pathlib import Path

from tests.simulators.damaged_lake import empty, missing, of_another_moment, one_bit_turned, torn

PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
DAMAGES = {
    "torn": torn,
    "empty": empty,
    "missing": missing,
    "of another moment": of_another_moment,
    "one bit turned": one_bit_turned,
}


def promises(name: str) -> list[tuple[str, str, str]]:
    """File, damage and promise of each cell of a table of the page."""
    block = PAGE.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")[2].partition("\n\n")[0]
    head, _, *lines = [[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines()]
    return [
        (line[0], damage, cell) for line in lines for damage, cell in zip(head[1:], line[1:], strict=True)
    ]


def word(promise: str) -> str:
    """The promise without its explanation."""
    return promise.partition(":")[0].strip()


def damaged(path: Path, damage: str, older: bytes) -> None:
    """Damage a file; ``older`` is what it held at another moment."""
    donor = path.with_name(f".{path.name[:80]}.donor")
    donor.write_bytes(older)
    DAMAGES[damage](path, donor)
    donor.unlink()
