"""``python -m tests.mutants [MODULE …]``: how many small changes of deciding code the fast tests notice.

SEED draws the sample, SAMPLE says how many mutants of each module (or ``all``), JOBS how many modules are
tried at a time. ``python -m tests.mutants --safeguards`` tries the mutants written by hand.
"""

import os
import sys

from tests.mutants.campaign import Result, run, unnoticed
from tests.mutants.declared import read

FLOOR = 0.9
ROW = "{:<52} {:>7} {:>6} {:>8} {:>4}"


def main(arguments: list[str]) -> int:
    """Prints a table and the survivors.

    Returns:
        0 if the share of killed mutants is high enough: in total, and for ``SAMPLE=all`` in each module.
    """
    declared = read()
    if arguments == ["--safeguards"]:
        wrong = unnoticed(declared.safeguards)
        for name in declared.safeguards:
            print(f"{name}: {wrong.get(name, 'noticed')}")
        return 1 if wrong else 0
    unknown = [a for a in arguments if not any(m.startswith(a) for m in declared.modules)]
    if unknown:
        print(f"error: mutants.toml has no module that begins with {unknown[0]}", file=sys.stderr)
        return 2
    chosen = [m for m in declared.modules if not arguments or any(m.startswith(a) for a in arguments)]
    seed, wanted = int(os.environ.get("SEED", "7")), os.environ.get("SAMPLE", "6")
    sample = None if wanted == "all" else int(wanted)
    print(f"SEED={seed} SAMPLE={wanted} (mutants a module)\n", flush=True)
    print(ROW.format("module", "mutants", "killed", "survived", "same"), flush=True)
    results = []
    for result in run(declared, chosen, seed, sample, int(os.environ.get("JOBS", "1"))):
        results.append(result)
        print(_row(_short(result.module), [result]), flush=True)
    return _verdict(results, each=sample is None)


def _verdict(results: list[Result], each: bool) -> int:
    print(_row("all", results))
    print("\nsame: known to be equivalent (equivalent.toml), so not among the mutants")
    survivors = [m for r in results for m in r.survived]
    for mutant in survivors:
        print(f"\n{mutant.diff()}")
    unfit = [r for r in results if r.unfit]
    for result in unfit:
        print(f"\nthe tests of {result.module} fail over the module as it is:\n{result.unfit[-4000:]}")
    low = [r.module for r in results if r.counted and r.killed < FLOOR * r.counted]
    counted, killed = sum(r.counted for r in results), sum(r.killed for r in results)
    share = killed / counted if counted else 0.0
    print(f"\n{killed} of {counted} killed: {share:.1%} (at least {FLOOR:.0%} must be)")
    if each and low:
        print(f"below it: {', '.join(low)}")
    return 1 if unfit or share < FLOOR or (each and low) else 0


def _row(name: str, results: list[Result]) -> str:
    if any(r.unfit for r in results) and len(results) == 1:
        return f"{name:<52} its tests fail over it as it is"
    counted, killed = sum(r.counted for r in results), sum(r.killed for r in results)
    return ROW.format(name, counted, killed, counted - killed, sum(r.equivalent for r in results))


def _short(module: str) -> str:
    return module if len(module) <= 52 else f"…{module[-51:]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
