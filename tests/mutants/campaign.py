"""Tries the mutants of one module after the other, each module in a process of its own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from tests.mutants.declared import Declared, Safeguard
from tests.mutants.in_a_fork import (
    KILLED,
    ROOT,
    STILLBORN,
    SURVIVED,
    Baseline,
    baseline,
    fork,
    load_beforehand,
    outcome,
)
from tests.mutants.mutation import Mutant, mutants, replaced

PATIENCE = 3.0
"""A mutant counts as killed after so many times the processor time of its tests and one second."""


@dataclass
class Result:
    """What became of the mutants of one module."""

    module: str
    killed: int = 0
    survived: list[Mutant] = field(default_factory=list)
    equivalent: int = 0
    unfit: str = ""
    """What the tests printed, if they fail over the module as it is."""

    @property
    def counted(self) -> int:
        """Mutants that a test could have killed."""
        return self.killed + len(self.survived)


def run(declared: Declared, chosen: list[str], seed: int, sample: int | None, jobs: int) -> Iterator[Result]:
    """Tries a sample of each chosen module's mutants.

    Args:
        sample: How many of each module; None means all.
        jobs: How many modules at a time.
    """

    def work(module: str) -> Callable[[], Result]:
        return lambda: _try_module(declared, module, seed, sample)

    with ThreadPoolExecutor(jobs) as threads:
        for module, (status, result, printed) in zip(
            chosen, threads.map(lambda m: fork(work(m)), chosen), strict=True
        ):
            yield result if status == 0 else Result(module, unfit=printed or f"ended with {status}")


def unnoticed(safeguards: dict[str, Safeguard]) -> dict[str, str]:
    """The safeguards whose test fails anyway, or passes although the safeguard is off; with the reason."""
    tests = {s.test for s in safeguards.values()}
    found = baseline(next(iter(safeguards.values())).module, sorted(tests))
    if found.code:
        return dict.fromkeys(safeguards, f"the tests fail over the code as it is:\n{found.output}")
    load_beforehand(found, {s.module for s in safeguards.values()})
    wrong = {}
    for name, each in safeguards.items():
        mutant = replaced(ROOT, each.module, each.was, each.now)
        tests = [t for t in found.seconds if t == each.test or t.startswith(f"{each.test}[")]
        if (became := _try(each.module, mutant, tests, found)) != KILLED:
            wrong[name] = f"{became}: {each.test} passes although the safeguard is off"
    return wrong


def _try_module(declared: Declared, module: str, seed: int, sample: int | None) -> Result:
    result = Result(module)
    found = baseline(module, declared.modules[module])
    if found.code:
        result.unfit = found.output
        return result
    load_beforehand(found, {module})
    for mutant in islice(_tried(declared, module, seed, found, result), sample):
        became, source = mutant
        if became == KILLED:
            result.killed += 1
        else:
            result.survived.append(source)
    return result


def _tried(
    declared: Declared, module: str, seed: int, found: Baseline, result: Result
) -> Iterator[tuple[str, Mutant]]:
    """Each mutant that counts, with what became of it: neither an equivalent one nor a stillborn one does."""
    for mutant in mutants(ROOT, module, declared.operators, seed):
        if mutant.name in declared.equivalent:
            result.equivalent += 1
        elif (became := _try(module, mutant, found.tests_for(mutant.place), found)) != STILLBORN:
            yield became, mutant


def _try(module: str, mutant: Mutant, tests: list[str], found: Baseline) -> str:
    if not tests:
        return SURVIVED
    cpu_s = PATIENCE * (1 + sum(found.seconds[t] for t in tests))
    return outcome(module, mutant.source, tests, cpu_s)
