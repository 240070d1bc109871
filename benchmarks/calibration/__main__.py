"""`python -m benchmarks.calibration [--write]`: personal baselines on held-out wearers, as tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from benchmarks.calibration.baseline_scores import (
    COUNTS,
    FALSE_ALARMS,
    ILL_RISE,
    METHODS,
    RISE,
    MethodScore,
    method_scores,
    wearer_scores,
)
from benchmarks.calibration.simulated_wearers import MINUTES, SimulatedWearer, minute_summaries, population
from benchmarks.figure_page import FigurePage, replace_figures
from model_service.training.config_interface import ConfigInputs
from model_service.verticals.wearable.prior_trainer import train_prior
from schemas.config_spec import ConfigSpec, ParameterSpec
from schemas.profile_file import parse_profile
from schemas.verticals.wearable.wearer_prior import FeaturePrior, prior_of

PAGE = Path(__file__).parents[2] / "docs" / "verticals" / "calibration.md"
BEGIN = "<!-- figures: python -m benchmarks.calibration --write -->"
SEED, LEARNT_FROM, FEW, HELD_OUT, DAYS = 20261129, 40, 6, 120, 3
SHORT = (30, 600, 9600)
FEATURE = "pulse_mean"
PROFILE = """
name = "worn"
[sampling]
rate_hz = 0.1
window_samples = 1
hop_samples = 1
[[channels]]
name = "pulse"
unit = "1/min"
min = 0.0
max = 300.0
[features]
set = "worn"
[[features.compute]]
channel = "pulse"
kinds = ["mean"]
[decision]
fail_safe = "hold"
[[decision.rules]]
action = "look"
enter = 0.6
leave = 0.4
[filter]
p = 1.0
p_min = 0.05
[summaries]
period_s = 60.0
[drift]
window_s = 60.0
"""
BOUNDS = {
    "mean": (30.0, 120.0), "between": (0.5, 25.0), "low": (30.0, 120.0), "high": (30.0, 120.0),
    "within": (0.5, 25.0), "within_sd": (0.05, 1.5), "within_low": (0.5, 25.0), "within_high": (0.5, 25.0),
    "design": (1.0, 360.0),
}  # fmt: skip


QUIET = {"quiet_quality_mean_least": (0.8, 0.8), "quiet_motion_mean_most": (0.5, 0.5), "alarm_z": (3.0, 6.0)}


def learnt_prior(wearers: Sequence[SimulatedWearer]) -> FeaturePrior:
    """What the shipped trainer makes of these wearers' summaries."""
    named = {f"{FEATURE}_{part}": ends for part, ends in BOUNDS.items()} | QUIET
    parameters = tuple(ParameterSpec(name=n, unit="1", min=low, max=high) for n, (low, high) in named.items())
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    inputs = ConfigInputs(
        profile=parse_profile(PROFILE, "worn"),
        spec=ConfigSpec(family="prior", trainer="wearable_prior", every_s=86400.0, parameters=parameters),
        group="default",
        devices={},
        event_from=begin,
        event_to=begin,
        earliest=begin,
        seed=SEED,
        before={},
        rows=lambda: pa.table({}),
        summaries=lambda: minute_summaries(wearers, DAYS * MINUTES, begin),
    )
    prior = prior_of(train_prior(inputs).parameters)
    if prior is None:
        raise ValueError("the trainer gave no prior")
    return prior.features[FEATURE]


def scored(
    prior: FeaturePrior, wearers: Sequence[SimulatedWearer], counts: Sequence[int] = COUNTS, ill: float = 0.0
) -> list[tuple[int, int, dict[str, MethodScore]]]:
    """Number of windows, number of wearers who reach it, and each method's score."""
    found = [wearer_scores(prior, wearer, counts, ill) for wearer in wearers]
    rows = []
    for count in counts:
        own = [of[count] for of in found if count in of]
        rows.append((count, len(own), method_scores(own, SEED)))
    return rows


def table(page: FigurePage, rows: Sequence[tuple[int, int, dict[str, MethodScore]]]) -> None:
    """One line a number of windows."""
    methods = [f"{name}: {what}" for what in ("error", "detected") for name in METHODS]
    lines = []
    for count, number, of in rows:
        errors = [f"{of[name].rms_error:.1f}" for name in METHODS]
        shares = [f"{of[n].detected:.0%} ({of[n].low:.0%} to {of[n].high:.0%})" for n in METHODS]
        lines.append([f"{count:,}", str(number), *errors, *shares])
    page.table(["quiet windows", "wearers", *methods], lines)


def figures() -> str:
    """The tables, as Markdown."""
    page = FigurePage()
    usual, held_out = population(LEARNT_FROM, SEED, "seen"), population(HELD_OUT, SEED + 1, "held")
    prior = learnt_prior(usual)
    page.say(
        f"Prior from {LEARNT_FROM} wearers over {DAYS} days, judged on {HELD_OUT} others. Errors are root "
        "mean squares of the own mean, 1/min. Detected is the share of quiet windows that deviate while the "
        f"pulse is {RISE:g}/min up, where {FALSE_ALARMS:.0%} of usual ones deviate (all wearers weigh alike, "
        "one limit for all); 95 % intervals draw wearers anew. A window is ten seconds."
    )
    table(page, scored(prior, held_out))
    page.say(
        f"The prior: mean {prior.mean:.1f}, between wearers {prior.between:.1f}, own means within "
        f"{prior.low:.1f} to {prior.high:.1f}, within a wearer {prior.within:.1f} (log-spread "
        f"{prior.within_sd:.2f}), one window in {prior.design:.0f} counts."
    )
    page.say(f"**Prior from {FEW} wearers.**")
    table(page, scored(learnt_prior(usual[:FEW]), held_out, SHORT))
    page.say("**Wearers of another population**: all are trained, and the prior knows few such.")
    table(page, scored(prior, population(HELD_OUT, SEED + 2, "other", trained=1.0), SHORT))
    page.say(f"**Ill while calibrating**: the pulse is {ILL_RISE:g}/min up in every window that is learnt.")
    table(page, scored(prior, held_out, SHORT, ILL_RISE))
    return "\n".join(page.lines)


def main() -> None:
    """Print the tables, or put them into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    options = parser.parse_args()
    text = figures()
    print(text)
    if options.write:
        replace_figures(PAGE, BEGIN, text)


if __name__ == "__main__":
    main()
