"""A process that makes no progress ends, whatever it hangs in; one that does lives."""

import subprocess
import sys

import pytest

from stream_processors.engine.watchdog import EXIT_STALLED

PROGRAM = """
import re, time
from stream_processors.engine.watchdog import Watchdog
dog = Watchdog(limit_s=0.4, tick_s=0.1)
dog.ensure_started()
{body}
"""


def run(body):
    program = PROGRAM.format(body=body)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def test_a_process_that_waits_for_ever_is_ended():
    assert run("time.sleep(1000)") == EXIT_STALLED


def test_a_call_that_never_gives_pythons_lock_back_is_ended_too():
    assert run("re.match(r'(a+)+$', 'a' * 60 + 'b')") == 1


@pytest.mark.parametrize("end", ["dog.stop()", ""])
def test_a_process_that_reports_progress_lives(end):
    assert run(f"for _ in range(12): dog.progress(); time.sleep(0.1)\n{end}") == 0
