"""Whatever commands print, text from outside reaches no terminal as a command to it."""

import ast
import io
import json
import logging
import re
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout

import pyarrow as pa
import pytest
from rich.console import Console

from feature_store.result_text import FORMATS
from infra.cli import console
from infra.terminal import EscapedConsole, EscapedStream, guard_streams
from schemas.errors import RejectedError
from schemas.escaping import escaped_block, escaped_json, escaped_line
from tests.test_house import ROOT, sources

CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
HOSTILE = "]0;owned".join(map(chr, CONTROLS)) + "\x1b]52;c;ZWNobw==\x07\x1b[2J\x1b[31mALL GOOD\ud800"
LINE_ENDS = {0x0A, 0x0D, 0x09}
ORDINARY = "Ölpumpe Łódź 水泵 насос مضخة 🙂 e\u0301 a\u200db"

PRINTS = {
    "show_progress": console.show_progress,
    "show_json": lambda text: console.show_json({"key": text, text: [text]}),
    "show_json_line": lambda text: console.show_json_line([text]),
    "show_text": console.show_text,
    "show_table": lambda text: console.show_table(text, ["name", f"{text}…"], [[text, text], [1, text]]),
    "show_error": lambda text: console.show_error(RejectedError(text)),
    "show_warning": console.show_warning,
    "stdout": lambda text: console.stdout().print(text, markup=False),
    "stderr": lambda text: console.stderr().print(text, markup=False),
}
"""Each way in which ``infra.cli.console`` prints, by the name of its function."""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def controls(text: str, besides: set[int]) -> set[int]:
    """Control characters in a text that was printed."""
    return {ord(c) for c in text} & {*CONTROLS, 0xD800} - besides


def printed(show, text: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        show(text)
    return out.getvalue()


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_no_way_of_printing_lets_a_control_character_through(name):
    shown = printed(PRINTS[name], HOSTILE)
    assert "ALL GOOD" in shown
    assert controls(shown, LINE_ENDS if name not in ("show_json", "show_json_line") else {0x0A}) == set()


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_ordinary_text_of_any_language_is_printed_as_it_is(name):
    assert ORDINARY in printed(PRINTS[name], ORDINARY)


def test_the_console_has_no_way_of_printing_that_these_laws_do_not_know():
    tree = ast.parse((ROOT / "infra" / "cli" / "console.py").read_text(encoding="utf-8"))
    public = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")}
    assert public == {*PRINTS, "as_json_line", "hint"}


def test_no_other_module_of_the_command_line_prints_by_itself():
    doors = {"infra/cli/console.py", "infra/terminal.py"}
    found = []
    for path in sources():
        relative = str(path.relative_to(ROOT))
        if not relative.startswith("infra/") or relative in doors:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if re.match(r"(print|Console|typer\.echo|typer\.secho|sys\.std(out|err)\.\w+)\(", text):
                found.append(f"{relative}:{node.lineno} {text[:60]}")
    assert [f for f in found if not f.startswith(tuple(OF_THE_DEVELOPER))] == []


OF_THE_DEVELOPER = {"infra/factory.py": "builds what is in the wheel; it reads no text from outside"}


@pytest.mark.parametrize("fmt", sorted(FORMATS))
def test_a_query_shows_no_control_character_in_values_or_names(fmt):
    hostile = HOSTILE.replace("\ud800", "")  # neither Arrow nor SQL can hold half a character
    table = pa.table({hostile: [hostile, ORDINARY], "list": [[hostile], []], "map": [{"a": hostile}] * 2})
    text = FORMATS[fmt](table)
    assert "ALL GOOD" in text
    assert controls(text, LINE_ENDS if fmt == "csv" else {0x0A}) == set()
    if fmt == "json":
        assert json.loads(text)[0][hostile] == hostile


def test_json_reads_back_as_the_value_that_was_printed():
    shown = printed(PRINTS["show_json_line"], HOSTILE)
    assert json.loads(shown) == [HOSTILE]


def test_a_table_keeps_each_row_on_its_line():
    shown = printed(lambda t: console.show_table("", ["a", "b"], [[t, "x"]]), "one\ntwo\rthree")
    assert [line for line in shown.splitlines() if line] == ["a                b", r"one\ntwo\rthree  x"]


def test_what_prints_by_itself_is_covered_too():
    out = io.StringIO()
    with redirect_stderr(out), redirect_stdout(out):
        guard_streams()
        traceback.print_exception(ValueError(HOSTILE))
        logging.lastResort.emit(logging.makeLogRecord({"msg": HOSTILE, "levelno": 40}))
    assert out.getvalue().count("ALL GOOD") == 2
    assert controls(out.getvalue(), LINE_ENDS) == set()


def test_on_a_terminal_our_colours_pass_and_nothing_else():
    terminal = Terminal()
    EscapedStream(terminal).write("\x1b[1;31merror\x1b[0m \x1b[2J \x1b]0;x\x07\n")
    assert terminal.getvalue() == "\x1b[1;31merror\x1b[0m \\x1b[2J \\x1b]0;x\\x07\n"


def test_the_console_draws_on_a_terminal_while_its_texts_are_escaped():
    terminal = Terminal()
    drawing = EscapedConsole(file=terminal, force_terminal=True, color_system="standard", highlight=False)
    drawing.print("[red]cut[/] \x1b[2J")
    assert "\x1b[31mcut\x1b[0m" in terminal.getvalue()
    assert "\\x1b[2J" in terminal.getvalue()


def test_a_command_that_fails_unforeseen_quotes_outside_text_with_escapes():
    program = (
        "import sys, infra.cli.app as app\n"
        "def boom(): raise RuntimeError('\\x1b]0;owned\\x07\\x9b31m')\n"
        "app.build_app = lambda: (lambda **_: boom())\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert r"RuntimeError: \x1b]0;owned\x07\x9b31m" in done.stderr
    assert controls(done.stderr, {0x0A}) == set()


def test_each_control_character_has_an_escape():
    for code in CONTROLS:
        assert escaped_line(f"a{chr(code)}b").isprintable()
        assert json.loads(escaped_json(json.dumps(chr(code), ensure_ascii=False))) == chr(code)
        if code not in LINE_ENDS:
            assert escaped_block(chr(code)) == escaped_line(chr(code))


def test_a_lone_carriage_return_overwrites_no_line():
    assert escaped_block("bad\rgood\r\n") == "bad\\rgood\r\n"


def test_a_plain_console_would_not_do():
    out = io.StringIO()
    Console(file=out).print("\x1b[2J")
    assert "\x1b" in out.getvalue()
