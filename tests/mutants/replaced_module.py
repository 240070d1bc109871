"""Puts another source in the place of one module, or another body in the place of one function.

Nothing on disk changes: a source is loaded by an import hook, and a body is set in memory.
"""

import importlib.util
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

ROOT = Path(__file__).parent.parent.parent


def dotted(module: str) -> str:
    """A module's name from its path."""
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class ReplacedModule(MetaPathFinder):
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


def body(source: str, path: str, place: str) -> CodeType | None:
    """The compiled body of a function; None where no single one has this qualified name."""
    found = [c for c in _bodies(compile(source, path, "exec", dont_inherit=True)) if c.co_qualname == place]
    return found[0] if len(found) == 1 else None


def functions(module: ModuleType, place: str) -> list[FunctionType]:
    """The functions of a module that have a place's body, whatever they are wrapped in."""
    found: object = module
    for name in place.split("."):
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
    return [f for f in _within(found) if f.__qualname__ == place and f.__module__ == module.__name__]


def _bodies(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _bodies(constant)


def _within(wrapped: object) -> Iterator[FunctionType]:
    if isinstance(wrapped, FunctionType):
        yield wrapped
    for name in ("fget", "fset", "__func__", "__wrapped__", "func"):
        inner = getattr(wrapped, name, None)
        if inner is not None and inner is not wrapped:
            yield from _within(inner)
