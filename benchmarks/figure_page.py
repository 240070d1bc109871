"""Figures as Markdown, and their place in a page of the documentation."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

WIDTH = 108
END = "<!-- end of figures -->"


@dataclass
class FigurePage:
    """Lines of the figures, as Markdown."""

    lines: list[str] = field(default_factory=list)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table."""
        self.lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        self.lines += [f"| {' | '.join(row)} |" for row in rows]

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self.lines += ["", *textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)]


def replace_figures(path: Path, begin: str, text: str) -> None:
    """Put figures into a page, between the mark ``begin`` and the next ``END``."""
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    path.write_text(f"{before}{begin}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
