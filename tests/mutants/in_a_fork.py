"""Runs tests in a forked process, over the code as it is or with one module's source replaced.

A fork needs no new interpreter, and no import of what the parent has imported already. Nothing on disk
changes: the replaced source is loaded by an import hook.
"""

import builtins
import contextlib
import gc
import importlib
import importlib.util
import math
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import pytest

from tests.mutants.mutation import REACHED, telling

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra", "tests")
PROFILE = "mutants"
MEMORY = 6 << 30
"""Bytes of address space beyond the parent's: a mutant that never stops collecting must not take them all."""

ASLEEP_S, UNBOUNDED_S = 170.0, 86400.0
"""How long a process with a limit may take in all: it may wait for something that never comes."""

BRIEF = ("-x", "--tb=no", "-p", "no:unraisableexception")
"""That a test fails is enough: why it does is not asked."""

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


def dotted(module: str) -> str:
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


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


class _Replaced(MetaPathFinder):
    """Loads one module from the given source; without one the module cannot be imported at all."""

    def __init__(self, module: str, source: str | None) -> None:
        self._name, self._path, self._source = dotted(module), str(ROOT / module), source

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        if self._source is None:
            raise ImportError(f"{fullname} is kept out")
        loader = _Loader(fullname, self._path)
        loader.source = self._source
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Loader(SourceFileLoader):
    source: str

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


def baseline(module: str, files: Sequence[str]) -> Baseline:
    """Runs tests over the code as it is, and observes them."""
    observer = _Observer()

    def run() -> Baseline:
        builtins.__dict__[REACHED] = observer.reach
        sys.meta_path.insert(0, _Replaced(module, telling((ROOT / module).read_text(encoding="utf-8"))))
        importlib.import_module(dotted(module))
        code = int(pytest.main([*_options(), *files], plugins=[observer]))
        return Baseline(code, "", observer.seconds, observer.reached, list(sys.modules))

    code, answer, output = fork(run)
    found = answer if isinstance(answer, Baseline) else Baseline(code or 1)
    found.output = output
    return found


def load_beforehand(found: Baseline, modules: set[str]) -> None:
    """Imports, into this process, what the tests need and what does not itself import one of the modules."""
    kept_out = [_Replaced(module, None) for module in modules]
    sys.meta_path[:0] = kept_out
    for name in found.loaded:
        last = name.rsplit(".", 1)[-1]
        if name in sys.modules or name.startswith("__") or last == "conftest" or last.startswith("test_"):
            continue
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    del sys.meta_path[: len(kept_out)]
    gc.freeze()  # no child need look through what is here


def outcome(module: str, source: str, tests: Sequence[str], cpu_s: float) -> str:
    """Says whether the tests noticed a changed module; stillborn is one that cannot be imported."""

    def run() -> int:
        sys.meta_path.insert(0, _Replaced(module, source))
        try:
            importlib.import_module(dotted(module))
        except Exception:  # noqa: BLE001 - whatever it raises: no test could run
            return STILLBORN_CODE
        files = list(dict.fromkeys(t.split("::")[0] for t in tests))
        return int(pytest.main([*_options(), *BRIEF, *files], plugins=[_Chosen(tests)]))

    code, answer, output = fork(run, cpu_s)
    result = answer if code == 0 else pytest.ExitCode.TESTS_FAILED  # it took too long, or died
    if result in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"no test of {module} could run:\n{output}")
    return {0: SURVIVED, STILLBORN_CODE: STILLBORN}.get(int(result), KILLED)


def fork(work: Callable[[], Any], cpu_s: float = 0.0) -> tuple[int | None, Any, str]:
    """Does the work in a process of its own.

    Args:
        work: Its answer must be possible to pickle.
        cpu_s: Processor time after which the process ends; 0: no limit. Processor time is the same on a
            machine that does much else.

    Returns:
        Its exit status (None: it was ended after ``ASLEEP_S``), what the work returned, what it printed.
    """
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _child(work, folder, cpu_s)
        status = _wait(pid, ASLEEP_S if cpu_s else UNBOUNDED_S)
        answer = folder / "answer"
        printed = (folder / "output").read_text(errors="replace") if (folder / "output").exists() else ""
        return status, pickle.loads(answer.read_bytes()) if answer.exists() else None, printed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _child(work: Callable[[], Any], folder: Path, cpu_s: float) -> None:
    """Never returns: the parent's clean-up is not the child's to do."""
    code = 1
    try:
        os.setsid()
        out = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        if cpu_s:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_s), resource.RLIM_INFINITY))
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        answer = work()
        (folder / "answer").write_bytes(pickle.dumps(answer))
        code = 0
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, limit_s: float) -> int | None:
    deadline, ended = time.monotonic() + limit_s, None
    while ended is None and time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # the child and what it started
    if ended is None:
        os.waitpid(pid, 0)
    return ended


def _options() -> list[str]:
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    return ["-q", "--assert=plain", *plugins, f"--hypothesis-profile={PROFILE}", f"--rootdir={ROOT}"]
