import os
import sys

# Where bytecode must not be written, each of the hundreds of processes that the tests start compiles our
# modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
