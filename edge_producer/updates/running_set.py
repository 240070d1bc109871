"""What one device runs now, and what it can go back to without asking anybody."""

from __future__ import annotations

import logging

from edge_producer.model_switch import ActiveModels, ModelSwitch, Observer
from edge_producer.updates.loaded_models import LoadedModels
from edge_producer.updates.slots import ModelSet, ModelSlots
from edge_producer.window import Predictor
from schemas.errors import BundleError, SpoolError

log = logging.getLogger(__name__)


class RunningSet:
    """One device's seat, and the sets behind it. Used by one thread; the seat by the sensing loop too.

    Args:
        device_id: Named in logs.
        slots: Its sets.
        models: Loads them.
    """

    def __init__(self, device_id: str, slots: ModelSlots, models: LoadedModels) -> None:
        self._device_id = device_id
        self._slots = slots
        self._models = models
        self._retired: list[ActiveModels] = []
        self._seat: ModelSwitch | None = None

    @property
    def seat(self) -> ModelSwitch:
        """What the sensing loop reads."""
        if self._seat is None:
            raise ValueError("nobody sits yet")
        return self._seat

    @property
    def lineup(self) -> ActiveModels:
        """What runs from the next window on."""
        return self.seat.lineup

    def put(self, lineup: ActiveModels) -> None:
        """Have a lineup run from the next window on."""
        if self._seat is None:
            self._seat = ModelSwitch(lineup)
            return
        # Kept until the sensing loop has moved on: it must not be the one that frees a session.
        self._retired.append(self._seat.lineup)
        self._seat.lineup = lineup

    def observe(self, observer: Observer | None) -> None:
        """Have the same models run on, seen by another observer."""
        self.put(ActiveModels(self.lineup.active, self.lineup.shadow, observer))

    def free(self) -> None:
        """Let go of lineups that the sensing loop has left."""
        if self.seat.taken is self.seat.lineup:
            self._retired.clear()

    def earlier(self) -> Predictor | None:
        """The model before this one, if it still loads."""
        now = self._slots.pointer()
        for candidate in (*now.previous, self._slots.factory):
            if candidate != now.active:
                try:
                    return self._models.get(self._slots, candidate)
                except BundleError:
                    log.exception("an earlier set cannot be loaded", extra={"device_id": self._device_id})
        return None

    def step_back(self) -> tuple[ModelSet, bool]:
        """Have the newest earlier set that loads run, at once; the pointer is not touched. Idempotent.

        Returns:
            The set; and whether only the factory set was left because others are damaged.

        Raises:
            SpoolError: There is none.
        """
        damaged = False
        for candidate in self._slots.candidates():
            try:
                active = self._models.get(self._slots, candidate)
            except BundleError:
                log.exception("a set cannot be restored", extra={"device_id": self._device_id})
                damaged = True
                continue
            if self._seat is None or self._seat.lineup.active is not active:
                self.put(ActiveModels(active))
            return candidate, damaged and candidate == self._slots.factory
        raise SpoolError(f"{self._device_id}: no set of models can be loaded, not even the factory's")
