"""What stands between text from outside and a terminal: a console and a stream that show controls as escapes.

Commands print through ``infra.cli.console``, which escapes each value and prints with ``EscapedConsole``.
``guard_streams`` is the second line: it also covers what prints by itself, such as a traceback or a warning.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from schemas.escaping import escaped_block

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


class EscapedConsole(Console):
    """A console whose texts hold no control characters; its own colours and movements stay."""

    @property
    def file(self) -> Any:
        """Where it writes: the stream itself, because what it renders is escaped already."""
        stream = super().file
        return stream.inner if isinstance(stream, EscapedStream) else stream

    @file.setter
    def file(self, new_file: Any) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of the renderable, their texts escaped."""
        for segment in super().render(renderable, options):
            safe = segment.text if segment.control else escaped_block(segment.text)
            yield segment if safe == segment.text else segment._replace(text=safe)


class EscapedStream:
    """A text stream in front of another; on a terminal colours pass.

    Attributes:
        inner: The stream that it writes to.
    """

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write the text with its control characters as escapes; returns the length of the given text."""
        if self.inner.isatty():
            pieces = _COLOUR.split(text)  # colours are the pieces with odd numbers
            self.inner.write("".join(p if i % 2 else escaped_block(p) for i, p in enumerate(pieces)))
        else:
            self.inner.write(escaped_block(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def guard_streams() -> None:
    """Put an ``EscapedStream`` before the process's standard output and error, for good."""
    if not isinstance(sys.stdout, EscapedStream):
        sys.stdout = EscapedStream(sys.stdout)
    if not isinstance(sys.stderr, EscapedStream):
        sys.stderr = EscapedStream(sys.stderr)


def clear_screen() -> None:
    """Begin at the top of an empty terminal; elsewhere, pass on what was printed so far."""
    stream = sys.stdout.inner if isinstance(sys.stdout, EscapedStream) else sys.stdout
    if stream.isatty():
        stream.write("\x1b[H\x1b[2J")
    stream.flush()
