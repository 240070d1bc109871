"""One fleet under every policy, as a line of a journal: a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.learning import plain_policies
from benchmarks.learning.fleet_story import CELLS, FleetStory, machine_story
from benchmarks.learning.prequential_cost import block_costs, span_cost
from benchmarks.learning.pump_story import pump_story
from benchmarks.learning.simulated_loop import LoopHistory, SimulatedLoop
from model_service.training.lineage import code_version

FOLLOWING = 300
"""Most windows after a release in which its model is compared with the one before it."""

_MODULES = (
    "fleet_outcome",
    "fleet_story",
    "memory_lake",
    "plain_policies",
    "prequential_cost",
    "pump_story",
    "sensed_periods",
    "simulated_loop",
)
"""Modules of this package that an outcome depends on."""


class FleetOutcome(NamedTuple):
    """What each policy cost a fleet, and what the loop did.

    Attributes:
        costs: By policy, one number a block; ``calendar`` has a list of phases.
        releases: Per model of the loop that reached the fleet: its cost in the following period, and that of
            the model before it on the same windows.
        late: Models that were signed too late to reach the fleet.
        waits: Windows from the newest change to each signature.
        states: State of each run, with its cause.
        retrains: By policy.
    """

    cell: str
    seed: int
    costs: dict[str, Any]
    releases: list[list[float]]
    late: int
    waits: list[int]
    states: list[str]
    refused: list[str]
    verdicts: int
    retrains: dict[str, int]


def simulated_story(cell: str, seed: int) -> FleetStory:
    """The story of a cell of machines or pumps."""
    return machine_story(cell, seed) if cell in CELLS else pump_story(cell, seed)


def outcome_of(story: FleetStory) -> FleetOutcome:
    """A fleet under every policy."""
    history = SimulatedLoop(story).run()
    shipped = [m for m in history.models if m.first < story.windows]
    ours = len(shipped) - 1
    plain = {
        "never": plain_policies.never(story),
        "always": plain_policies.always(story),
        "adwin": plain_policies.at_alarms(story),
    }
    costs: dict[str, Any] = {name: block_costs(story, m).tolist() for name, m in plain.items()}
    costs["ours"] = block_costs(story, shipped).tolist()
    costs["calendar"] = (
        [block_costs(story, m).tolist() for m in plain_policies.calendars(story, ours)] if ours else []
    )
    retrains = {name: len(m) - 1 for name, m in plain.items()} | {"ours": ours}
    return FleetOutcome(
        story.cell,
        story.seed,
        costs,
        list(_releases(story, history)),
        len(history.models) - len(shipped),
        [_since_change(story, window) for window in history.signed],
        [f"{r.state}: {r.finding.kind if r.finding else '-'}" for r in history.runs],
        history.refused,
        history.verdicts,
        retrains,
    )


def _releases(story: FleetStory, history: LoopHistory) -> Iterator[list[float]]:
    models = history.models
    for number, model in enumerate(models[1:], 1):
        after = models[number + 1].first if number + 1 < len(models) else story.windows
        end = min(after, model.first + FOLLOWING, story.windows)
        if end > model.first:
            before = models[number - 1].score
            yield [span_cost(story, s, model.first, end) for s in (model.score, before)]


def _since_change(story: FleetStory, window: int) -> int:
    """Windows since the newest change; -1: there was none."""
    return min((window - c for c in story.changed if c <= window), default=-1)


def journalled(
    journal: Path | None,
    wanted: Iterable[tuple[str, int]],
    told: Callable[[str], None],
    make: Callable[[str, int], FleetStory] = simulated_story,
    *,
    known_only: bool = False,
) -> list[FleetOutcome]:
    """Outcomes of the fleets, those of the journal read and the others made and added to it.

    Args:
        journal: One JSON object a line; a line of other code is not used. None: nothing is kept.
        wanted: Cell and seed of each fleet.
        told: Told each fleet that is made.
        make: Makes a fleet's story.
        known_only: Leave out fleets that the journal does not hold.
    """
    code = _code()
    known = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal and journal.is_file() else ():
        raw = json.loads(line)
        if raw.pop("code") == code:
            known[raw["cell"], raw["seed"]] = FleetOutcome(**raw)
    found = []
    for cell, seed in wanted:
        if (cell, seed) not in known and known_only:
            continue
        if (cell, seed) not in known:
            told(f"{cell} #{seed}")
            known[cell, seed] = outcome_of(make(cell, seed))
            if journal is not None:
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[cell, seed]._asdict() | {"code": code}) + "\n")
        found.append(known[cell, seed])
    return found


def _code() -> str:
    """Version of all code that an outcome depends on."""
    digest = hashlib.sha256(code_version().encode())
    root = Path(__file__).parents[2]
    for folder in ("stream_processors/drift", "model_service/gates"):
        for path in sorted((root / folder).glob("*.py")):
            digest.update(path.read_bytes())
    for name in _MODULES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]
