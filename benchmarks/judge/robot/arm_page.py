"""The figures of docs/verticals/robot.md, and a picture of one strike, from stored results. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.figure_page import FigurePage
from benchmarks.judge.machine.share_interval import share_interval
from benchmarks.judge.robot.lock_step import REACTIONS

BEGIN = "<!-- figures: make judge -->"
PICTURE = "robot-run.svg"
SOON_S = 2.0
"""After a change of the payload: a stop within it is laid to the change."""
_LEFT, _WIDTH, _HEIGHT = 60, 620, 220
_COLOURS = {"none": "#999", "cloud 150 ms": "#c60", "cloud 50 ms": "#27a", "local": "#283"}
Results = Sequence[dict[str, Any]]


def figures(stored: Results) -> str:
    """Markdown of the figures."""
    page = FigurePage()
    strikes = [r for r in stored if r["what"] == "strike"]
    free = [r for r in stored if r["what"] != "strike"]
    if not any(r["model"] for r in strikes):
        return "Not measured yet: `make judge JUDGES=robot` does it.\n"
    loads = [r["load"] for r in stored]
    page.say(
        f"{len(strikes)} strikes and {sum(r['seconds'] for r in free):.0f} s of free motion, "
        f"while the machine had a load of {min(loads):g} to {max(loads):g} from other work."
    )
    page.lines += ["", "### Strikes"]
    page.say(
        "Medians over payloads and seeds, worst in brackets. *Depth*: how far the plate is pushed from the "
        "first touch until it yields no more; *force*: of the spring and damper behind it. *Order*: from the "
        "touch to the instant at which the arm has its last order (a stop may be followed by a retreat); "
        "*missed*: none came. *Early*: one came, or was in force, before the touch."
    )
    names = sorted({r["model"] for r in strikes if r["model"]}, reverse=True)
    rows = []
    for model in names:
        for speed in sorted({r["speed"] for r in strikes}):
            for reaction in REACTIONS:
                found = [
                    r
                    for r in strikes
                    if (r["speed"], r["reaction"]) == (speed, reaction) and r["model"] in (model, None)
                ]
                if found:
                    rows.append([model, f"{speed:g}", reaction, *_strike_cells(found)])
    heads = [
        "model",
        "speed",
        "decided",
        "touch at, m/s",
        "depth, mm",
        "force, N",
        "order, ms",
        "missed",
        "early",
    ]
    page.table(heads, rows)
    _payloads(page, strikes, names)
    page.lines += ["", "### False stops"]
    page.table(
        ["model", "payload", "s", "stops", "an hour", "changes followed by a stop", "decision p50, p99, ms"],
        [_free_cells(free, model, what) for model in names for what in ("steady", "changing")],
    )
    _latencies(page, strikes, names)
    page.lines += ["", f"![Force of one strike, by where it was decided]({PICTURE})"]
    return "\n".join(page.lines).strip() + "\n"


def _strike_cells(found: Results) -> list[str]:
    touched = [r for r in found if r["touched_s"] is not None]
    orders = [1e3 * (r["ordered_s"] - r["touched_s"]) for r in touched if r["ordered_s"] is not None]
    late = [o for o in orders if o >= 0]
    return [
        _median([r["speed_m_s"] for r in touched], "{:.2f}"),
        _worst([1e3 * r["deepest_m"] for r in touched], "{:.1f}"),
        _worst([r["peak_n"] for r in touched], "{:.0f}"),
        _worst(late, "{:.0f}"),
        f"{sum(r['ordered_s'] is None for r in found)} of {len(found)}" if found[0]["model"] else "-",
        f"{sum(r['early'] for r in found)} of {len(found)}" if found[0]["model"] else "-",
    ]


def _payloads(page: FigurePage, strikes: Results, names: Sequence[str]) -> None:
    """Depth by payload, without a reflex and local, at all speeds."""
    rows = []
    for model in names:
        for payload in sorted({r["payload_kg"] for r in strikes}):
            cells = []
            for reaction in ("none", "local"):
                found = [
                    1e3 * r["deepest_m"]
                    for r in strikes
                    if (r["payload_kg"], r["reaction"]) == (payload, reaction) and r["model"] in (model, None)
                ]
                cells.append(_worst(found, "{:.1f}"))
            rows.append([model, f"{payload:g}", *cells])
    page.table(["model", "payload, kg", "depth without reflex, mm", "depth local, mm"], rows)


def _free_cells(free: Results, model: str, what: str) -> list[str]:
    found = [r for r in free if (r["model"], r["what"]) == (model, what)]
    seconds, stops = sum(r["seconds"] for r in found), sum(len(r["stops"]) for r in found)
    changes = [(r, at) for r in found for at in r["changes"]]
    after = sum(any(at <= s <= at + SOON_S for s in r["stops"]) for r, at in changes)
    share = f"{after} of {len(changes)}: {share_interval(after, len(changes)).text}" if changes else "-"
    middle = np.median([r["decide_ms"][0] for r in found]) if found else np.nan
    late = max((r["decide_ms"][1] for r in found), default=np.nan)
    hourly = f"{3600 * stops / seconds:.0f}" if seconds else "-"
    return [model, what, f"{seconds:.0f}", str(stops), hourly, share, f"{middle:.2f}, {late:.2f}"]


def _latencies(page: FigurePage, strikes: Results, names: Sequence[str]) -> None:
    for model in names:
        taken = [ms for r in strikes if r["model"] == model for ms in r["decisions_ms"]]
        if taken:
            p50, p99 = np.quantile(taken, [0.5, 0.99])
            page.say(
                f"*{model}*: from the window's last sample to the actuator's receipt {p50:.2f} ms at the "
                f"median, {p99:.2f} ms at p99, {max(taken):.2f} ms at most, of {len(taken)} actions."
            )


def _median(values: Sequence[float], form: str) -> str:
    return form.format(float(np.median(values))) if len(values) else "-"


def _worst(values: Sequence[float], form: str) -> str:
    if not len(values):
        return "-"
    return f"{form.format(float(np.median(values)))} ({form.format(max(values))})"


def run_picture(stored: Results) -> str:
    """Force by time of one strike, by where it was decided, as SVG."""
    names = [r["model"] for r in stored if r["what"] == "strike" and r["model"]]
    model = "factory" if "factory" in names else "fitted"
    runs = {r["reaction"]: r for r in stored if "trace" in r and r["model"] in (model, None)}
    first = next(iter(runs.values()))
    begin = first["trace"][0][0]
    most = max(point[1] for r in runs.values() for point in r["trace"]) * 1.05
    length = max(r["trace"][-1][0] for r in runs.values()) - begin
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {_HEIGHT + 80}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="14">Force on the plate, N: speed {first["speed"]:g}, payload '
        f"{first['payload_kg']:g} kg, model {model}</text>",
        f'<rect x="{_LEFT}" y="24" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ccc"/>',
        f'<text x="{_LEFT - 6}" y="34" text-anchor="end">{most:.0f}</text>',
        f'<text x="{_LEFT - 6}" y="{24 + _HEIGHT}" text-anchor="end">0</text>',
        f'<text x="{_LEFT + _WIDTH}" y="{38 + _HEIGHT}" text-anchor="end">{1e3 * length:.0f} ms</text>',
    ]
    for number, (reaction, run) in enumerate(runs.items()):
        points = " ".join(
            f"{_LEFT + _WIDTH * (t - begin) / length:.1f},{24 + _HEIGHT * (1 - max(f, 0.0) / most):.1f}"
            for t, f, _ in run["trace"]
        )
        colour, x = _COLOURS[reaction], _LEFT + number * 150
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        parts.append(f'<text x="{x}" y="{_HEIGHT + 60}" fill="{colour}">{reaction}</text>')
    return "".join([*parts, "</svg>"]) + "\n"
