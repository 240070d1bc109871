"""The figures of docs/verticals/wearable.md, and the picture of one onset."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks.figure_page import FigurePage
from benchmarks.judge.wearable.alarm_benefit import WAYS, alarmed_after_s, within_beats
from benchmarks.judge.wearable.beat_recording import BeatCount
from benchmarks.judge.wearable.own_wearers import AFTER_S

BEGIN = "<!-- figures: make judge -->"
NAMES = {"fast": "fast", "irregular": "irregular", "pause": "no beat any more"}
_LEFT, _WIDTH, _HEIGHT, _GAP = 50, 640, 130, 36


def figures(page: FigurePage, found: dict[str, Any]) -> None:
    """Every part that was measured."""
    if "record" in found:
        _record(page, found["record"])
    if "beats" in found:
        _beat_days(page, found["beats"])
    if "neurokit" in found:
        _neurokit(page, found["neurokit"])
    if "onsets" in found:
        _onsets(page, found["onsets"])
        _benefit(page, found["onsets"])
    if "own" in found:
        _own(page, found["own"])
    if "pulses" in found:
        _pulses(page, found["pulses"])
    lacking = {"record", "beats", "neurokit", "onsets", "own", "pulses"} - found.keys()
    if lacking:
        page.say(f"Not measured: {', '.join(sorted(lacking))}.")


def rate_interval(events: int, days: float) -> tuple[float, float]:
    """The exact 95 % interval of a rate a day, by bisection of Poisson tails."""

    def tail(mean: float, most: int) -> float:
        return math.fsum(math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(most + 1))

    def solve(most: int, share: float) -> float:
        low, high = 1e-9, 10.0 * (events + 5)
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(middle, most) > share else (low, middle)
        return low

    least = solve(events - 1, 0.975) if events else 0.0
    return least / days, solve(events, 0.025) / days


def share_interval(hits: int, of: int) -> tuple[float, float]:
    """The exact 95 % interval of a share (Clopper and Pearson 1934)."""
    low = float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0


def _share(hits: int, of: int) -> str:
    low, high = share_interval(hits, of)
    return f"{hits} of {of} ({low:.0%} to {high:.0%})"


def _record(page: FigurePage, part: dict[str, Any]) -> None:
    page.lines += ["", "### Beats of record 100"]
    rows = [("none", part["clean"], None)]
    rows += [(f"{float(snr):g}", row, row["usable"]) for snr, row in part["noisy"].items()]
    page.table(
        ("added white noise, SNR in dB", "beats", "found", "extra", "sensitivity", "predictivity", "usable"),
        [_beats(name, row, "" if usable is None else f"{usable:.0%}") for name, row, usable in rows],
    )
    page.say(
        "Noise is added to the first ten minutes. SNR is the record's own variance over that of the noise. "
        "*usable* is the share of windows whose signal quality is above a half. "
        f"{_falls(part)}"
    )
    alarms = [a for a in part["alarms"] if a[1] != "check_electrode"]
    low, high = rate_interval(len(alarms), part["days"])
    page.say(
        f"Alarms on the record as it is (34 ectopic beats, no alarming rhythm): {len(alarms)} in "
        f"{part['days'] * 24:.2f} hours, {len(alarms) / part['days']:.1f} a wearer-day, interval {low:.1f} "
        f"to {high:.0f}. Scores: median {part['scores'][0]:g}, 99 % {part['scores'][1]:g}, highest "
        f"{part['scores'][2]:g}."
    )


def _falls(part: dict[str, Any]) -> str:
    low = [
        float(s)
        for s, row in part["noisy"].items()
        if min(_count(row).sensitivity, _count(row).predictivity) < 0.99
    ]
    if not low:
        return "Neither falls below 99 % at any of these."
    return f"Either is below 99 % from {max(low):g} dB down, and above it at the next weaker noise."


def _count(row: dict[str, Any]) -> BeatCount:
    return BeatCount(row["there"], row["hit"], row["extra"])


def _beats(name: str, row: dict[str, Any], last: str) -> list[str]:
    count = _count(row)
    shares = (f"{count.sensitivity:.2%}", f"{count.predictivity:.2%}")
    return [name, str(count.there), str(count.hit), str(count.extra), *shares, last]


def _neurokit(page: FigurePage, part: dict[str, Any]) -> None:
    page.lines += ["", "### Beats of neurokit2"]
    heads = ("rate, its noise", "beats", "found", "extra", "sensitivity", "predictivity", "SNR in dB")
    rows = [
        _beats(f"{r['rate']}, {r['noise']:g}", r, "none" if r["snr"] is None else f"{r['snr']:g}")
        for r in sorted(part["hearts"], key=lambda r: (r["rate"], r["noise"]))
    ]
    page.table(heads, rows)
    for rate in sorted({r["rate"] for r in part["hearts"]}):
        own = [r for r in part["hearts"] if r["rate"] == rate]
        low = [r for r in own if min(_count(r).sensitivity, _count(r).predictivity) < 0.99]
        if low:
            first = min(low, key=lambda r: float(r["noise"]))
            page.say(
                f"At {rate}/min either is below 99 % from noise {first['noise']:g} on ({first['snr']:g} dB)."
            )
        else:
            page.say(f"At {rate}/min neither falls below 99 % at any of these.")


_HEARTS = (
    "hearts",
    "days",
    "two short intervals, as shipped: alarms",
    "a wearer-day",
    "three: alarms",
    "a wearer-day",
)


def _beat_days(page: FigurePage, part: dict[str, Any]) -> None:
    page.lines += ["", "### False alarms and delays by the beats alone"]
    rows = []
    for name, own in {"our own wearers": part["own"], **part["hearts"]}.items():
        row = [name, f"{own['days']:.2f}"]
        for rule in ("two", "three"):
            row += [str(own[rule]), _rate(own[rule], own["days"])] if rule in own else ["", ""]
        rows.append(row)
    page.table(_HEARTS, rows)
    rows = []
    for name, rules in part["onsets"].items():
        for rule, found in rules.items():
            delays = [d for d, _ in found if d is not None]
            seconds = [s for _, s in found if s is not None]
            rows.append(
                [
                    name,
                    rule,
                    _share(len(delays), len(found)),
                    _share(sum(d <= 2.0 for d in delays), len(found)),
                    _spread(delays),
                    _spread(seconds),
                ]
            )
    page.table(("rhythm", "short intervals", "alarmed", "within two beats", "beats", "s"), rows)


def _spread(values: list[float]) -> str:
    if not values:
        return "none"
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _rate(events: int, days: float) -> str:
    low, high = rate_interval(events, days)
    return f"{events / days:.1f} ({low:.1f} to {high:.1f})"


def _onsets(page: FigurePage, part: dict[str, Any]) -> None:
    page.lines += ["", "### Constructed onsets", "", "![One of them](wearable-onset.svg)"]
    rows = []
    for rhythm, runs in [(r, part["rhythms"][r]) for r in NAMES]:
        delays = [r["delay"] for r in runs if r["delay"] is not None]
        seconds = [r["delay_s"] for r in runs if r["delay_s"] is not None]
        actions = sorted({a for r in runs for a in r["actions"]})
        rows.append(
            [
                NAMES[rhythm],
                _share(len(delays), len(runs)),
                _share(sum(d <= 2.0 for d in delays), len(runs)),
                _spread(delays),
                _spread(seconds),
                ", ".join(f"`{a}`" for a in actions) or "none",
                str(sum(r["before"] for r in runs)),
                str(sum(r["lost"] for r in runs)),
            ]
        )
    page.table(
        (
            "rhythm",
            "alarmed",
            "within two beats",
            "delay in beats",
            "in s",
            "actions",
            "alarms before",
            "called a lost electrode",
        ),
        rows,
    )
    page.say(
        "Premature beats of the record, set as early as they come, which no alarm of rhythm is wanted for:"
    )
    told: list[list[str]] = []
    for rhythm, runs in part["rhythms"].items():
        if rhythm not in NAMES:
            hit = [r for r in runs if r["delay"] is not None]
            named = ", ".join(f"`{a}`" for a in sorted({a for r in hit for a in r["actions"]}))
            told.append([_ECTOPIC[rhythm], _share(len(hit), len(runs)), named or "none"])
    page.table(("premature beats", "alarmed within 40 s", "actions"), told)


def _benefit(page: FigurePage, part: dict[str, Any]) -> None:
    page.lines += ["", "### What an alarm at the wearer saves"]
    page.say(
        "The onsets above: how many are alarmed within two beats, and the median of seconds until the alarm, "
        "by where it is decided. The device's delays are measured; the cloud has the same model and the same "
        "windows, and its alarm comes so much later."
    )
    rows = []
    for rhythm, runs in [(r, part["rhythms"][r]) for r in NAMES]:
        found = [None if r["delay"] is None else (r["delay"], r["delay_s"]) for r in runs]
        seconds = [delay[1] for delay in found if delay]
        cells = [(within_beats(found, way), [alarmed_after_s(s, way) for s in seconds]) for way in WAYS]
        rows.append([NAMES[rhythm], *(f"{n} of {len(runs)}; {_median_s(after)}" for n, after in cells)])
    page.table(("rhythm", *(way.name for way in WAYS)), rows)


def _median_s(seconds: list[float]) -> str:
    middle = float(np.median(seconds)) if seconds else math.inf
    return f"{middle:.1f} s" if math.isfinite(middle) else "never"


_ECTOPIC = {
    "premature": "single ones, 4 to 11 usual beats between",
    "couplet": "two in a row, once",
    "trigeminy": "after each two usual beats",
    "bigeminy": "after each usual beat",
}


def _own(page: FigurePage, part: dict[str, Any]) -> None:
    page.lines += ["", "### Our own wearers"]
    rows = []
    for kind, runs in part["faults"].items():
        seconds = [r["delay_s"] for r in runs if r["delay_s"] is not None]
        first = sorted({action for r in runs for _, action in r["first"]})
        middle = f"{np.median(seconds):.1f} ({max(seconds):.1f})" if seconds else "none"
        rows.append(
            [f"`{kind}`", f"{len(seconds)} of {len(runs)}", middle, ", ".join(f"`{a}`" for a in first)]
        )
    page.table(("fault", f"alarmed within {AFTER_S:g} s", "median (longest) delay, s", "first action"), rows)
    actions = part["alarms"]
    rhythm = sum(n for action, n in actions.items() if action != "check_electrode")
    low, high = rate_interval(rhythm, part["days"])
    page.say(
        f"Healthy, with walks, artefacts and premature beats: {rhythm} alarms of rhythm and "
        f"{actions.get('check_electrode', 0)} calls to check the electrode in {part['days'] * 24:.1f} hours "
        f"of {part['wearers']} wearers, {part['usable_days'] / part['days']:.0%} of it usable; "
        f"of rhythm {rhythm / part['days']:.1f} a wearer-day, interval {low:.1f} to {high:.0f}."
    )


def _pulses(page: FigurePage, part: dict[str, Any]) -> None:
    page.lines += ["", "### PPG files"]
    page.table(
        (
            "file",
            "s",
            "windows (expected)",
            "raw bytes",
            "bytes of features sent",
            "usable",
            "pulse in 2 s",
            "alarms",
        ),
        [
            [
                r["file"],
                f"{r['seconds']:g}",
                f"{r['windows']} ({r['expected']})",
                f"{r['raw_bytes']:,}",
                f"{r['feature_bytes']:,}",
                f"{r['usable']:.0%}",
                f"{r['pulse_seen']:.0%}",
                str(r["alarms"]),
            ]
            for r in part["files"]
        ],
    )


def onset_picture(run: dict[str, Any]) -> str:
    """ECG and score around one constructed onset, as SVG."""
    height = 2 * (_HEIGHT + _GAP) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="14">real beats, spliced to a fast rhythm from the red line on</text>',
    ]
    span = max(run["end_s"][-1], len(run["ecg"]) / 125)
    ecg = list(zip(np.arange(len(run["ecg"])) / 125, run["ecg"], strict=True))
    panels = (
        ("ECG, mV", ecg, None),
        ("score", list(zip(run["end_s"], run["score"], strict=True)), run["enter"]),
    )
    for number, (title, points, line) in enumerate(panels):
        top = 24 + number * (_HEIGHT + _GAP)
        low = min(0.0, *(float(v) for _, v in points))
        high = max(1.0, *(float(v) for _, v in points))

        def at(t: float, v: float, top: int = top, low: float = low, high: float = high) -> str:
            return f"{_LEFT + t / span * _WIDTH:.1f},{top + _HEIGHT * (1 - (v - low) / (high - low)):.1f}"

        x = _LEFT + run["onset_s"] / span * _WIDTH
        drawn = " ".join(at(float(t), float(v)) for t, v in points)
        parts += [
            f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ccc"/>',
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + _HEIGHT}" stroke="#c33"/>',
            f'<polyline points="{drawn}" fill="none" stroke="#246"/>',
            f'<text x="{_LEFT}" y="{top + _HEIGHT + 14}">{title}, {span:.0f} s</text>',
        ]
        if line is not None:
            ends = f"{at(0.0, line)} {at(span, line)}"
            parts.append(f'<polyline points="{ends}" fill="none" stroke="#3a7"/>')
    return "".join([*parts, "</svg>"]) + "\n"
