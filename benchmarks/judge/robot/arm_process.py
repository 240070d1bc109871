"""MuJoCo in its own process and environment, a line of JSON each way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.judge_environment import JudgeUnavailableError

PROGRAM = Path(__file__).with_name("mujoco_arm.py")
Order = tuple[float, str]
"""Second of the run at which the arm has it, and what it is: ``stop`` or ``retreat``."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """What an arm does in a run.

    Attributes:
        seed: Of its points and its noise.
        speed: Of its moves, as a share of the usual.
        payload_kg: Beside the tool; the drives know of it.
        strike_s: When the tip strikes the plate; None: nothing is in its way.
        changes: Seconds and payloads that come then, of which the drives know nothing.
    """

    seed: int
    speed: float
    payload_kg: float
    strike_s: float | None = None
    changes: tuple[tuple[float, float], ...] = ()


class ArmProcess:
    """Runs arms, one after the other."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def begin(self, run: ArmRun) -> dict[str, Any]:
        """Begin a run; says how long a cycle of its program is, and MuJoCo's version."""
        return self._ask(asdict(run))

    def advance(self, to_s: float, orders: Sequence[Order] = ()) -> NDArray[np.float32]:
        """Physics up to an instant; the samples of it, shape (n, 10)."""
        found = self._ask({"to_s": to_s, "orders": list(orders)})["samples"]
        return np.array(found, dtype=np.float32).reshape(len(found), -1)

    def end(self) -> dict[str, Any]:
        """What came of the run: m, N, s."""
        return self._ask({"end": True})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(question) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise JudgeUnavailableError(f"{PROGRAM.name} ended with code {self._child.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def arm_process(python: Path) -> Iterator[ArmProcess]:
    """A process of MuJoCo, ended with the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen([str(python), str(PROGRAM)], stdin=pipe, stdout=pipe, text=True) as child:
        yield ArmProcess(child)
        assert child.stdin is not None
        child.stdin.close()
