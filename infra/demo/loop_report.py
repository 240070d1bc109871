"""What a demo says of the loop: models, fleet, quality, wear and scenes; as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.demo.loop_view import DemoFleet, DemoModel
from infra.demo.model_quality import Interval, QualityComparison
from infra.demo.scenes import SceneResult


@dataclass(frozen=True)
class WearOutcome:
    """Many machines wear out at once: an alarm is right, learning it would be wrong.

    Attributes:
        devices: Machines that wear out.
        alarmed: Of these, machines that raised an alarm.
        alarms: Alarms that they raised.
        answers: What training runs since then were found to be, and their state.
        learnt: Whether a model was trained from it.
    """

    devices: int
    alarmed: int
    alarms: int
    answers: tuple[str, ...]
    learnt: bool

    @property
    def as_it_should(self) -> bool:
        """Alarms, and nothing learnt."""
        return self.alarms > 0 and not self.learnt


@dataclass(frozen=True)
class LoopReport:
    """The loop part of a demo's report.

    Attributes:
        old: Version before the drift.
        new: First version that the fleet got after it; empty: none.
        latest: Last version that was published.
        before: Quality of the old model before the drift.
        after: Old (in shadow) and new on the same windows after the commits.
        loop_s: Onset of the drift to the last device's commit, wall seconds; None: not all committed.
        loop_windows: The same in windows.
    """

    old: str
    new: str
    latest: str
    models: Sequence[DemoModel]
    fleet: DemoFleet
    before: Interval | None
    after: QualityComparison | None
    loop_s: float | None
    loop_windows: int | None
    wear: WearOutcome | None
    scenes: tuple[SceneResult, ...]

    def failures(self) -> list[str]:
        """What is not as it should be, each in a line; empty: all well."""
        found = []
        if not self.new:
            found.append("no model was published")
        if self.fleet.on_latest != self.fleet.total:
            found.append(
                f"{self.fleet.total - self.fleet.on_latest} devices do not run {self.latest or 'a new model'}"
            )
        if self.after is None or not self.after.is_better:
            found.append("the new model is not better, its interval clear of zero")
        if self.wear is not None and not self.wear.as_it_should:
            found.append(
                "the wear of many machines was learnt" if self.wear.learnt else "no alarm on the wear"
            )
        found += [f"scene: {scene.line()}" for scene in self.scenes if not scene.as_it_should]
        return found

    def to_json(self) -> dict[str, Any]:
        """Documented keys that the loop adds to `edgeloop demo --json`."""
        after = self.after
        return {
            "models": [model.to_json() for model in self.models],
            "devices": self.fleet.to_json(),
            "quality": {
                "measure": "1 - Brier score",
                "before_drift": None if self.before is None else self.before.to_json(),
                "old_after": None if after is None else after.old.to_json(),
                "new_after": None if after is None else after.new.to_json(),
                "gain": None if after is None else after.gain.to_json(),
                "windows": 0 if after is None else after.windows,
            },
            "loop_s": self.loop_s,
            "loop_windows": self.loop_windows,
            "wear": None
            if self.wear is None
            else {
                "devices": self.wear.devices,
                "alarmed": self.wear.alarmed,
                "alarms": self.wear.alarms,
                "answers": list(self.wear.answers),
                "learnt": self.wear.learnt,
            },
            "scenes": [
                {"title": s.title, "told": s.told, "runs": s.runs, "as_it_should": s.as_it_should}
                for s in self.scenes
            ],
            "loop_closed": not self.failures(),
        }

    def facts(self) -> dict[str, str]:
        """One line each for the end of the demo."""
        return {
            "models": ", ".join(f"{m.version} {m.status}{_gates(m)}" for m in self.models) or "none",
            "fleet": f"{self._on_latest()}; {self.fleet.restored} restored, "
            f"{self.fleet.refused_updates} updates refused",
            "loop": "not closed"
            if self.loop_s is None
            else f"{self.loop_s:.1f} s ({self.loop_windows} windows) from onset to the last device's commit",
            "quality": f"(1 - Brier) {self._quality()}",
            **({} if self.wear is None else {"wear": _wear(self.wear)}),
            **{f"scene {i + 1}": scene.line() for i, scene in enumerate(self.scenes)},
        }

    def _on_latest(self) -> str:
        if not self.latest:
            return f"none of {self.fleet.total} devices runs a new model"
        return f"{self.fleet.on_latest} of {self.fleet.total} devices run {self.latest}"

    def _quality(self) -> str:
        before = "n/a" if self.before is None else _interval(self.before)
        if self.after is None:
            return f"before the drift {before}; old and new never scored the same windows"
        gain = self.after.gain
        return (
            f"before the drift {before}; after it, on the same {self.after.windows:,} windows: old "
            f"{_interval(self.after.old)}, new {_interval(self.after.new)}; gain {gain.value:+.3f} "
            f"[{gain.low:+.3f}, {gain.high:+.3f}]"
        )


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _gates(model: DemoModel) -> str:
    failed = [gate for gate, passed in model.gates.items() if not passed]
    if failed:
        return f" ({', '.join(failed)} not passed)"
    return f" ({len(model.gates)} gates passed)" if model.gates else ""


def _wear(wear: WearOutcome) -> str:
    verdict = "LEARNT" if wear.learnt else "not learnt"
    answers = "; ".join(wear.answers) or "no verdict yet"
    return f"{wear.alarms} alarms on {wear.alarmed} of {wear.devices} worn machines; {verdict} ({answers})"
