"""Runs a module's tests over the code as it is, and over the module's mutants."""

import builtins
import contextlib
import functools
import gc
import importlib
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import hypothesis
import pytest

from tests.mutants.in_a_fork import fork
from tests.mutants.mutation import REACHED, Mutant, telling
from tests.mutants.replaced_module import ROOT, ReplacedModule, body, dotted, functions

PROFILE = "mutants"
BRIEF = ("-x", "--tb=no", "-p", "no:unraisableexception")
"""That a test fails is enough: why it does is not asked."""
PATIENCE = 2.0
"""A mutant counts as killed after so many times the processor time of its tests, and a second."""

KILLED, SURVIVED, STILLBORN = "killed", "survived", "stillborn"
STILLBORN_CODE = 70

hypothesis.settings.register_profile(
    PROFILE,
    database=None,
    derandomize=True,
    deadline=None,
    phases=[
        hypothesis.Phase.explicit,
        hypothesis.Phase.generate,
    ],  # a failure need not be small
    suppress_health_check=list(hypothesis.HealthCheck),
)


@dataclass
class Baseline:
    """What the tests of a module do as long as it is as it should be.

    Attributes:
        seconds: Processor time that each test took.
        reached: The functions of the module that each test called; empty is "outside of functions".
        loaded: Modules that the tests imported.
    """

    code: int = 0
    output: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[str, set[str]] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)

    def tests_for(self, place: str) -> list[str]:
        """The tests that can notice a change at a place, quick ones first."""
        fit = [t for t in self.seconds if not place or place in self.reached[t]]
        return sorted(fit, key=lambda t: (self.seconds[t], t))

    def patience_s(self, tests: Sequence[str]) -> float:
        """Processor time after which a mutant that the tests have not ended over counts as killed."""
        return 1 + PATIENCE * sum(self.seconds[t] for t in tests)


class _Chosen:
    """A pytest plugin: runs only the given tests, in the given order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._order = {test: n for n, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._order), key=lambda i: self._order[i.nodeid])


class _Observer:
    """A pytest plugin: notes how long each test took, and which functions of one module it called."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, set[str]] = {}
        self._now: set[str] = set()

    def reach(self, place: str) -> None:
        self._now.add(place)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterable[None]:
        self._now = self.reached.setdefault(item.nodeid, set())
        began = time.process_time()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.process_time() - began


def baseline(module: str, files: Sequence[str]) -> Baseline:
    """Runs tests over the code as it is, and observes them."""
    observer = _Observer()

    def run() -> Baseline:
        builtins.__dict__[REACHED] = observer.reach
        sys.meta_path.insert(0, ReplacedModule(module, telling((ROOT / module).read_text(encoding="utf-8"))))
        importlib.import_module(dotted(module))
        code = int(pytest.main([*_options(), *files], plugins=[observer]))
        return Baseline(code, "", observer.seconds, observer.reached, list(sys.modules))

    code, answer, output = fork(run)
    found = answer if isinstance(answer, Baseline) else Baseline(code or 1)
    found.output = output
    return found


def load_beforehand(found: Baseline, modules: set[str]) -> None:
    """Imports, into this process, what the tests need and what does not itself import one of the modules."""
    kept_out = [ReplacedModule(module, None) for module in modules]
    sys.meta_path[:0] = kept_out
    for name in found.loaded:
        last = name.rsplit(".", 1)[-1]
        if name in sys.modules or name.startswith("__") or last == "conftest" or last.startswith("test_"):
            continue
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    del sys.meta_path[: len(kept_out)]
    gc.freeze()  # no child need look through what is here


def outcomes(mutants: Sequence[Mutant], found: Baseline) -> list[str]:
    """Says of each mutant of one module whether the tests notice it; a stillborn one cannot be imported.

    Most mutants change the body of one function. They are tried in one pytest session, which has collected
    the tests once: a fork of it puts the changed body in place. So a test notices only what it calls when it
    runs, not what its module called when it was imported. All others are tried by ``outcome``.
    """
    quick = [m for m in mutants if m.place and found.tests_for(m.place)]
    became: dict[Mutant, str | None] = {}
    if quick:
        files = sorted({t.split("::")[0] for m in quick for t in found.tests_for(m.place)})
        session = _ForkingSession(quick, found)

        def run() -> list[str | None]:
            pytest.main([*_options(), *BRIEF, *files], plugins=[session])
            return session.became

        _, answer, output = fork(run)
        if answer is None:
            raise RuntimeError(f"no test of {mutants[0].module} could run:\n{output}")
        became = dict(zip(quick, answer, strict=True))
    return [became.get(m) or outcome(m, found.tests_for(m.place), found) for m in mutants]


def outcome(mutant: Mutant, tests: Sequence[str], found: Baseline) -> str:
    """As ``outcomes``, of one mutant, by importing the whole changed module."""
    if not tests:
        return SURVIVED

    def run() -> int:
        sys.meta_path.insert(0, ReplacedModule(mutant.module, mutant.source))
        try:
            importlib.import_module(dotted(mutant.module))
        except Exception:  # noqa: BLE001 - whatever it raises: no test could run
            return STILLBORN_CODE
        files = list(dict.fromkeys(t.split("::")[0] for t in tests))
        return int(pytest.main([*_options(), *BRIEF, *files], plugins=[_Chosen(tests)]))

    code, answer, output = fork(run, found.patience_s(tests))
    result = answer if code == 0 else pytest.ExitCode.TESTS_FAILED  # it took too long, or died
    if result in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"no test of {mutant.module} could run:\n{output}")
    return {0: SURVIVED, STILLBORN_CODE: STILLBORN}.get(int(result), KILLED)


class _ForkingSession:
    """A pytest plugin: instead of running what was collected, tries each mutant in a fork.

    Attributes:
        became: What became of each mutant, in their order; None: it cannot be told here.
    """

    def __init__(self, mutants: Sequence[Mutant], found: Baseline) -> None:
        self._mutants, self._found = mutants, found
        self.became: list[str | None] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        for mutant in self._mutants:
            tests = self._found.tests_for(mutant.place)
            work = functools.partial(_body_changed, session, mutant, [items[t] for t in tests])
            status, answer, _ = fork(work, self._found.patience_s(tests))
            self.became.append(answer if status == 0 else KILLED)  # it took too long, or died
        return True


def _body_changed(session: pytest.Session, mutant: Mutant, items: list[pytest.Item]) -> str | None:
    """Puts the mutant's body in place, and runs tests until one fails."""
    module = sys.modules[dotted(mutant.module)]
    changed = body(mutant.source, str(ROOT / mutant.module), mutant.place)
    own = functions(module, mutant.place)
    if changed is None or len(own) != 1 or own[0].__code__.co_freevars != changed.co_freevars:
        return None  # which function it is cannot be told: the whole module is imported instead
    own[0].__code__ = changed
    for item, following in zip(items, [*items[1:], None], strict=True):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return KILLED
    return SURVIVED


def _options() -> list[str]:
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", f"--hypothesis-profile={PROFILE}"]
    return ["-q", "--assert=plain", "--timeout=0", f"--rootdir={ROOT}", *plugins]
