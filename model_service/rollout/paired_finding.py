"""What the paired windows of a phase show: of all its devices, and of each slice of them. Pure.

Slices are sites, hardware classes and regimes. A device is in the regime ``alarming`` where the old model
alarms on a fifth of its windows or more: it runs where the old model is wrong, or the machine is; else it is
``calm``. A slice needs two devices, and is judged where its dimension has more than one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_service.rollout.device_progress import DeviceProgress
from model_service.rollout.observed import GroupMember, PairedShadow
from model_service.rollout.paired_judge import ALPHA, GAINED, Measure, Pairs, measures
from model_service.rollout.paired_statistics import holm
from model_service.rollout.predicted_alarms import PredictedAlarms

ALARMING = 0.2
"""Share of a device's windows with an alarm of the old model from which it is in the regime ``alarming``."""
SLICE_DEVICES = 2


@dataclass(frozen=True)
class Slice:
    """One slice of the devices.

    Attributes:
        dimension: ``site``, ``hardware`` or ``regime``.
        worst: The measure that speaks most against the model.
        adjusted: Its p-value, corrected for all tests of all slices (Holm 1979).
    """

    dimension: str
    value: str
    devices: int
    worst: Measure
    adjusted: float = 1.0

    def numbers(self) -> dict[str, Any]:
        """As JSON values."""
        head = {"dimension": self.dimension, "slice": self.value}
        return {**head, **self.worst.numbers(), "devices": self.devices, "p": float(f"{self.adjusted:.3g}")}


@dataclass(frozen=True)
class PairedFinding:
    """What paired windows show.

    Attributes:
        measures: Of all devices.
        slices: Each with its worst measure.
        silent_about: Devices whose release counts no alarms gained and lost.
    """

    measures: tuple[Measure, ...] = ()
    slices: tuple[Slice, ...] = ()
    silent_about: tuple[str, ...] = field(default=())

    @property
    def harm(self) -> str:
        """What lies beyond the prediction, in words; empty: nothing does."""
        found = [f"{m.name}: {m.text}" for m in self.measures if m.answer == "harmful"]
        found += [
            f"{s.worst.name} at {s.dimension} {s.value or 'unknown'} ({s.devices} devices): {s.worst.text}"
            for s in self.slices
            if s.adjusted <= ALPHA
        ]
        return "; ".join(found)

    @property
    def open(self) -> str:
        """What neither harm nor its absence is shown of, in words; empty: nothing."""
        return "; ".join(f"{m.name}: {m.text}" for m in self.measures if m.answer == "open")

    @property
    def leans(self) -> str:
        """What is open and lies nearer to harm than to what was predicted, in words; empty: nothing."""
        return "; ".join(f"{m.name}: {m.text}" for m in self.measures if m.answer == "open" and m.leans)

    @property
    def suspect(self) -> str:
        """What a person should see at once, in words; empty: nothing."""
        return "; ".join(f"{m.name}: {m.text}" for m in self.measures if m.answer == "open" and m.suspect)

    @property
    def settled(self) -> str:
        """What is open and no longer soak decides, in words: recall is measured in trials alone."""
        return "; ".join(f"{m.name}: {m.text}" for m in self.measures if m.answer == "open" and not m.grows)

    @property
    def counts_alarms(self) -> bool:
        """Whether alarms gained were compared."""
        return any(m.name == GAINED and m.answer != "not_compared" for m in self.measures)

    def numbers(self) -> dict[str, Any]:
        """As JSON values: for evidence, events and the command line."""
        return {
            "measures": [m.numbers() for m in self.measures],
            "slices": [s.numbers() for s in self.slices],
            "counts_no_alarms": len(self.silent_about),
        }


def paired_finding(
    progress: Mapping[str, DeviceProgress],
    members: Mapping[str, GroupMember],
    predicted: PredictedAlarms | None,
) -> PairedFinding:
    """What the treated devices' comparisons show.

    Args:
        progress: How far each treated device is, with its comparisons.
        members: Site and hardware of each.
        predicted: What the gate predicted; None: nothing.
    """
    pairs = {d: s.paired for d, s in progress.items() if s.paired is not None}
    labelled = {d: s.labelled for d, s in progress.items() if s.labelled is not None}
    if not pairs:
        return PairedFinding()
    without = tuple(sorted(d for d, p in pairs.items() if p.alarms is None))
    return PairedFinding(
        tuple(measures(pairs, labelled, predicted)), _slices(pairs, labelled, members, predicted), without
    )


def regime(pair: PairedShadow) -> str:
    """Regime of a device, by how often the old model alarms on it; empty: it does not count that."""
    if pair.alarms is None:
        return ""
    return "alarming" if pair.alarms.old >= ALARMING * pair.windows else "calm"


def _slices(
    pairs: Pairs, labelled: Pairs, members: Mapping[str, GroupMember], predicted: PredictedAlarms | None
) -> tuple[Slice, ...]:
    tested: list[tuple[str, str, int, Measure]] = []
    for dimension, values in _dimensions(pairs, members).items():
        if len(values) < 2:
            continue  # the slice is the whole
        for value, devices in sorted(values.items()):
            if len(devices) >= SLICE_DEVICES:
                own = {d: pairs[d] for d in devices}
                known = {d: labelled[d] for d in devices if d in labelled}
                found = measures(own, known, predicted)
                tested += [(dimension, value, len(devices), m) for m in found if m.answer != "not_compared"]
    adjusted = holm([m.p for *_, m in tested])
    worst: dict[tuple[str, str], Slice] = {}
    for (dimension, value, number, measure), p in zip(tested, adjusted, strict=True):
        before = worst.get((dimension, value))
        if before is None or p < before.adjusted:
            worst[dimension, value] = Slice(dimension, value, number, measure, p)
    return tuple(worst.values())


def _dimensions(pairs: Pairs, members: Mapping[str, GroupMember]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {d: defaultdict(list) for d in ("site", "hardware", "regime")}
    for device, pair in pairs.items():
        found["site"][members[device].site].append(device)
        found["hardware"][members[device].hardware].append(device)
        if kind := regime(pair):
            found["regime"][kind].append(device)
    return found
