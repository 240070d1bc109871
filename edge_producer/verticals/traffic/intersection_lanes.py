"""How many lanes an intersection's phases have: a file that the variable ``TRAFFIC_LANES`` names.

It is JSON, by intersection and phase: ``{"x-1": {"ew": 4}}``. What it does not name is as shipped. Flow and
queue of a wider phase and of its approaches come as those of the shipped width would be, that is divided by
``widths``: so the model sees what a lane does, and the decision counts all lanes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.verticals.traffic.junction import LANE_SATURATION, Junction
from schemas.verticals.traffic.standard_junction import NAMES, standard_junction

VARIABLE = "TRAFFIC_LANES"
MOST_LANES = 16


@dataclass(frozen=True, slots=True)
class IntersectionLanes:
    """One intersection.

    Attributes:
        junction: Its phases, with the saturation flows of their lanes.
        widths: Lanes of each phase as a share of those shipped.
    """

    junction: Junction
    widths: tuple[float, ...]


def lanes_of(device_id: str, environment: Mapping[str, str] = os.environ) -> IntersectionLanes:
    """The lanes of one intersection; those shipped where nothing else is said.

    Raises:
        ValueError: The file cannot be read, or is none of lanes; the text says what to correct.
    """
    junction = standard_junction()
    own = _own(device_id, environment[VARIABLE]) if environment.get(VARIABLE) else {}
    shipped = [round(phase.saturation / LANE_SATURATION) for phase in junction.phases]
    widths = tuple(own.get(name, lanes) / lanes for name, lanes in zip(NAMES, shipped, strict=True))
    phases = tuple(
        replace(p, saturation=p.saturation * width) for p, width in zip(junction.phases, widths, strict=True)
    )
    return IntersectionLanes(replace(junction, phases=phases), widths)


def _own(device_id: str, path: str) -> dict[str, int]:
    try:
        found: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        raise ValueError(f"lanes {path}: {exc}: correct the file that {VARIABLE} names") from exc
    own = found.get(device_id, {}) if isinstance(found, dict) else None
    if not isinstance(own, dict) or any(name not in NAMES or not _is_count(n) for name, n in own.items()):
        raise ValueError(
            f"lanes {path}: {device_id} needs a whole number from 1 to {MOST_LANES} by phase "
            f"({', '.join(NAMES)}): correct the file that {VARIABLE} names"
        )
    return {name: int(n) for name, n in own.items()}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_LANES
