"""Rows of `edgeloop rollout status` on what a rollout brought: its gain and its loop times."""

from __future__ import annotations

from typing import Any

from infra.printing import UNKNOWN, count, seconds, share

_STAGES = {
    "verdict": "from the drift's onset to its first verdict",
    "run": "to the start of the training run",
    "trained": "to the trained model",
    "gated": "to its last gate",
    "published": "to its publication",
    "started": "to the start of the rollout",
    "first_device": "to the first device that keeps it",
    "last_device": "to the last one so far",
    "ended": "to the end of the rollout",
}


def outcome_rows(outcome: dict[str, Any]) -> list[list[object]]:
    """What, its value and what it means, one row each.

    Args:
        outcome: As ``model_service.rollout.release_outcomes`` stores it.
    """
    rows: list[list[object]] = [["loop", seconds(outcome["loop_s"]) or UNKNOWN, _loop_text(outcome)]]
    rows += [[name, seconds(took), _STAGES[name]] for name, took in outcome["stages_s"].items()]
    return rows + _gain_rows(outcome)


def _loop_text(outcome: dict[str, Any]) -> str:
    if outcome["loop_s"] is None:
        return "no device keeps the model"
    began = next(name for name, at in outcome["times"].items() if at is not None)
    return f"from {_BEGAN.get(began, began)} to the last device that keeps the model"


_BEGAN = {"onset": "the drift's onset", "run": "the training run", "started": "the start of the rollout"}


def _gain_rows(outcome: dict[str, Any]) -> list[list[object]]:
    """Rows on the gain; where labels are missing, what can be said without them."""
    gain = outcome["gain"]
    if gain is None:
        why = "not measured yet" if outcome["readable"] else "the lake could not be read; it is tried again"
        return [["gain", UNKNOWN, why]]
    same = f"both on the same {count(gain['windows'], 'window')} of {count(gain['devices'], 'device')}"
    if gain["gain"] is None:
        rows: list[list[object]] = [["gain", gain["basis"], f"no label covers them; {same}"]]
    else:
        low, high = gain["gain"]["low"], gain["gain"]["high"]
        text = f"95 % interval {low:+.3f} to {high:+.3f}, 1 - Brier score by labels; {same}"
        rows = [["gain", f"{gain['gain']['value']:+.3f}", text]]
    champion, released = gain["champion"], gain["released"]
    for name, text in (("recall", "of windows in a fault"), ("precision", "of windows in alarm")):
        if champion[name] is not None and released[name] is not None:
            rows.append([name, share(released[name]), f"{text}; champion {share(champion[name])}"])
    if released["share"] is not None:
        rows.append(["alarms", share(released["share"]), f"of windows; champion {share(champion['share'])}"])
    if gain["agreement"] is not None:
        rows.append(["agreement", share(gain["agreement"]), "of these windows at most"])
    if gain["allowed"] is not None:
        rows.append(["allowed", f"{gain['allowed']:g}", "alarms per device-day, by the profile"])
    return rows
