"""Law of the examples in docstrings: each runs, and gives what it shows."""

from __future__ import annotations

import doctest

import pytest

from edge_producer import filter as row_filter
from edge_producer import window


@pytest.mark.parametrize("module", [row_filter, window], ids=lambda m: m.__name__)
def test_the_examples_of_a_module_run_as_shown(module):
    failed, attempted = doctest.testmod(module)
    assert attempted > 3
    assert failed == 0
