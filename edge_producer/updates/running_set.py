"""The models that one device runs now, and the earlier sets that it can return to without a network."""

from __future__ import annotations

import logging

from edge_producer.model_switch import ActiveModels, ModelSwitch, Observer
from edge_producer.updates.loaded_models import LoadedModels
from edge_producer.updates.slots import ModelSet, ModelSlots
from edge_producer.window import Predictor
from schemas.errors import BundleError, SpoolError

log = logging.getLogger(__name__)


class RunningSet:
    """One device's switch, and the sets behind it. Used by one thread; the switch by the sensing loop too.

    Args:
        device_id: Named in logs.
        slots: The device's sets.
        loaded: Loads them.
        switch: What the sensing loop reads already; None: it is made with the first models.
    """

    def __init__(
        self, device_id: str, slots: ModelSlots, loaded: LoadedModels, switch: ModelSwitch | None = None
    ) -> None:
        self._device_id = device_id
        self._slots = slots
        self._loaded = loaded
        self._retired: list[ActiveModels] = []
        self._switch = switch

    @property
    def switch(self) -> ModelSwitch:
        """What the sensing loop reads."""
        if self._switch is None:
            raise ValueError("no models have been set")
        return self._switch

    @property
    def models(self) -> ActiveModels:
        """What runs from the next window on."""
        return self.switch.models

    def run(self, models: ActiveModels) -> None:
        """Have these models run from the next window on."""
        if self._switch is None:
            self._switch = ModelSwitch(models)
            return
        # Kept until the sensing loop has moved on: it must not be the one that frees a session.
        self._retired.append(self._switch.models)
        self._switch.models = models

    def set_observer(self, observer: Observer | None) -> None:
        """Run the same models with another observer, or with none."""
        self.run(ActiveModels(self.models.active, self.models.shadow, observer))

    def release_retired(self) -> None:
        """Free earlier models that the sensing loop no longer uses."""
        if self.switch.in_use is self.switch.models:
            self._retired.clear()

    def earlier_model(self) -> Predictor | None:
        """The newest earlier model that still loads; None where there is none."""
        now = self._slots.pointer()
        for candidate in (*now.previous, self._slots.factory):
            if candidate != now.active:
                try:
                    return self._loaded.get(self._slots, candidate)
                except BundleError as exc:
                    self._note("an earlier set cannot be loaded", exc)
        return None

    def step_back(self) -> tuple[ModelSet, bool]:
        """Run the newest earlier set that loads, at once; the pointer is not touched. Idempotent.

        Returns:
            The set, and whether only the factory set was left because others are damaged.

        Raises:
            SpoolError: No set loads.
        """
        damaged = False
        for candidate in self._slots.candidates():
            try:
                active = self._loaded.get(self._slots, candidate)
            except BundleError as exc:
                self._note("a set cannot be restored", exc)
                damaged = True
                continue
            if self._switch is None or self._switch.models.active is not active:
                self.run(ActiveModels(active))
            return candidate, damaged and candidate == self._slots.factory
        raise SpoolError(f"{self._device_id}: no set of models can be loaded, not even the factory's")

    def _note(self, what: str, error: BundleError) -> None:
        log.error("%s: %s", what, error, extra={"device_id": self._device_id})
