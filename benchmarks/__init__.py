"""Seeded scenarios, each beside a peer or a physical limit measured in the same run."""

import os
import sys

# What is measured starts as it does where it is installed: with its bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
