"""Writes `pump.csv`: 2,000 rows of a synthetic pump, seeded, with the flaws that real files have.

python examples/make_pump.py
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

ROWS = 2000
STEP_S = 10
START = datetime(2025, 9, 8, 6, 0)  # noqa: DTZ001  (local wall clock time, as loggers write it)
CAVITATION = slice(1400, 1440)
DAMAGED_CELLS = {(250, 0): "", (251, 0): "", (600, 1): "n/a", (777, 2): "6553,5", (1201, 1): ""}


def lines() -> list[str]:
    """Header and rows: semicolons, decimal commas, day first; one duplicate, one gap, five odd cells."""
    rng = np.random.default_rng(2025)
    t = np.arange(ROWS) * STEP_S
    demand = 0.5 + 0.05 * np.sin(2 * np.pi * t / 5400) + 0.02 * rng.normal(size=ROWS)
    pressure = 6.0 - 1.2 * demand + 0.03 * rng.normal(size=ROWS)
    flow = 42.0 * demand + 0.4 * rng.normal(size=ROWS)
    current = 8.0 + 9.0 * demand + 0.1 * rng.normal(size=ROWS)
    pressure[CAVITATION] -= 2.5 + 0.4 * rng.normal(size=40)
    flow[CAVITATION] *= 0.4
    values = np.column_stack([pressure, flow, current])
    rows = []
    for i, row in enumerate(values):
        shift = timedelta(minutes=20 if i >= 1000 else 0)
        time = START + timedelta(seconds=int(t[i])) + shift
        cells = [DAMAGED_CELLS.get((i, c), f"{value:.3f}".replace(".", ",")) for c, value in enumerate(row)]
        rows.append(";".join([time.strftime("%d.%m.%Y %H:%M:%S"), *cells, "auto"]))
    rows[500] = rows[499]
    return ["time;pressure [bar];flow [m3/h];motor current [A];mode", *rows]


if __name__ == "__main__":
    Path(__file__).with_name("pump.csv").write_text("\n".join(lines()) + "\n", encoding="utf-8")
