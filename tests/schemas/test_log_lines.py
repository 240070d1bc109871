"""A process's log: a storm of one complaint costs a few lines, and no line is forged from outside."""

import io
import logging
import subprocess
import sys

import pytest

from schemas.log_lines import AT_ONCE, FORM, WINDOW_S, EscapedFormatter, SummingHandler


class Log:
    """A logger of its own whose clock the test sets."""

    def __init__(self):
        self.now, self.out = 0.0, io.StringIO()
        self.handler = SummingHandler(self.out, lambda: self.now)
        self.handler.setFormatter(EscapedFormatter("%(levelname)s %(name)s: %(message)s"))
        self.logger = logging.Logger("client")
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


@pytest.fixture
def log():
    return Log()


def test_the_first_lines_of_a_kind_come_at_once_and_the_rest_in_one_line_a_minute(log):
    for second in range(int(5 * WINDOW_S)):
        log.now = float(second)
        for attempt in range(40):
            log.logger.error("cannot connect to node %d: refused after %d ms", second, attempt)
    told = [line for line in log.lines if "such lines]" in line]
    assert log.lines[0] == "ERROR client: cannot connect to node 0: refused after 0 ms"
    held_at_first = 60 * 40 - AT_ONCE
    assert told[0].endswith(f"node 59: refused after 39 ms [one of {held_at_first} such lines]")
    assert len(told) == 4
    assert len(log.lines) <= AT_ONCE + 2 * 5
    log.handler.close()
    held = sum(int(line.split("one of ")[1].split()[0]) for line in log.lines if "one of " in line)
    plain = [line for line in log.lines if "one of " not in line]
    assert held + len(plain) == 5 * 60 * 40  # no line is without its count


def test_a_storm_holds_back_no_line_of_another_kind(log):
    for attempt in range(1000):
        log.logger.error("cannot connect, attempt %d", attempt)
    log.logger.warning("the disk is full")
    assert log.lines[-1] == "WARNING client: the disk is full"


def test_what_is_no_storm_is_written_whole(log):
    for minute in range(100):
        log.now = minute * WINDOW_S / AT_ONCE * 1.01
        log.logger.info("commit %d", minute)
    assert log.lines == [f"INFO client: commit {n}" for n in range(100)]


def test_a_line_after_a_storm_comes_at_once(log):
    for attempt in range(1000):
        log.logger.error("cannot connect, attempt %d", attempt)
    log.now = 2 * WINDOW_S
    log.logger.error("cannot connect, attempt 1000")
    assert log.lines[-2:] == [
        f"ERROR client: cannot connect, attempt 999 [one of {1000 - AT_ONCE} such lines]",
        "ERROR client: cannot connect, attempt 1000",
    ]


def test_many_kinds_are_remembered_within_a_bound_and_none_is_lost(log):
    for word in ("".join(chr(97 + (n >> s) % 16) for s in (0, 4, 8)) for n in range(3000)):
        for _ in range(AT_ONCE + 2):
            log.logger.info("kind %s", word)
    log.handler.close()
    assert sum("one of 2 such lines" in line for line in log.lines) == 3000


def test_a_message_from_outside_forges_no_line(log):
    log.logger.warning("refused %s", "x\n2026-07-01 INFO root: all is well\x1b[2K\u202e")
    assert log.lines == [
        "WARNING client: refused x\\n2026-07-01 INFO root: all is well\\x1b[2K\\u202e",
    ]


def test_a_traceback_keeps_its_lines_and_loses_its_controls(log):
    try:
        int("\x1b]0;x\x07")
    except ValueError:
        log.logger.exception("unexpected")
    assert len(log.lines) > 3
    assert log.out.getvalue().isascii()
    assert "\x1b" not in log.out.getvalue()


def test_arguments_that_do_not_fit_do_not_end_the_process(log, capsys):
    log.logger.info("%d rows", "many")
    assert "Logging error" in capsys.readouterr().err


def test_the_form_of_a_line_is_what_it_was():
    assert FORM == "%(asctime)s %(levelname)s %(name)s: %(message)s"
    record = logging.makeLogRecord({"msg": "a", "levelname": "INFO", "name": "n"})
    assert EscapedFormatter(FORM).format(record).endswith(" INFO n: a")


@pytest.mark.parametrize("thread", [False, True])
def test_an_error_that_nobody_catches_is_logged_with_its_quotes_escaped(thread):
    program = (
        "import threading\n"
        "from schemas.log_lines import log_to_stderr\n"
        "log_to_stderr()\n"
        "def boom(): raise ValueError('\\x1b]0;owned\\x07')\n"
        f"{'t = threading.Thread(target=boom); t.start(); t.join()' if thread else 'boom()'}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if thread else 1)
    assert done.stderr.splitlines()[-1] == r"ValueError: \x1b]0;owned\x07"
    assert "CRITICAL" in done.stderr
    assert "\x1b" not in done.stderr
