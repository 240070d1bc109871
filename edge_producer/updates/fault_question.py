"""What a trial process is asked about faults: on which windows, against which model; or why it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_producer.golden_vectors import read_golden
from edge_producer.healthy_windows import KeptWindow
from edge_producer.inference import OnnxPredictor
from edge_producer.model_switch import ModelSwitch
from edge_producer.updates.fault_trial import LEAST_WINDOWS, NO_EFFECTS
from edge_producer.updates.slots import ModelSet, ModelSlots
from schemas.manifest import ANY_FEATURESET


@dataclass(frozen=True)
class FaultQuestion:
    """What a child needs to compare the new model with the one in force on superposed faults.

    Attributes:
        windows: Healthy ones of the device.
        active: Folder of the model in force.
        reference: The device's ``center`` and ``spread``, where that model is generic; else None.
    """

    windows: Sequence[KeptWindow]
    active: Path
    reference: Mapping[str, Sequence[float]] | None = None


def fault_question(
    device_id: str, wanted: ModelSet, slots: ModelSlots, switch: ModelSwitch, *, wide: bool
) -> FaultQuestion | str:
    """The question, or in a few words why there is none.

    Args:
        device_id: Whose windows they are.
        wanted: The set on trial.
        slots: The device's sets.
        switch: Has the model in force and the device's healthy windows.
        wide: Whether the profile has channels that float32 cannot hold.

    Raises:
        BundleError: The set on trial is altered.
    """
    bundle = slots.bundle(wanted)
    if read_golden(bundle.golden, bundle.manifest.version).effects is None:
        return NO_EFFECTS
    windows, active = switch.healthy.newest, switch.models.active
    if len(windows) < LEAST_WINDOWS:
        return f"{len(windows)} healthy windows of this device are kept, {LEAST_WINDOWS} are needed"
    held = slots.pointer().active
    if held.releases[slots.family].version != active.version:
        return f"{active.version} runs, which is not the set in force"
    if not isinstance(active, OnnxPredictor) or active.manifest.featureset != ANY_FEATURESET:
        return FaultQuestion(windows, slots.path(held))
    reference = _reference(active, device_id)
    if reference is None or wide:
        return "the generic model in force " + ("counts wide channels" if wide else "has learnt nothing yet")
    return FaultQuestion(windows, slots.path(held), reference)


def _reference(active: OnnxPredictor, device_id: str) -> Mapping[str, Sequence[float]] | None:
    known = active.reference(device_id)
    return None if known is None else {"center": known.center.tolist(), "spread": known.spread.tolist()}
