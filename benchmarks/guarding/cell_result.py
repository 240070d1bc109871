"""What many rollouts of one cell came to, and the journal that keeps the cells that are done."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.guarding.one_rollout import Ending
from benchmarks.guarding.simulated_fleet import Cell
from model_service.rollout.guard_statistics import could_be_worse

QUARTER = 0.25
ROOT = Path(__file__).parents[2]
JUDGES = (
    "model_service/rollout",
    "model_service/count_bounds.py",
    "schemas/learning_policy.py",
    "benchmarks/guarding",
)
NOT_JUDGES = (
    "__main__.py",
    "page.py",
    "cell_result.py",
    "rollout_summary.py",
    "config_evidence.py",
    "config_judges.py",
    "config_rollouts.py",
    "config_spans.py",
)


@dataclass(frozen=True)
class CellResult:
    """One cell's rollouts.

    Attributes:
        early: Bad models that were stopped before a quarter of the group ran them.
        in_canary: Those that were stopped before the canary ring was passed.
        median_days, late_days: Until the end: the median, and what 95 % do not exceed.
        cpu_s: Seconds of processor time.
    """

    kind: str
    devices: int
    rate: float
    rollouts: int
    completed: int
    aborted: int
    asked: int
    early: int
    in_canary: int
    median_days: float
    late_days: float
    cpu_s: float

    @classmethod
    def of(cls, cell: Cell, endings: Sequence[Ending], cpu_s: float) -> CellResult:
        """From the rollouts' endings."""
        days = sorted(e.days for e in endings)
        stopped = [e for e in endings if e.how != "completed"]
        return cls(
            cell.kind,
            cell.devices,
            cell.rate,
            len(endings),
            *(sum(e.how == how for e in endings) for how in ("completed", "aborted", "asked")),
            early=sum(e.share < QUARTER for e in stopped),
            in_canary=sum(e.phase == 0 for e in stopped),
            median_days=days[len(days) // 2],
            late_days=days[min(len(days) - 1, round(0.95 * len(days)))],
            cpu_s=round(cpu_s, 1),
        )

    def upper(self, count: int) -> float:
        """Upper end of the one-sided 95 % interval of a share (Clopper and Pearson 1934)."""
        return could_be_worse(count, self.rollouts, 0.05)


class Journal:
    """Results by cell, one JSON object a line; those of other code count for nothing.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._code = code_digest()

    def read(self, rollouts: int) -> dict[str, CellResult]:
        """Results of this code, of cells with so many rollouts or more, by the cell's name."""
        found = {}
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else ():
            entry = json.loads(line)
            if entry["code"] == self._code and entry["result"]["rollouts"] >= rollouts:
                found[entry["cell"]] = CellResult(**entry["result"])
        return found

    def add(self, cell: Cell, result: CellResult) -> None:
        """Keep one more cell."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"cell": cell.name, "code": self._code, "result": asdict(result)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def code_digest() -> str:
    """Digest of the code that decides in a simulated rollout, and of the simulation; words do not count."""
    found = hashlib.sha256()
    for name in JUDGES:
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if file.name not in NOT_JUDGES:
                found.update(_code(file).encode())
    return found.hexdigest()[:16]


def _code(file: Path) -> str:
    """The module's code without comments and docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_text(n)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    constant = node.value if isinstance(node, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)
