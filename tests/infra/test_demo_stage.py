"""A demo begins with nothing, and never in a folder that somebody uses."""

import pytest

from infra.demo.stage import DATA, PREVIOUS, begin_afresh, mark_if_new
from infra.stack.stack_file import DEMO_MARKER, unmark_demo
from schemas.errors import StackError


def left(state, what):
    """What a demo leaves."""
    for name in DATA:
        (state / name).mkdir()
        (state / name / "content").write_text(what)


def test_what_the_demo_before_left_is_kept_once_and_out_of_the_way(tmp_path):
    for what in ("first", "second"):
        begin_afresh(tmp_path)
        left(tmp_path, what)
    begin_afresh(tmp_path)
    assert not any((tmp_path / name).exists() for name in DATA)
    assert {(tmp_path / PREVIOUS / name / "content").read_text() for name in DATA} == {"second"}


def test_a_folder_that_no_demo_made_is_refused_untouched(tmp_path):
    left(tmp_path, "mine")
    with pytest.raises(StackError, match="holds a stack of yours"):
        begin_afresh(tmp_path)
    mark_if_new(tmp_path)
    assert not (tmp_path / DEMO_MARKER).exists()
    assert {(tmp_path / name / "content").read_text() for name in DATA} == {"mine"}


def test_a_demos_folder_is_its_users_once_a_stack_was_up_in_it(tmp_path):
    begin_afresh(tmp_path)
    left(tmp_path, "demo")
    unmark_demo(tmp_path)
    with pytest.raises(StackError, match="holds a stack of yours"):
        begin_afresh(tmp_path)


def test_the_line_alone_marks_a_new_folder_too(tmp_path):
    mark_if_new(tmp_path / "state")
    assert (tmp_path / "state" / DEMO_MARKER).exists()
