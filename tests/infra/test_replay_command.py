"""Laws of `profile init` and `replay`: they say what they decide, stop where in doubt, repeat nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from edge_producer.sources.canonical_recording import CanonicalSource
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.cli.reading_arguments import say
from infra.drafting.profile_draft import draft
from infra.reading.canonical import write_canonical
from infra.reading.decision_record import DecisionRecord
from infra.replay import ReplayRequest, alone
from infra.replay_checks import Remaining, refuse_other_units, with_rate_doubt
from infra.replay_history import content_digest
from schemas.errors import ProfileError, SourceError, StackError
from schemas.profile import Profile
from tests.infra.cli import Edgeloop, EdgeloopHere
from tests.infra.test_reading import long_file
from tests.infra.workbooks import write_workbook
from tests.infra.written_files import START, Written, read, rows_of, truth, write


def recording(folder: Path, name: str = "pump.csv", rows: int = 300) -> Path:
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{20 + i % 17 / 4}" for i in range(rows)]
    path = folder / name
    path.write_text("time,heat\n" + "\n".join(lines) + "\n")
    return path


def test_a_doubt_stops_init_with_the_option_that_decides_and_writes_nothing(tmp_path):
    edgeloop, target = EdgeloopHere(tmp_path / "state"), tmp_path / "p.toml"
    arguments = ("profile", "init", str(long_file(tmp_path, 3, True)), "-o", str(target))
    stopped = edgeloop(*arguments, "--json")
    said = json.loads(stopped.stdout)
    assert stopped.returncode == 1
    assert not target.exists()
    assert said["reading"]["doubts"][0]["options"] == ["--device-column machine"]
    assert "--device-column machine" in said["stopped"][0]
    assert "--device-column machine" in stopped.stderr
    decided = edgeloop.json(*arguments, "--device-column", "machine")
    assert decided["reading"]["devices"] == {f"unit {d}": 40 for d in range(3)}
    assert target.exists()


def test_init_and_replay_decide_alike_and_both_say_it(tmp_path):
    path = write(tmp_path, Written(time="date and time", delimiter=";", decimal=",", order="newest first"))
    edgeloop, target = EdgeloopHere(tmp_path / "state"), tmp_path / "p.toml"
    first = edgeloop("profile", "init", str(path), "-o", str(target))
    assert "Date and Time" in first.stderr
    assert "newest first" in first.stderr
    again = ReplayRequest((path,), str(target)).read().read
    one, two = draft(path).record.to_json(), again.record.to_json()
    for key in ("rows", "time", "devices", "doubts"):
        assert one[key] == two[key]
    assert rows_of(again)[0] == truth(Written())[0]


@pytest.mark.parametrize("as_json", [False, True])
def test_decisions_are_said_before_anything_lands_also_beside_json(tmp_path, capsys, as_json):
    say(read(recording(tmp_path)).record, as_json=as_json, force=False)
    said = capsys.readouterr()
    assert "300 rows read, 300 used" in said.err
    assert "time: time, iso" in said.err
    assert said.out == ""


def test_a_command_with_json_says_its_decisions_on_standard_error(tmp_path):
    """And one document on standard output, whether it goes on or stops."""
    edgeloop, target = EdgeloopHere(tmp_path / "state"), tmp_path / "p.toml"
    for path in (recording(tmp_path), long_file(tmp_path, 3, True)):
        done = edgeloop("profile", "init", str(path), "-o", str(target), "--json")
        assert json.loads(done.stdout)["reading"]["rows"]["read"]
        assert "rows read" in done.stderr


def test_a_file_at_another_rate_than_the_profiles_is_doubted():
    plain = DecisionRecord((), 1, 1, {}, None, None, True, 1.0, {}, (), ())
    assert not with_rate_doubt(plain, 1.1).doubts
    assert with_rate_doubt(plain, 60.0).doubts
    assert with_rate_doubt(plain, 1 / 60).doubts


def test_a_channel_keeps_the_unit_that_it_is_registered_in(tmp_path):
    lake = Lake.open(tmp_path / "lake")
    profile = draft(recording(tmp_path)).profile
    (channel,) = profile.channels

    def in_unit(unit: str) -> Profile:
        return profile.model_copy(update={"channels": (channel.model_copy(update={"unit": unit}),)})

    for unit in ("?", "degC"):  # the draft's, and then what a person fills in
        refuse_other_units(lake, in_unit(unit))
        ProfileRegistry(lake).register(in_unit(unit))
    refuse_other_units(lake, in_unit("°C"))
    with pytest.raises(ProfileError, match="registered in degC"):
        refuse_other_units(lake, in_unit("degF"))


@pytest.mark.parametrize("name", ["Kuehlraum Süd.csv", "温度.csv", "-x-.csv"])
def test_a_devices_id_is_made_of_what_ids_allow(tmp_path, name):
    path = recording(tmp_path, name)
    ReplayRequest((path,), "machine").check()
    with pytest.raises(SourceError, match="--device"):
        ReplayRequest((path,), "machine", device="Süd").check()


def test_the_same_content_is_known_under_any_name_and_compression(tmp_path):
    one, other = recording(tmp_path), recording(tmp_path, "copy.csv")
    packed = write(tmp_path, Written(ending=".csv.gz"))
    plain = write(tmp_path, Written())
    assert content_digest([one]) == content_digest([other])
    assert content_digest([packed]) == content_digest([plain]) != content_digest([one])
    assert content_digest([one, plain]) == content_digest([plain, other])


def test_a_device_has_one_replay_at_a_time_and_others_go_on_beside_it(tmp_path):
    with alone(tmp_path / "recordings", ("pump-1", "pump-2")):
        with pytest.raises(StackError, match="pump-2"), alone(tmp_path / "recordings", ("pump-0", "pump-2")):
            pass
        with alone(tmp_path / "recordings", ("pump-0",)):
            pass
    with alone(tmp_path / "recordings", ("pump-2",)):
        pass


def test_the_time_left_follows_the_pace():
    left = Remaining(1000)
    assert left.words(0, 0.0) == "0% read"
    assert left.words(100, 10.0) == "10% read"
    assert left.words(200, 20.0) == "20% read, 1 min 20 s left"
    assert left.words(1000, 100.0) == "all read, landing"


def test_a_workbook_reads_as_the_text_of_the_same_cells(tmp_path):
    times, values = truth(Written())
    rows = [["Station North"], ["time", "druck", "fluss"]]
    rows += [[t.replace(tzinfo=None), float(a), float(b)] for t, (a, b) in zip(times, values, strict=True)]
    got, found = rows_of(read(write_workbook(tmp_path / "log.xlsx", rows)))
    assert got == times
    assert found.tolist() == values.tolist()


def test_values_out_of_range_reach_the_device_as_infinities_of_their_side(tmp_path):
    """As from a device's own source: a run of them is to be seen, and not only missing."""
    values = [20.0] * 50 + [95.0] * 4 + [-95.0] + [20.5] * 45
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{v}" for i, v in enumerate(values)]
    path = tmp_path / "hot.csv"
    path.write_text("time,heat\n" + "\n".join(lines) + "\n")
    profile = draft(path).profile
    (channel,) = profile.channels
    limits = {"min": 0.0, "max": 50.0, "usual_min": None, "usual_max": None}
    profile = profile.model_copy(update={"channels": (channel.model_copy(update=limits),)})
    write_canonical(read(path), profile, {"": "hot"}, tmp_path / "canonical")
    source = CanonicalSource(tmp_path / "canonical", profile, ["hot"])
    hop = profile.sampling.hop_samples
    sensed = np.concatenate([w.samples[-hop:, 0] for w in source.windows()])
    assert (np.isposinf(sensed).sum(), np.isneginf(sensed).sum(), np.isnan(sensed).sum()) == (4, 1, 0)
    assert source.counts["absurd"] == 5


@pytest.mark.long
@pytest.mark.kafka
def test_a_replay_is_repeatable(tmp_path):
    """The same file again is refused; with --replace exactly its rows count, once."""
    edgeloop, path, profile = Edgeloop(tmp_path / "state"), recording(tmp_path), tmp_path / "pump.toml"
    edgeloop.json("profile", "init", str(path), "-o", str(profile))
    arguments = ("replay", str(path), "--profile", str(profile))
    assert edgeloop("up").returncode == 0
    try:
        landed = "SELECT sum(n) FROM summaries WHERE feature = 'heat_last'"
        count = f"SELECT ({landed}) AS n, (FROM cut SELECT id) AS cut"
        first = edgeloop.json(*arguments)
        assert (first["balanced"], first["rows"]["sensed"], first["reading"]["rows"]["used"]) == (
            True,
            300,
            300,
        )
        before = edgeloop.json("sql", count)[0]
        again = edgeloop(*arguments)
        assert again.returncode == 1
        assert "--replace" in again.stderr
        assert edgeloop.json("sql", count)[0]["n"] == 300
        assert edgeloop.json(*arguments, "--replace")["balanced"]
        assert edgeloop.json("sql", count)[0]["n"] == 300
        assert (
            edgeloop.json("sql", "SELECT count(*) AS n FROM retired_boots WHERE reason LIKE 'replaced%'")[0][
                "n"
            ]
            == 1
        )
        assert edgeloop.json("sql", count, "--cut", str(before["cut"]))[0]["n"] == 300
        longer = recording(tmp_path, rows=400)
        assert "over the same time" in edgeloop("replay", str(longer), "--profile", str(profile)).stderr
    finally:
        edgeloop("down")


@pytest.mark.parametrize(
    ("arguments", "says", "advises"),
    [
        (("profile", "init", "pimp.csv"), "pimp.csv: no such file; did you mean pump.csv?", "name a file of"),
        (("profile", "init", "away/pump.csv"), "no such file: there is no folder away", "name a file of"),
        (("profile", "init", "p.toml"), "p.toml: is a profile, not the recording", "name a file of"),
        (("profile", "init", "notes.txt"), "is no table of measurements", "name a file of"),
        (("replay", "pimp.csv", "--profile", "p.toml"), "did you mean pump.csv?", "name a file of"),
        (("replay", "p.toml", "--profile", "p.toml"), "p.toml: is a profile", "name a file of"),
        (("replay", "pump.csv", "--profile", "q.toml"), "q.toml: no such file; did you mean", "`edgeloop"),
        (("replay", "pump.csv", "--profile", "pump.csv"), "pump.csv: is no TOML, so no profile", "`edgeloop"),
        (("replay", "pump.csv", "--profile", "folder/"), "is a folder; a profile is one", "`edgeloop"),
        (("profile", "check", "nobody"), "no profile 'nobody': shipped are machine", "`edgeloop"),
        (("profile", "init", "pump.csv", "-o", "p.toml"), "p.toml exists: give another name", ""),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_file_that_is_missing_or_another_kind_is_named_with_what_to_do(
    tmp_path, monkeypatch, arguments, says, advises
):
    monkeypatch.chdir(tmp_path)
    recording(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("bearing changed\nby Ann, in May\nsee the sheet\n")
    edgeloop = EdgeloopHere(tmp_path / "state")
    assert edgeloop("profile", "init", "pump.csv", "-o", "p.toml").returncode == 0
    refused = edgeloop(*arguments)
    assert refused.returncode == 1
    error, *hints = [line for line in refused.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert says in error
    assert [h.startswith(f"hint: {advises}") for h in hints] == ([True] if advises else [])
    assert not (tmp_path / "state").exists(), "nothing was started"
