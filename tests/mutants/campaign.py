"""Tries the mutants of one module after the other, each module in a process of its own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from tests.mutants.declared import Declared, Safeguard
from tests.mutants.in_a_fork import fork
from tests.mutants.mutation import Mutant, mutants, replaced
from tests.mutants.replaced_module import ROOT
from tests.mutants.trials import KILLED, STILLBORN, baseline, load_beforehand, outcome, outcomes


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
        if (became := outcome(mutant, tests, found)) != KILLED:
            wrong[name] = f"{became}: {each.test} passes although the safeguard is off"
    return wrong


def _try_module(declared: Declared, module: str, seed: int, sample: int | None) -> Result:
    result = Result(module)
    found = baseline(module, declared.modules[module])
    if found.code:
        result.unfit = found.output
        return result
    load_beforehand(found, {module})
    drawn = mutants(ROOT, module, declared.operators, seed)
    countable = (m for m in drawn if not _is_equivalent(declared, m, result))
    # A stillborn mutant does not count: others are drawn in its place.
    while batch := list(islice(countable, None if sample is None else sample - result.counted)):
        for mutant, became in zip(batch, outcomes(batch, found), strict=True):
            if became == KILLED:
                result.killed += 1
            elif became != STILLBORN:
                result.survived.append(mutant)
    return result


def _is_equivalent(declared: Declared, mutant: Mutant, result: Result) -> bool:
    known = mutant.name in declared.equivalent
    result.equivalent += known
    return known
