"""What people read: one form for each kind of value, and tables whose ids can be copied."""

import io
import re
from contextlib import redirect_stdout
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cli.console import show_table
from infra.cli.table_view import moment, viewed
from infra.printing import cell, count, instant, local_instant, seconds, share, size, span

PIECES = ("machine-1.4d9f90c5", "2026-03-01T12:00:05Z", "30.5 kB")
WHY = "it failed its trial on two of the three devices that took the offer, which is more than is allowed"


class Terminal(io.StringIO):
    """Collects what a command prints on a terminal."""

    def isatty(self) -> bool:
        return True


def printed(out: io.StringIO, *rows: tuple[object, ...]) -> list[str]:
    """Lines of a table with three fixed columns and one of prose, without colours."""
    with redirect_stdout(out):
        show_table("models", ["version", "created", "size>", "why…"], rows)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


@pytest.fixture(params=[20, 60, 80, 120])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, int]:
    """A terminal and its width."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("LINES", "40")
    return Terminal(), request.param


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)), st.integers(-14, 14))  # noqa: DTZ001
def test_an_instant_is_the_second_in_utc_and_can_be_read_back(local, hours):
    at = local.replace(tzinfo=timezone(timedelta(hours=hours)))
    text = instant(at)
    assert datetime.fromisoformat(text) == at.replace(microsecond=0)
    assert text == instant(at.isoformat()) == cell(at)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)), st.integers(-14, 14))  # noqa: DTZ001
def test_a_local_time_is_short_and_none_that_could_be_read_as_another(local, hours):
    now = local.replace(tzinfo=timezone(timedelta(hours=hours)))
    at = now.astimezone(timezone(timedelta(hours=3)))
    assert local_instant(at, now) == local_instant(instant(at), now) == local_instant(at.timestamp(), now)
    assert local_instant(at, now).endswith(f"{now:%H:%M:%S}")
    assert len(local_instant(at, now)) <= len("31 Dec 23:59:59")
    with pytest.raises(ValueError, match="Invalid isoformat"):
        datetime.fromisoformat(local_instant(at, now))


def test_the_year_is_told_where_it_is_another():
    now = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert local_instant("2025-12-31T21:59:59Z", now) == "31 Dec 2025 23:59:59"
    assert local_instant("2025-12-31T22:00:00Z", now) == "1 Jan 00:00:00"


def test_times_are_those_that_can_be_pasted_where_the_reader_asks_for_utc():
    at = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=1)))
    with viewed(utc=True, wide=False):
        assert moment(at) == "2026-03-01T11:00:00Z"
        assert printed(io.StringIO(), ("v", at, "1", ""))[-1].split() == ["v", "2026-03-01T11:00:00Z", "1"]
    assert "T" not in moment(at)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_row_is_one_line_where_the_reader_asks_for_wide(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "40")
    with viewed(utc=False, wide=True):
        assert len(printed(Terminal(), (*PIECES, WHY))) == 3


@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_id_is_in_one_piece_at_every_width(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "40")
    names = [f"kuehlraum-sued-{n:02d}-{'x' * 48}" for n in range(3)]
    lines = printed(Terminal(), *((name, *PIECES[1:], WHY) for name in names))
    assert [sum(name in line for line in lines) for name in names] == [1, 1, 1]


def test_what_is_not_known_leaves_a_cell_empty():
    assert {form(None) for form in (instant, moment, span, seconds, share, size, count, cell)} == {""}


def test_ids_stay_in_one_piece_at_any_width(terminal):
    out, _ = terminal
    lines = printed(out, (*PIECES, WHY))
    assert sum(all(piece in line for piece in PIECES) for line in lines) == 1


def test_prose_wraps_within_a_terminal_that_is_wide_enough(terminal):
    out, width = terminal
    lines = printed(out, (*PIECES, WHY))
    fits = width >= 80
    assert (max(map(len, lines)) <= width) == fits
    assert (len(lines) > 3) == fits  # otherwise: title, heading, and each row one line


def test_in_a_pipe_each_row_is_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = printed(io.StringIO(), (*PIECES, WHY), (*PIECES, None))
    assert [line.endswith(WHY) for line in lines[2:]] == [True, False]


def test_no_line_ends_in_spaces(terminal):
    out, _ = terminal
    assert all(line == line.rstrip() for line in printed(out, (*PIECES, ""), ("", "", "", WHY)))
