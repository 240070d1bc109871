"""`python -m benchmarks.judge.traffic.blocked_picture`: a picture of one approach that is blocked. As SVG.

One intersection of the generator in an afternoon; the model is the one that ships.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_producer.bundle import load_bundle
from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.traffic.intersection_sensors import CHANNELS, CHUNK_S, IntersectionSensors
from infra.verticals.traffic.traffic_factory import START
from model_service.models.features import profile_features
from model_service.models.mahalanobis import Mahalanobis
from schemas.profile_file import find_profile

Array = NDArray[np.float64]
PAGE_PICTURE = Path(__file__).parents[3] / "docs" / "verticals" / "traffic-run.svg"
AFTERNOON = 60
"""Quarter of an hour that begins at 15 h."""
BLOCKED_AT_S, SEED, DEVICE = 300, 11, "pictured"
LEFT, WIDE, HIGH, GAP = 60, 620, 120, 36


def pictured() -> tuple[dict[str, Array], float]:
    """Curves of a quarter of an hour by window, and the score at which an alarm may begin."""
    profile = find_profile("traffic")
    fault = Injection(kind="incident", start_s=AFTERNOON * CHUNK_S + BLOCKED_AT_S, channel="queue_n")
    sensors = IntersectionSensors.of(GeneratorRequest(SEED, DEVICE, 1.0, (fault,), 0.0, START))
    rows = sensors.block(AFTERNOON, CHUNK_S)[:, [CHANNELS.index(n) for n in profile.channel_names]]
    size, hop = profile.sampling.window_samples, profile.sampling.hop_samples
    windows = np.ascontiguousarray(np.moveaxis(sliding_window_view(rows, size, axis=0)[::hop], 2, 1))
    begin_us = int(START.timestamp() * 1e6) + AFTERNOON * CHUNK_S * 1_000_000
    ends_us = begin_us + (np.arange(len(windows)) * hop + size) * 1_000_000
    features = profile_features(profile, windows, ends_us)
    column = {name: features[:, at] for at, name in enumerate(profile.feature_names)}
    curves = {
        "vehicles, north": column["queue_n_queued_last"] - 1,
        "vehicles, south": column["queue_s_queued_last"] - 1,
        "discharge missing, north": column["green_ns_flow_n_queue_n_discharge"],
        "discharge missing, south": column["green_ns_flow_s_queue_s_discharge"],
        "score": Mahalanobis.of(load_bundle(profile).manifest).score(features),
    }
    return curves, profile.decision.alarm


def picture(curves: dict[str, Array], alarm: float) -> str:
    """Three panels over the quarter of an hour; the blocked approach is dark, the other grey."""
    names = list(curves)
    panels = (
        ("vehicles", names[:2]),
        ("share of the flow that is missing", names[2:4]),
        ("score", names[4:]),
    )
    height = 24 + len(panels) * (HIGH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDE + 20} {height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{LEFT}" y="14">The north approach is blocked at {BLOCKED_AT_S} s (red); '
        "grey: the south one, served by the same phase</text>",
    ]
    for number, (title, shown) in enumerate(panels):
        line = alarm if title == "score" else None
        parts += _panel(title, [curves[name] for name in shown], 24 + number * (HIGH + GAP), line)
    return "".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, each: list[Array], top: int, line: float | None) -> list[str]:
    most = max(1.0, *(float(values.max()) for values in each)) * 1.05
    onset = LEFT + WIDE * (BLOCKED_AT_S - 60) / (CHUNK_S - 60)
    parts = [
        f'<rect x="{LEFT}" y="{top}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#ccc"/>',
        f'<line x1="{onset:.1f}" x2="{onset:.1f}" y1="{top}" y2="{top + HIGH}" stroke="#c33"/>',
        f'<text x="{LEFT}" y="{top + HIGH + 14}">{title}, 60 to {CHUNK_S} s</text>',
        f'<text x="{LEFT - 6}" y="{top + 8}" text-anchor="end">{most:.2g}</text>',
    ]
    for values, colour in reversed(list(zip(each, ("#246", "#aaa"), strict=False))):
        step = WIDE / (len(values) - 1)
        points = " ".join(
            f"{LEFT + k * step:.1f},{top + HIGH * (1 - v / most):.1f}" for k, v in enumerate(values)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    if line is not None:
        y = top + HIGH * (1 - line / most)
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + WIDE}" y1="{y:.1f}" y2="{y:.1f}" stroke="#3a7"/>')
    return parts


if __name__ == "__main__":
    PAGE_PICTURE.write_text(picture(*pictured()), encoding="utf-8")
