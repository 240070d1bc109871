"""A picture of a judged history as SVG: each device's score over time, the threshold, alarms, parts. Pure."""

from __future__ import annotations

from html import escape

import numpy as np

from infra.printing import instant
from model_service import first_model
from schemas.instants import from_us

WIDTH, HEIGHT, GAP, LEFT, TOP = 960, 110, 34, 46, 22
POINTS = 900
"""Columns of the picture: of more windows than that, each column shows the highest score."""
SHOWN_DEVICES = 8


def score_picture(judged: first_model.JudgedHistory, enter: float) -> str:
    """The picture; of many devices those with the most alarms."""
    alarms = [int(judged.alarm[judged.device == n].sum()) for n in range(len(judged.devices))]
    order = sorted(range(len(judged.devices)), key=lambda n: (-alarms[n], n))[:SHOWN_DEVICES]
    panels = [_panel(judged, number, enter, at) for at, number in enumerate(sorted(order))]
    height = TOP + len(panels) * (HEIGHT + GAP)
    return (
        f'<svg viewBox="0 0 {LEFT + WIDTH + 8} {height}" role="img" '
        'aria-label="Score over time, with the threshold and the alarms">' + "".join(panels) + "</svg>"
    )


def _panel(judged: first_model.JudgedHistory, number: int, enter: float, place: int) -> str:
    mine = judged.device == number
    us, score = judged.end_us[mine], judged.score[mine]
    top = TOP + place * (HEIGHT + GAP)
    first, last = int(us[0]), max(int(us[-1]), int(us[0]) + 1)

    def x(at: int) -> float:
        return LEFT + WIDTH * (at - first) / (last - first)

    def y(value: float) -> float:
        return top + HEIGHT * (1 - value)

    parts = [f'<text x="{LEFT}" y="{top - 6}">{escape(judged.devices[number])}</text>']
    for flags, style in ((judged.test, "test"), (judged.excluded, "excluded"), (judged.faulty, "faulty")):
        parts += [
            f'<rect class="{style}" x="{x(int(us[a])):.1f}" y="{top}" '
            f'width="{max(x(int(us[b])) - x(int(us[a])), 1):.1f}" height="{HEIGHT}"/>'
            for a, b in _runs(flags[mine])
        ]
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in _columns(us, score))
    parts += [
        f'<line class="enter" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y(enter):.1f}" y2="{y(enter):.1f}"/>',
        f'<polyline points="{points}"/>',
        *(
            f'<circle class="alarm" cx="{x(int(at)):.1f}" cy="{y(float(value)):.1f}" r="4"/>'
            for at, value in zip(us[judged.alarm[mine]], score[judged.alarm[mine]], strict=True)
        ),
        f'<text x="4" y="{y(1) + 10:.1f}">1</text><text x="4" y="{y(0):.1f}">0</text>',
        f'<text x="{LEFT}" y="{top + HEIGHT + 14}">{instant(from_us(first))}</text>',
        f'<text x="{LEFT + WIDTH}" y="{top + HEIGHT + 14}" text-anchor="end">{instant(from_us(last))}</text>',
    ]
    return "".join(parts)


def _columns(us: np.ndarray, score: np.ndarray) -> list[tuple[int, float]]:
    """Time and highest score of each column that has one."""
    shown = []
    for part in np.array_split(np.arange(len(us)), min(POINTS, len(us))):
        values = score[part]
        if np.isfinite(values).any():
            best = int(np.nanargmax(values))
            shown.append((int(us[part[best]]), float(values[best])))
    return shown


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
