"""Trips of the judge: Poisson arrivals by seed; shares nothing with the product's own demand."""

from __future__ import annotations

import random
from pathlib import Path

QUARTERS = (0.8, 1.1, 1.1, 0.9)
"""Demand of each quarter of an hour, as a share of the mean."""
QUARTER_S = 900
GRID_ENTRY_PER_H = {"left": 330.0, "right": 330.0, "top": 250.0, "bottom": 250.0}
"""Vehicles an hour of each of a side's four entries."""
GRID_STRAIGHT = 0.5
"""Share that leaves at the entry's own row or column, opposite; the others anywhere but where they came
in."""
MAIN_PER_H = {"east": 950.0, "west": 700.0}
"""Vehicles an hour along the whole arterial, by direction."""
SIDE_PER_H = 200.0
"""Vehicles an hour of each side street's approach: two thirds straight on, the others turn into the
arterial."""
TURN_PER_H = 60.0
"""Vehicles an hour from each end of the arterial into each side street."""

Pair = tuple[str, str]


def grid_pairs() -> dict[Pair, float]:
    """Vehicles an hour from edge to edge of the grid."""
    sides = {
        "left": [(f"left{k}A{k}", f"D{k}right{k}") for k in range(4)],
        "right": [(f"right{k}D{k}", f"A{k}left{k}") for k in range(4)],
        "top": [(f"top{k}{column}3", f"{column}0bottom{k}") for k, column in enumerate("ABCD")],
        "bottom": [(f"bottom{k}{column}0", f"{column}3top{k}") for k, column in enumerate("ABCD")],
    }
    exits = [leave for pairs in sides.values() for _, leave in pairs]
    found: dict[Pair, float] = {}
    for side, pairs in sides.items():
        for number, (enter, opposite) in enumerate(pairs):
            own = sides[{"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]][number][1]
            others = [leave for leave in exits if leave not in (opposite, own)]
            found[enter, opposite] = GRID_STRAIGHT * GRID_ENTRY_PER_H[side]
            for leave in others:
                found[enter, leave] = (1 - GRID_STRAIGHT) * GRID_ENTRY_PER_H[side] / len(others)
    return found


def arterial_pairs(count: int) -> dict[Pair, float]:
    """Vehicles an hour from edge to edge of the arterial."""
    last = count - 1
    ends = {"east": ("westJ0", f"J{last}east"), "west": (f"eastJ{last}", "J0west")}
    found: dict[Pair, float] = {ends[way]: per_h for way, per_h in MAIN_PER_H.items()}
    for k in range(count):
        for side, other in (("n", "s"), ("s", "n")):
            enter = f"{side}{k}J{k}"
            found[enter, f"J{k}{other}{k}"] = SIDE_PER_H * 2 / 3
            for way in ends:
                found[enter, ends[way][1]] = SIDE_PER_H / 6
                found[ends[way][0], f"J{k}{side}{k}"] = TURN_PER_H / 2
    return found


def write_trips(path: Path, pairs: dict[Pair, float], seed: int, seconds: int, scale: float = 1.0) -> int:
    """Write the trips of a seed; returns how many."""
    draw = random.Random(f"judge/{seed}")
    trips: list[tuple[float, str, str]] = []
    top = max(QUARTERS)
    for (enter, leave), per_h in sorted(pairs.items()):
        at = draw.expovariate(top * scale * per_h / 3600)
        while at < seconds:
            if draw.random() * top < QUARTERS[int(at // QUARTER_S) % len(QUARTERS)]:
                trips.append((at, enter, leave))
            at += draw.expovariate(top * scale * per_h / 3600)
    lines = [
        f'<trip id="{n}" depart="{at:.2f}" from="{enter}" to="{leave}" departLane="best" departSpeed="max"/>'
        for n, (at, enter, leave) in enumerate(sorted(trips))
    ]
    path.write_text(f"<routes>{''.join(lines)}</routes>")
    return len(lines)
