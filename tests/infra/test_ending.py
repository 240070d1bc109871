"""A command ends with its own exit code, although threads of libraries are still at work."""

import subprocess
import sys

import pytest

BUSY = """
import hashlib, sys, threading
import duckdb, pyarrow as pa
from infra.process.ending import end_process
import atexit
atexit.register(lambda: print("registered"))

at_work = threading.Barrier(5)

def work():
    connection = duckdb.connect()
    numbers = pa.table({"n": range(200_000)})
    at_work.wait()
    while True:
        connection.execute("SELECT sum(n) FROM numbers").fetchall()

class Last:
    def __del__(self, derive=hashlib.pbkdf2_hmac):  # while the interpreter is taken down, if it is
        derive("sha256", b"long work", b"that lets threads come back", 2_000_000)

last = Last()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
at_work.wait()
print("printed", end="")
sys.stderr.write("said")
END
"""


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_process_whose_threads_are_in_duckdb_ends_with_the_code_of_its_command(code):
    source = BUSY.replace("END", f"end_process({code})")
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "printedregistered\n", "said")


def test_a_command_whose_output_nobody_reads_does_not_end_as_if_it_had_been_read():
    command = f"{sys.executable} -m infra profile show machine | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1, 120)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], 0), (["nosuch"], 2), (["profile", "check", "x"], 1)]
)
def test_the_command_ends_with_its_code(arguments, code):
    done = subprocess.run(
        [sys.executable, "-m", "infra", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
