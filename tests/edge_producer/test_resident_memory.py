"""Laws of memory that is given back: only what the file of a library still holds, and the process goes on."""

import subprocess
import sys

from edge_producer.resident_memory import clean_mappings

LIBRARY = "7f00{n}000-7f00{n}800 {perms} 00000000 fe:01 77                         {path}\n"
SIZES = "Rss:  8 kB\nPrivate_Dirty:  {dirty} kB\nAnonymous:  {own} kB\nSwap:  {swap} kB\nVmFlags: rd ex mr\n"
WHOLE = {"perms": "r-xp", "path": "/lib/libx.so.1", "dirty": 0, "own": 0, "swap": 0}


def smaps(*mappings):
    """Text of a process's mappings, each whole but for what is given."""
    return "".join((LIBRARY + SIZES).format(n=n, **{**WHOLE, **m}) for n, m in enumerate(mappings))


def test_only_unwritten_pages_of_a_library_are_given_back():
    text = smaps(
        {},
        {"perms": "r--p"},
        {"perms": "rw-p"},
        {"perms": "r--s"},
        {"own": 4},
        {"dirty": 4},
        {"swap": 4},
        {"path": "[heap]"},
        {"path": ""},
        {"path": "/data/spool.db-shm"},
        {"path": "/lib/libx.so.1 (deleted)"},
    )
    assert list(clean_mappings(text)) == [(0x7F000000, 0x7F000800), (0x7F001000, 0x7F001800)]


def test_a_process_goes_on_after_it_gave_back_its_libraries():
    work = """
import onnxruntime, numpy as np, sqlite3
from edge_producer.inference import load_predictor
from edge_producer.resident_memory import release_code
from schemas.profile_file import find_profile
profile = find_profile("machine")
window = np.ones((profile.sampling.window_samples, len(profile.channels)), dtype=np.float32)
before = load_predictor(profile).score("d", window)
assert release_code() > 10_000_000
after = load_predictor(profile).score("d", window)
assert (before[0] == after[0]).all() and before[1] == after[1]
sqlite3.connect(":memory:").execute("SELECT 1").fetchone()
"""
    assert subprocess.run([sys.executable, "-c", work], check=True, timeout=120).returncode == 0
