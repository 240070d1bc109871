"""What a right model changes on devices, measured on the gate's own rows: the live guard is held to it.

Both models score the same healthy rows: on some only the candidate alarms (gained), on some only the champion
(lost). The loss of recall is measured as devices measure it: known faults put over healthy rows of the regime
that the devices are in. Scores are counted in tenths, as devices count them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import HoldoutRows, PairedScores, Score
from model_service.gates.statistics import draws, share
from schemas.updates import SCORE_BINS

Array = NDArray[np.float64]
Json = dict[str, object]

KEY = "predicted"
"""Key of the prediction in the detail of the verdict on false alarms."""


def prediction(paired: PairedScores) -> Json | None:
    """The prediction as JSON values; None: there is no healthy row.

    ``old``, ``new``, ``gained`` and ``lost`` are shares of windows, each with a 95 % interval over devices
    and the number of independent windows that would show it as surely. ``recall`` is the mean loss over
    devices, with its spread; ``score`` and ``rise`` are the candidate's mean score, and by how much it lies
    above the champion's.
    """
    if not paired.present.any():
        return None
    rows = paired.holdout.healthy
    new, old = (_alarms(score, rows, paired) for score in (paired.candidate, paired.champion))
    events = {"old": old, "new": new, "gained": new & ~old, "lost": old & ~new}
    counts = draws(paired.present)
    shares = {name: _share(at, rows, counts, paired.devices) for name, at in events.items()}
    return {
        **shares,
        "recall": _recall(paired),
        **_scores(paired),
        "devices": int(paired.present.sum()),
    }


def _alarms(score: Score, rows: HoldoutRows, paired: PairedScores) -> NDArray[np.bool_]:
    return np.asarray(score(rows.features) >= paired.enter)


def _share(at: NDArray[np.bool_], rows: HoldoutRows, counts: Array, devices: int) -> Json:
    """A share of windows; rows stand for several windows each, and rows of one device resemble each other."""
    part = share(at.astype(np.float64), rows, devices)
    value, drawn = part.mean(), part.drawn(counts)
    low, high = (float(q) for q in np.nanquantile(drawn, (0.025, 0.975)))
    windows = float(len(rows.weights))
    if at.any():
        hit, spread = rows.weights[at], float(np.nanvar(drawn))
        windows = float(hit.sum() ** 2 / (hit**2).sum()) / value
        if spread > 0 and value < 1:
            windows = min(windows, value * (1 - value) / spread)
    return {"value": value, "low": low, "high": high, "windows": max(windows, 1.0)}


def _recall(paired: PairedScores) -> Json | None:
    """Loss of recall by device; None: no fault is known."""
    faults = paired.holdout.faults(paired.bank)
    losses = []
    for rows in (rows for severities in faults.values() for rows in severities):
        old, new = (_alarms(score, rows, paired) for score in (paired.champion, paired.candidate))
        part = share(old.astype(np.float64) - new, rows, paired.devices)
        with np.errstate(invalid="ignore", divide="ignore"):
            losses.append(part.sums / part.mass)
    if not losses:
        return None
    table = np.array(losses)
    return _over_devices(np.nanmean(table[:, ~np.isnan(table).all(axis=0)], axis=0))


def _scores(paired: PairedScores) -> Json:
    """Mean score of the candidate, and its rise above the champion's, on healthy rows that both score."""
    rows = paired.holdout.healthy
    new, old = (np.asarray(score(rows.features), np.float64) for score in (paired.candidate, paired.champion))
    both = np.isfinite(new) & np.isfinite(old)
    if not both.any():
        return {"score": None, "rise": None}
    rows = HoldoutRows(rows.features[both], rows.weights[both], rows.device[both])
    new, old = (
        (np.clip(np.floor(s[both] * SCORE_BINS), 0, SCORE_BINS - 1) + 0.5) / SCORE_BINS for s in (new, old)
    )
    found: Json = {}
    for name, values in (("score", new), ("rise", new - old)):
        part = share(values, rows, paired.devices)
        seen = part.mass > 0
        found[name] = _over_devices(part.sums[seen] / part.mass[seen])
    return found


def _over_devices(own: Array) -> Json:
    """Mean and spread of one number a device, shape (devices,)."""
    spread = float(np.std(own, ddof=1)) if len(own) > 1 else 0.0
    return {"value": float(own.mean()), "spread": spread, "devices": len(own)}
