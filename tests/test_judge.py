"""The judge's plumbing, without ROSS: its recordings reach the edge, its page shows what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.figure_page import END, FigurePage
from benchmarks.judge.judge_environment import pins_of
from benchmarks.judge.machine import machine_judge, rig_fleets
from benchmarks.judge.machine.machine_outcome import JudgedOutcome
from benchmarks.judge.machine.machine_page import BEGIN, figures
from benchmarks.judge.machine.rig_playback import CHANNELS, RigChange, RotorResponses, rig_samples
from benchmarks.judge.machine.run_picture import run_picture
from benchmarks.judge.machine.share_interval import share_interval
from benchmarks.judge.wearable import wearable_judge, wearable_page
from edge_producer.inference import load_predictor
from schemas.profile_file import find_profile

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")
RATE, SECONDS = 512, 4


def rotor() -> RotorResponses:
    """Not of ROSS: one harmonic for what a rotor does, another for what each fault adds."""
    speeds, severities = np.array([18.0, 20.0, 24.0]), np.array([0.5, 1.0])

    def at(harmonic: int, size: float) -> np.ndarray:
        table = np.zeros((3, 4), dtype=complex)
        table[:, harmonic - 1] = size
        return table

    bent = np.stack([at(2, 0.5), at(2, 1.0)])
    rubbed = np.stack([s * np.sin(2 * np.pi * 5 * np.arange(400) / 100) for s in severities])
    return RotorResponses(speeds, at(1, 1.0), at(1, 2.0), severities, bent, rubbed, np.array([1.0, 2.0]), 100)


def amplitude(samples: np.ndarray, hz: float) -> float:
    """Largest line of the vibration's spectrum near a frequency, in the fault's own seconds."""
    part = samples[-2 * RATE :, 0]
    lines = 2 * np.abs(np.fft.rfft(part)) / len(part)
    around = round(2 * hz)
    return float(np.sqrt((lines[around - 3 : around + 4] ** 2).sum()))


@pytest.mark.parametrize(
    ("kind", "hz", "added"), [("unbalance", 20.0, 2.0), ("misalignment", 40.0, 1.0), ("rub", 100.0, 1.0)]
)
def test_a_fault_adds_its_own_harmonic_from_its_onset_on_and_in_proportion(kind, hz, added):
    healthy = rig_samples(rotor(), 1, 0, SECONDS, RATE, ())
    by_size = {
        size: rig_samples(rotor(), 1, 0, SECONDS, RATE, (RigChange(kind, 1.0, size),))
        for size in (0.25, 0.5, 1.0)
    }
    for size, found in by_size.items():
        assert np.array_equal(found[:RATE, 0], healthy[:RATE, 0]), "nothing moves before the onset"
        rise = amplitude(found, hz) - amplitude(healthy, hz)
        assert rise == pytest.approx(size * added, rel=0.1, abs=0.03)


def test_recordings_reach_the_edge_through_its_source_window_by_window(tmp_path):
    profile = find_profile(rig_fleets.PROFILE)
    warm = RigChange("offset", 2.0, 6.0, channel="temperature", machines=(0, 3))
    rig_fleets.record(tmp_path, 5, (warm,), [rotor()], SECONDS)
    features, scores = rig_fleets.edge_view(tmp_path, profile, load_predictor(profile))
    assert features.shape == (rig_fleets.DEVICES, SECONDS, len(profile.feature_names))
    assert scores.shape == features.shape[:2]
    assert np.isfinite(features).all()
    temperature = features[:, :, profile.feature_names.index("temperature_mean")]
    rise = temperature[:, 2:].mean(axis=1) - temperature[:, :2].mean(axis=1)
    assert rise[[0, 3]] == pytest.approx(6.0, abs=0.3)
    assert np.abs(np.delete(rise, [0, 3])).max() < 0.3
    own = rig_samples(rotor(), 5, 4, SECONDS, RATE, ())[:RATE, CHANNELS.index("temperature")].mean()
    assert temperature[4, 0] == pytest.approx(own, rel=1e-4)


def test_the_page_shows_the_stored_results_and_nothing_else():
    stored = machine_judge.read_results()
    text = (ROOT / machine_judge.PAGE).read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == figures(stored, machine_judge.outcomes_of(stored)).strip()
    picture = (ROOT / machine_judge.PAGE).with_name(machine_judge.PICTURE)
    assert picture.read_text(encoding="utf-8") == run_picture(stored["run"])


def test_the_page_of_wearables_shows_the_stored_results_and_nothing_else():
    stored = json.loads(wearable_judge.RESULTS.read_text(encoding="utf-8"))
    page = FigurePage()
    wearable_page.figures(page, stored)
    text = (ROOT / wearable_judge.PAGE).read_text(encoding="utf-8")
    shown = text.partition(wearable_page.BEGIN)[2].partition(END)[0]
    assert shown.strip() == "\n".join(page.lines).strip()
    picture = (ROOT / wearable_judge.PAGE).with_name(wearable_judge.PICTURE)
    assert picture.read_text(encoding="utf-8") == wearable_page.onset_picture(stored["onsets"]["pictured"])


def test_a_model_signed_before_the_change_has_not_learnt_it():
    def outcome(signed: list[int]) -> JudgedOutcome:
        return JudgedOutcome("own", "rub", 0, 1.0, 0.0, 200, 9, 0, 1, 0, [], 0, 0, 0, [], signed, signed, [])

    assert not outcome([]).learnt
    assert not outcome([150]).learnt
    assert outcome([150, 260]).learnt


@pytest.mark.parametrize(("successes", "trials"), [(0, 40), (1, 40), (24, 30), (30, 30)])
def test_intervals_are_those_of_clopper_and_pearson(successes, trials):
    found = share_interval(successes, trials)
    exact = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-6)


@pytest.mark.parametrize(
    ("judge", "needs"),
    [
        ("machine", (r"ross-rotordynamics==2\.3\.0 ", r"plotly==[1-5]\.")),
        ("traffic", (r"eclipse-sumo==",)),
        ("wearable", (r"neurokit2==",)),
    ],
)
def test_pins_of_a_judge_are_hashed_exact_and_name_no_index(judge, needs):
    text = pins_of(judge).read_text(encoding="utf-8")
    assert all(re.search(rf"(?m)^{need}", text) for need in needs)
    entries = [e for e in re.split(r"\n(?=\S)", text.strip()) if e and not e.startswith("#")]
    assert all(re.match(r"[a-z0-9.-]+==\S+", e) and "--hash=sha256:" in e for e in entries)
    assert "://" not in text


def test_no_module_of_the_product_knows_a_judge():
    judges = "ross|traci|libsumo|sumolib|mujoco|neurokit2|wfdb|benchmarks"
    names = re.compile(rf"(?m)^\s*(?:from|import)\s+(?:{judges})\b")
    assert names.search("import numpy\nfrom benchmarks.judge import x\n")
    known = [p for room in ROOMS for p in (ROOT / room).rglob("*.py") if names.search(p.read_text("utf-8"))]
    assert known == []
