"""The examples in the product's docstrings are run, so that they stay true."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")

WANTED = {
    "feature_store.estimates.estimate_mean",
    "feature_store.sql.connect",
    "model_service.processes.process_loop.ProcessLoop",
    "schemas.model_version.ModelVersion",
    "schemas.profile.Profile",
    "stream_processors.job.Job",
}
"""What users meet first, and what a newcomer to the code asks about first."""


def modules_with_examples():
    """Modules with a doctest prompt somewhere in their text."""
    paths = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
    shown = [p.relative_to(ROOT).with_suffix("") for p in paths if ">>> " in p.read_text(encoding="utf-8")]
    return [".".join(p.parts).removesuffix(".__init__") for p in shown]


def examples_of(name):
    """The docstrings of a module that hold examples."""
    return [test for test in doctest.DocTestFinder().find(import_module(name)) if test.examples]


@pytest.mark.parametrize("name", modules_with_examples())
def test_every_example_shows_what_the_code_does(name):
    found, printed = examples_of(name), []
    assert found, f"{name} has a prompt outside its docstrings: it is never run"
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test, out=printed.append)
    assert runner.failures == 0, "".join(printed)


def test_what_users_meet_has_an_example():
    shown = {test.name for name in modules_with_examples() for test in examples_of(name)}
    assert shown >= WANTED, f"no example: {sorted(WANTED - shown)}"
