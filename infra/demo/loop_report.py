"""The loop's part of a demo's report: models, fleet, quality, wear and scenes; as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.demo.loop_view import DemoFleet, DemoModel
from infra.demo.scenes import SceneResult
from infra.printing import UNKNOWN, count, seconds
from model_service import paired_quality
from schemas.output_names import PRIMARY


@dataclass(frozen=True)
class WearOutcome:
    """The wear of many devices at once: alarms are right, and a model trained from it would be wrong.

    Attributes:
        noun: What the devices are, in the plural.
        devices: Those that wear out.
        alarmed: Of these, those that raised an alarm.
        alarms: Alarms that they raised.
        answers: Cause and state of each training run since then.
        learnt: Whether a model was trained from it.
    """

    noun: str
    devices: int
    alarmed: int
    alarms: int
    answers: tuple[str, ...]
    learnt: bool

    @property
    def as_it_should(self) -> bool:
        """Whether there were alarms, and nothing was learnt."""
        return self.alarms > 0 and not self.learnt


@dataclass(frozen=True)
class LoopReport:
    """The loop part of a demo's report.

    Attributes:
        old: Version before the drift.
        new: First version that was published after it; empty: none.
        latest: Last version that was published; empty: none.
        before: Quality of the old model before the drift.
        after: Old (in shadow) and new on the same windows after the commits; None: no such windows.
        loop_s: Seconds from the onset of the drift, by its verdict, to the last device's commit, as `rollout
            status` shows it; None: not all committed.
        loop_windows: The same in windows.
        waiting: Rollouts that wait for a person, each with the reason.
        outputs: Columns of the outputs that quality is measured on.
    """

    old: str
    new: str
    latest: str
    models: Sequence[DemoModel]
    fleet: DemoFleet
    before: paired_quality.Interval | None
    after: paired_quality.QualityComparison | None
    loop_s: float | None
    loop_windows: int | None
    wear: WearOutcome | None
    scenes: tuple[SceneResult, ...]
    waiting: tuple[str, ...] = ()
    outputs: tuple[str, ...] = (PRIMARY,)

    def failures(self) -> list[str]:
        """One line for each thing that is not as it should be; empty: all is well."""
        found = []
        if not self.new:
            found.append("no model was published")
        if self.fleet.on_latest != self.fleet.total:
            missing = count(self.fleet.total - self.fleet.on_latest, "device")
            found.append(f"not on {self.latest or 'a new model'}: {missing}")
            found += [f"{text} (`edgeloop rollout status`)" for text in self.waiting]
        if self.after is None or not self.after.is_better:
            found.append("the new model is not shown to be better: the interval of its gain includes zero")
        if self.wear is not None and not self.wear.as_it_should:
            found.append(
                f"a model learnt the wear of many {self.wear.noun}"
                if self.wear.learnt
                else f"the wear of many {self.wear.noun} raised no alarm"
            )
        found += [f"scene: {scene.line()}" for scene in self.scenes if not scene.as_it_should]
        return found

    def to_json(self) -> dict[str, Any]:
        """The documented keys that the loop adds to `edgeloop demo --json`."""
        after = self.after
        return {
            "models": [model.to_json() for model in self.models],
            "devices": self.fleet.to_json(),
            "quality": {
                "measure": "1 - Brier score",
                "outputs": list(self.outputs),
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
                {"title": s.title, "told": s.reported, "runs": s.runs, "as_it_should": s.as_it_should}
                for s in self.scenes
            ],
            "loop_closed": not self.failures(),
        }

    def facts(self) -> dict[str, str]:
        """One line a topic, for the end of the demo."""
        return {
            "models": ", ".join(f"{m.version} {m.status}{_gates(m)}" for m in self.models) or "none",
            "fleet": f"{self._on_latest()}; {count(self.fleet.restored)} restored, "
            f"{count(self.fleet.refused_updates, 'update')} refused",
            "loop": "not closed"
            if self.loop_s is None
            else f"{seconds(self.loop_s)} ({count(self.loop_windows, 'window')}) from onset to last commit",
            "quality": f"(1 - Brier{_named(self.outputs)}) {self._quality()}",
            **({} if self.wear is None else {"wear": _wear(self.wear)}),
            **{f"scene {i + 1}": scene.line() for i, scene in enumerate(self.scenes)},
        }

    def _on_latest(self) -> str:
        total = count(self.fleet.total, "device")
        if not self.latest:
            return f"none of {total} runs a new model"
        return f"{count(self.fleet.on_latest)} of {total} run {self.latest}"

    def _quality(self) -> str:
        before = UNKNOWN if self.before is None else _interval(self.before)
        if self.after is None:
            return f"before the drift {before}; old and new model never scored the same windows"
        gain = self.after.gain
        return (
            f"before the drift {before}; after it, on the same {count(self.after.windows, 'window')}: old "
            f"{_interval(self.after.old)}, new {_interval(self.after.new)}; gain {gain.value:+.3f} "
            f"[{gain.low:+.3f}, {gain.high:+.3f}]"
        )


def _named(outputs: Sequence[str]) -> str:
    """Which outputs quality is of, where they are not the score."""
    return "" if tuple(outputs) == (PRIMARY,) else f" of {', '.join(outputs)}"


def _interval(found: paired_quality.Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _gates(model: DemoModel) -> str:
    failed = [gate for gate, passed in model.gates.items() if not passed]
    if failed:
        return f" ({', '.join(failed)} not passed)"
    return f" ({count(len(model.gates), 'gate')} passed)" if model.gates else ""


def _wear(wear: WearOutcome) -> str:
    learnt = "LEARNT" if wear.learnt else "not learnt"
    answers = "; ".join(wear.answers) or "no verdict yet"
    alarms = count(wear.alarms, "alarm")
    devices = f"{count(wear.alarmed)} of {count(wear.devices)} worn {wear.noun}"
    return f"{alarms} on {devices}; {learnt} ({answers})"
