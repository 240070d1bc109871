"""The report of `edgeloop model fit`: one self-contained page of HTML, and its facts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from infra.fitting.score_picture import score_picture
from infra.printing import count, share
from model_service import first_model
from schemas.instants import from_us

SHOWN_ALARMS = 25
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:.6em 0}td,th{border-bottom:1px solid #ccc;padding:.2em .8em .2em 0;
text-align:left;vertical-align:top}th{font-weight:600}.n{text-align:right}.best{background:#eef6ee}
svg{width:100%;font-size:11px}polyline{fill:none;stroke:#246;stroke-width:1}.enter{stroke:#b22;
stroke-dasharray:4 3}.alarm{fill:none;stroke:#b22;stroke-width:1.5}.test{fill:#f2f2f2}
.excluded{fill:#ddd}.faulty{fill:#f6dcb8}"""
_LEGEND = (
    "Red circles: alarms. Dashed: the threshold. Grey: the test part, which took no part in choosing or "
    "fitting. Darker grey: left out by you. Orange: labelled faults."
)


def fit_facts(fitted: first_model.FirstModel, budget: float) -> dict[str, Any]:
    """What the report says, as JSON values."""
    choice, outcome = fitted.choice, fitted.outcome
    return {
        "version": fitted.bundle.manifest.version,
        "detector": choice.kind.name,
        "settings": dict(choice.settings),
        "judged_by": choice.judged_by,
        "alarms_per_device_day": budget,
        "enter": choice.enter,
        "leave": choice.leave,
        "suspects": choice.suspects,
        "budget_counted": choice.threshold.counted,
        "tried": [
            {"detector": t.kind, "settings": dict(t.settings), "recall": t.recall, "failed": t.failed}
            for t in choice.trials
        ],
        "test": {
            "healthy_windows": outcome.healthy_windows,
            "device_days": outcome.device_days,
            "false_alarms": outcome.false_alarms,
            "labelled_windows": outcome.labelled_windows,
            "labelled_recall": outcome.labelled_recall,
            "generic_recall": {k: list(v) for k, v in outcome.generic_recall.items()},
        },
        "alarms": alarms(fitted.judged),
    }


def alarms(judged: first_model.JudgedHistory) -> list[dict[str, Any]]:
    """Each alarm that the model would have raised in the history."""
    return [
        {
            "device": judged.devices[judged.device[at]],
            "time": from_us(int(judged.end_us[at])).isoformat(),
            "score": round(float(judged.score[at]), 3),
            "part": "test" if judged.test[at] else "train",
            "labelled": bool(judged.faulty[at]),
            "excluded": bool(judged.excluded[at]),
        }
        for at in np.flatnonzero(judged.alarm)
    ]


def report_page(profile: str, source: str, fitted: first_model.FirstModel, budget: float) -> str:
    """The page."""
    choice = fitted.choice
    parts = [
        f"<h1>First model of {escape(profile)}</h1>",
        f"<p>{escape(fitted.bundle.manifest.version)}, fitted to {escape(source)}.</p>",
        f"<p>{escape(headline(fitted, budget))}</p>",
        score_picture(fitted.judged, choice.enter),
        f"<p>{_LEGEND}</p>",
        "<h2>What was tried</h2>",
        f"<p>{escape(_judged(choice.judged_by))}</p>",
        _table(["detector", "", "settings", "faults detected"], _trial_rows(fitted)),
        "<h2>On the test part</h2>",
        f"<p>{escape(test_sentence(fitted.outcome))}</p>",
        _table(["generic fault", "channel", "detected, from the smallest size on"], _fault_rows(fitted)),
        "<h2>Alarms in this history</h2>",
        _alarm_table(fitted),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>First model of {escape(profile)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def headline(fitted: first_model.FirstModel, budget: float) -> str:
    """What was chosen, and what its threshold rests on."""
    choice, threshold = fitted.choice, fitted.choice.threshold
    basis = (
        f"its own alarms in the history ({threshold.alarms} in {threshold.device_days:.3g} device-days)"
        if threshold.counted
        else f"the tail of its scores: {threshold.device_days:.3g} device-days are too few to count alarms"
    )
    named = " ".join(f"{name} {value:g}" for name, value in choice.settings.items())
    said = (
        f"Chosen: {choice.kind.name}{f' ({named})' if named else ''}, {choice.kind.says}. A score of "
        f"{choice.enter:.4g} alarms, for a budget of {budget:g} a device and day; that rests on {basis}."
    )
    if choice.suspects:
        said += (
            f" Left out of training as faults that nobody labelled: {count(choice.suspects, 'window')}. "
            "Label them, or leave them out with --exclude."
        )
    return said


def test_sentence(outcome: first_model.OutcomeOnTest) -> str:
    """What the model did on the part that it never saw."""
    said = (
        f"{count(outcome.false_alarms, 'false alarm')} in {count(outcome.healthy_windows, 'healthy window')} "
        f"({outcome.device_days:.3g} device-days)."
    )
    if outcome.generic_recall:
        said += f" Of the generic faults {share(outcome.mean_generic_recall)} are detected there."
    if outcome.labelled_recall is not None:
        said += (
            f" Of {count(outcome.labelled_windows, 'labelled window')} {share(outcome.labelled_recall)} "
            "score high."
        )
    return said


def _judged(by: str) -> str:
    how = (
        "by the faults that you labelled"
        if by == "labels"
        else "by generic faults, injected into your own windows"
    )
    return (
        f"Each was fitted to the first part of the training history and judged on the later one, {how}, "
        "at the threshold that keeps to the budget there."
    )


def _trial_rows(fitted: first_model.FirstModel) -> list[list[str]]:
    choice = fitted.choice
    rows = []
    for trial in choice.trials:
        chosen = (trial.kind, dict(trial.settings)) == (choice.kind.name, dict(choice.settings))
        named = ", ".join(f"{name} {value:g}" for name, value in trial.settings.items())
        says = "chosen" if chosen else ""
        rows.append([trial.kind, says, named, trial.failed or share(trial.recall)])
    return rows


def _fault_rows(fitted: first_model.FirstModel) -> list[list[str]]:
    rows = []
    for kind, shares in fitted.outcome.generic_recall.items():
        fault, _, channel = kind.partition(":")
        rows.append([fault.replace("_", " "), channel, ", ".join(share(s) for s in shares)])
    return rows


def _alarm_table(fitted: first_model.FirstModel) -> str:
    found = alarms(fitted.judged)
    if not found:
        return "<p>None.</p>"
    rows = [
        [
            a["device"],
            a["time"],
            f"{a['score']:.3g}",
            a["part"],
            "labelled fault" if a["labelled"] else "left out" if a["excluded"] else "",
        ]
        for a in found[:SHOWN_ALARMS]
    ]
    more = f"<p>And {len(found) - SHOWN_ALARMS} more.</p>" if len(found) > SHOWN_ALARMS else ""
    return _table(["device", "time", "score", "part", ""], rows) + more


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
